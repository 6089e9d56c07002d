# SPDX-License-Identifier: Apache-2.0
"""What a worker is running, in memory that outlives it: the worker writes it, the manager reads it once that is reaped.

::

    entry: | what runs (8 bytes) | arena << 32 | epoch (8 bytes) | handle (8 bytes) | unused (8 bytes) |
             0: nothing; a task's id; NOT_A_TASK or SECOND_FORM

An anonymous file like the arenas. SAFETY: no lock is needed, as the only reader looks when the writer has been reaped.
PERF: 0.3 us a run, beginning and end together (CPython 3.11, 2-core Xeon).
"""

from __future__ import annotations

import mmap
import os
from collections import deque

from ovms_mp.wire.records import RunMark

_ENTRIES = 4096
"""As many as the largest batches of several threads have tasks."""
_ENTRY_WORDS = 4
_SIZE_BYTES = _ENTRIES * _ENTRY_WORDS * 8
NOT_A_TASK = (1 << 64) - 1
"""Stands for a task's id where something else of a version is under way, e.g. its load."""
SECOND_FORM = NOT_A_TASK - 1
"""The same for the compilation of a second form of a version that serves."""


def create_run_page() -> int:
    """Make a page's memfd; the caller owns the descriptor (close-on-exec until it is passed on).

    Raises:
        OSError: The kernel refuses.
    """
    descriptor = os.memfd_create("ovms_mp-runs", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, _SIZE_BYTES)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class RunPage:
    """One process's mapping of a page. A worker that was given none marks its runs in memory of its own."""

    def __init__(self, descriptor: int = -1) -> None:
        self._map = mmap.mmap(descriptor, _SIZE_BYTES)
        self._words = memoryview(self._map).cast("Q")
        self._free = deque(range(0, _ENTRIES * _ENTRY_WORDS, _ENTRY_WORDS))

    def begin(self, arena_key: tuple[int, int], task_id: int, handle: int) -> int:
        """Mark a run; what :meth:`end` wants. Callable from any thread."""
        try:
            # SAFETY: taking an entry is one step of the interpreter, so no two threads get the same one.
            entry = self._free.pop()
        except IndexError:
            return -1  # More runs than anybody has threads for; this one would be held innocent.
        words = self._words
        words[entry + 1] = arena_key[0] << 32 | arena_key[1]
        words[entry + 2] = handle
        words[entry] = task_id
        return entry

    def end(self, entry: int) -> None:
        """The run has ended, well or not. Callable from any thread."""
        if entry >= 0:
            self._words[entry] = 0
            self._free.append(entry)

    def running(self) -> tuple[RunMark, ...]:
        """What was running when the worker ended."""
        words = self._words
        return tuple(
            RunMark(words[entry + 1] >> 32, words[entry + 1] & 0xFFFFFFFF, words[entry], words[entry + 2])
            for entry in range(0, _ENTRIES * _ENTRY_WORDS, _ENTRY_WORDS)
            if words[entry]
        )

    def clear(self) -> None:
        """Forget everything, for the next worker."""
        self._map[:] = bytes(_SIZE_BYTES)

    def close(self) -> None:
        """Unmap."""
        self._words.release()
        self._map.close()
