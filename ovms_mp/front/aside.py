# SPDX-License-Identifier: Apache-2.0
"""Work of a request in a thread, so that others are answered meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Unpack

ResultT = TypeVar("ResultT")
ArgumentsT = TypeVarTuple("ArgumentsT")


async def run_aside(function: Callable[[Unpack[ArgumentsT]], ResultT], *arguments: *ArgumentsT) -> ResultT:
    """Run a function in a thread. PERF: 70 us of processor time more than calling it.

    A caller that is cancelled hears of it when the function has ended: what it has lent the function stays until then.
    """
    future = asyncio.get_running_loop().run_in_executor(None, function, *arguments)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue  # Nobody is more in a hurry than the first one was.
        if not future.cancelled():
            future.exception()  # Nobody is told of it any more.
        raise
