# SPDX-License-Identifier: Apache-2.0
"""Answers that take long to write are written in a thread, so that others are answered meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ovms_mp.front.service import Service
    from ovms_mp.front.tensors import ResultTensor

AnswerT = TypeVar("AnswerT")

_LARGE_BYTES = 1 << 20
"""Outputs beyond this take several milliseconds to become text."""


def is_large(outputs: Sequence[ResultTensor]) -> bool:
    """Whether the outputs are worth a thread."""
    return sum([output.data.nbytes for output in outputs]) > _LARGE_BYTES


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
