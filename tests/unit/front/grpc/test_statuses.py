# SPDX-License-Identifier: Apache-2.0
"""Failures as gRPC statuses, for both transports."""

from __future__ import annotations

from ovms_mp.errors import ModelNotFound
from ovms_mp.front.grpc.statuses import LONGEST_TEXT, status_text


def test_a_text_is_as_long_as_clients_receive() -> None:
    whole, cut = "m" * LONGEST_TEXT, "m" * (LONGEST_TEXT + 1)

    assert status_text(ModelNotFound(whole)) == whole
    text = status_text(ModelNotFound(cut))
    assert (len(text), text[-4:]) == (LONGEST_TEXT, "m...")
