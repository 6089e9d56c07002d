# SPDX-License-Identifier: Apache-2.0
"""Closing descriptors where that may take long: the last one of a large memory frees it, and a stranger's may hang."""

from __future__ import annotations

import contextlib
import os
import threading

_LARGE_BYTES = 64 << 20
"""PERF: the kernel frees some GB of memory a second."""
_MOST_HANGING = 16


def close_aside(descriptor: int, nbytes: int) -> None:
    """Close a descriptor of memory of this size: in a thread if it is large."""
    if nbytes <= _LARGE_BYTES or not _in_thread(descriptor, set()):
        os.close(descriptor)


class StrangersDescriptors:
    """Closes in threads what may be anything: a file of a file system that does not answer holds up who closes it."""

    def __init__(self) -> None:
        """None is being closed."""
        self._closing: set[object] = set()

    @property
    def has_room(self) -> bool:
        """Whether further ones may be taken; not while many cannot be closed."""
        return len(self._closing) < _MOST_HANGING

    def close(self, descriptor: int) -> None:
        """Close it, whatever it is."""
        if not _in_thread(descriptor, self._closing):
            os.close(descriptor)


def _in_thread(descriptor: int, closing: set[object]) -> bool:
    # Not the number, which is another's as soon as it is closed. SAFETY: add and discard are steps of the interpreter.
    token = object()
    closing.add(token)
    try:
        threading.Thread(target=_close, args=(descriptor, closing, token), name="close", daemon=True).start()
    except RuntimeError:
        closing.discard(token)
        return False
    return True


def _close(descriptor: int, closing: set[object], token: object) -> None:
    with contextlib.suppress(OSError):  # The descriptor is gone, whatever the system says.
        os.close(descriptor)
    closing.discard(token)
