# SPDX-License-Identifier: Apache-2.0
"""Answers that take long to write are written in a thread, so that others are answered meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from ovms_mp.front.strings import MOST_AT_ONCE, MOST_BYTES_AT_ONCE
from ovms_mp.model.dtypes import DType, element_count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ovms_mp.front.service import Service
    from ovms_mp.front.tensors import ResultTensor

AnswerT = TypeVar("AnswerT")

_LARGE_BYTES = 1 << 20
"""Outputs beyond this take several milliseconds to become text."""


def is_large(outputs: Sequence[ResultTensor]) -> bool:
    """Whether the outputs are worth a thread to become text."""
    return sum([output.data.nbytes for output in outputs]) > _LARGE_BYTES or has_long_strings(outputs)


def has_long_strings(outputs: Sequence[ResultTensor]) -> bool:
    """Whether there are strings among the outputs that are worth a thread in any form. PERF: 0.1 us an output."""
    for output in outputs:
        if output.dtype is DType.BYTES and (
            output.data.nbytes > MOST_BYTES_AT_ONCE or element_count(output.shape) > MOST_AT_ONCE
        ):
            return True
    return False


def encode_aside(
    service: Service, outputs: Sequence[ResultTensor], encode: Callable[[], AnswerT]
) -> asyncio.Future[AnswerT]:
    """Encode in a thread; the leases are held until it has ended.

    A thread goes on when its client gives up; what it reads must not be given to others before it has ended. So whoever
    waits for the answer shields it from being cancelled.
    """
    holds = [service.hold(output.lease) for output in outputs if output.lease is not None]
    future = asyncio.get_running_loop().run_in_executor(None, encode)

    def let_go(ended: asyncio.Future[AnswerT]) -> None:
        if not ended.cancelled():
            ended.exception()  # The client may have left; nobody need be told then.
        for release in holds:
            release()

    future.add_done_callback(let_go)
    return future
