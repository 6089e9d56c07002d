# SPDX-License-Identifier: Apache-2.0
"""What grpcio's server may not write into the log."""

from __future__ import annotations

import logging
import sys

import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # the stubs have public names only

from ovms_mp.front.grpc.grpcio import is_no_ended_call


def record_of(error: Exception) -> logging.LogRecord:
    try:
        raise error
    except Exception:
        return logging.LogRecord("grpc", logging.ERROR, "", 0, "%s", (error,), sys.exc_info())


def test_a_call_that_ended_while_its_status_was_written_is_no_error() -> None:
    assert not is_no_ended_call(record_of(cygrpc.ExecuteBatchError("Failed")))


@pytest.mark.parametrize("error", [cygrpc.UsageError("raised"), ValueError("raised")])
def test_all_else_is_logged(error: Exception) -> None:
    assert is_no_ended_call(record_of(error))


def test_lines_without_error_are_logged() -> None:
    assert is_no_ended_call(logging.LogRecord("grpc", logging.ERROR, "", 0, "text", (), None))
