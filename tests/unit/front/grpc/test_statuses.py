# SPDX-License-Identifier: Apache-2.0
"""Failures as gRPC statuses, for both transports."""

from __future__ import annotations

from ovms_mp.errors import INTERNAL_ERROR_TEXT, Code, ModelNotFound
from ovms_mp.front.grpc.statuses import LONGEST_TEXT, status_of


def test_a_failure_has_its_code_and_text() -> None:
    assert status_of(ModelNotFound("no m"), "/s/M", "") == (Code.NOT_FOUND, "no m")


def test_a_defect_is_internal() -> None:
    assert status_of(ValueError("x"), "/s/M", "") == (Code.INTERNAL, INTERNAL_ERROR_TEXT)


def test_a_text_is_as_long_as_clients_receive() -> None:
    whole, cut = "m" * LONGEST_TEXT, "m" * (LONGEST_TEXT + 1)

    assert status_of(ModelNotFound(whole), "", "")[1] == whole
    text = status_of(ModelNotFound(cut), "", "")[1]
    assert (len(text), text[-4:]) == (LONGEST_TEXT, "m...")
