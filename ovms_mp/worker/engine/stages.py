# SPDX-License-Identifier: Apache-2.0
"""What a load is doing, said by whoever does it and heard by whoever loads.

Who hears belongs to the thread that loads; in threads where nobody listens, as when a variant of a version that is
served is compiled, nothing is said.
"""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

READING = "reading"
COMPILING = "compiling"
FIRST_INFERENCE = "first inference"

_LISTENER: ContextVar[Callable[[str], None] | None] = ContextVar("stage_listener", default=None)


def begin_stage(stage: str) -> None:
    """Say that this thread's load is at this from now on."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(stage)


@contextlib.contextmanager
def hearing_stages(listener: Callable[[str], None]) -> Iterator[None]:
    """Have a listener called at each stage of what this thread loads meanwhile."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)
