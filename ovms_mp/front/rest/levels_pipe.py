# SPDX-License-Identifier: Apache-2.0
"""How the arbiter hears what to log: by a pipe from the manager, as it must not have a ZeroMQ socket.

Fronts that it forks later begin with what it was told at its own start, and have the rest by their first snapshot.
"""

from __future__ import annotations

import os

import msgspec

from ovms_mp.log import apply_levels
from ovms_mp.log_levels import LogLevels

_MOST_BYTES = 1 << 16


class LevelsPipe:
    """The arbiter's end; lines of JSON, of which the last one holds."""

    def __init__(self, descriptor: int) -> None:
        """Read from a descriptor that does not block."""
        self._descriptor = descriptor
        self._begun = b""

    def follow(self) -> None:
        """Log what was said last, if anything was."""
        try:
            text = os.read(self._descriptor, _MOST_BYTES)
        except BlockingIOError:
            return
        *lines, self._begun = (self._begun + text).split(b"\n")
        if lines:
            apply_levels(msgspec.json.decode(lines[-1], type=LogLevels))
