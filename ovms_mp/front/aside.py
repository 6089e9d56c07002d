# SPDX-License-Identifier: Apache-2.0
"""Work of a request in a thread, so that others are answered meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor
    from typing import Unpack

ResultT = TypeVar("ResultT")
ArgumentsT = TypeVarTuple("ArgumentsT")


async def run_aside(function: Callable[[Unpack[ArgumentsT]], ResultT], *arguments: *ArgumentsT) -> ResultT:
    """Run a function in a thread. PERF: 70 us of processor time more than calling it.

    A caller that is cancelled hears of it when the function has ended: what it has lent the function stays until then.
    """
    return await _outlasted(asyncio.get_running_loop().run_in_executor(None, function, *arguments))


async def run_in(
    threads: ThreadPoolExecutor, function: Callable[[Unpack[ArgumentsT]], ResultT], *arguments: *ArgumentsT
) -> ResultT:
    """The same in threads of the caller's; a caller that is cancelled while none is free need not wait for one."""
    work = threads.submit(function, *arguments)
    try:
        return await _outlasted(asyncio.wrap_future(work), work.cancel)
    finally:
        del work  # What the function raises refers to this frame, and is referred to by it.


async def _outlasted(future: asyncio.Future[ResultT], take_back: Callable[[], bool] = bool) -> ResultT:
    """Wait for a thread's work, and never leave before it has ended, or was taken back before it began."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not take_back():
            while not future.done():
                try:
                    await asyncio.wait([future])
                except asyncio.CancelledError:
                    continue  # Nobody is more in a hurry than the first one was.
        if future.done() and not future.cancelled():
            future.exception()  # Nobody is told of it any more.
        raise
    finally:
        del future, take_back  # As above.
