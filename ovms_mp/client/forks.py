# SPDX-License-Identifier: Apache-2.0
"""What a process that was forked from one with clients has to forget: connections and threads are its parent's."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something that both processes have after a fork, and only the parent may go on with."""

    def start_anew(self) -> None:
        """Be as if just made; called in the child, whose only thread is the caller's."""


_known: weakref.WeakSet[Forked] = weakref.WeakSet()


def note(thing: Forked) -> None:
    """Have a thing start anew in children of this process."""
    _known.add(thing)


def _start_anew() -> None:
    for thing in list(_known):
        thing.start_anew()


os.register_at_fork(after_in_child=_start_anew)
