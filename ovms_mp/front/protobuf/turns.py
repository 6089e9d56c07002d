# SPDX-License-Identifier: Apache-2.0
"""Readers that yield every millisecond or so: run at one go, or so that others have their turn meanwhile."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator

ResultT = TypeVar("ResultT")

_TURN_S = 0.002
"""How long a message may be read at one go."""


def at_one_go(steps: Generator[None, None, ResultT]) -> ResultT:
    """Take all steps; their result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: ResultT = end.value
            return result


async def in_turns(steps: Generator[None, None, ResultT]) -> ResultT:
    """Take all steps, and let other tasks go on whenever they have taken a while; their result."""
    turn_ends_s = time.monotonic() + _TURN_S
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: ResultT = end.value
            return result
        if time.monotonic() > turn_ends_s:
            await asyncio.sleep(0)
            turn_ends_s = time.monotonic() + _TURN_S
