# SPDX-License-Identifier: Apache-2.0
"""What grpcio's server may not write into the log, and streams whose client has left."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Any

import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # the stubs have public names only

from ovms_mp.errors import CallCancelled
from ovms_mp.front.budget import BodyBudget
from ovms_mp.front.gathered import Gathered
from ovms_mp.front.grpc.grpcio import GrpcioStream, is_no_ended_call

from ..workers import context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


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


class EndedCall:
    """grpcio's call, where the client has left."""

    async def write(self, message: bytes) -> None:
        raise cygrpc.ExecuteBatchError("Failed")


async def one_message() -> AsyncIterator[bytes]:
    yield b"a"


def test_a_client_that_leaves_is_no_defect_and_its_answer_is_released() -> None:
    released: list[bool] = []
    call: Any = EndedCall()  # Any: it has the one method that is called.
    stream = GrpcioStream(one_message(), call, 1, BodyBudget(1).share(), context())
    with pytest.raises(CallCancelled, match="the client has left"):
        asyncio.run(stream.send(Gathered([b"a"], lambda: released.append(True))))
    assert released == [True]
