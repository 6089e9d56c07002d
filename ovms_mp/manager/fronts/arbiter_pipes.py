# SPDX-License-Identifier: Apache-2.0
"""The pipes between manager and arbiter: it forks, so it must not have a ZeroMQ socket."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from ovms_mp.log_levels import LogLevels
    from ovms_mp.wire.channels import Poller


class ArbiterPipes:
    """Owns all ends; the arbiter inherits one of each.

    Attributes:
        beat_end: Where the arbiter writes a byte a turn, which says that it lives.
        levels_end: Where it reads which lines to log from now on. What one arbiter leaves there, the next one reads.
    """

    def __init__(self, poller: Poller) -> None:
        """Make them.

        Args:
            poller: Wakes up when a byte has come.
        """
        self._read_end, self.beat_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.levels_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        poller.register(self._read_end)

    def has_beaten(self, readable: set[int]) -> bool:
        """Whether the arbiter has said anything since the last time."""
        if self._read_end not in readable:
            return False
        os.read(self._read_end, 4096)
        return True

    def tell(self, levels: LogLevels) -> None:
        """Tell the arbiter what to log; one that has not read for thousands of changes hangs, and is replaced."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._write_end, msgspec.json.encode(levels) + b"\n")

    def close(self) -> None:
        """Give the descriptors back."""
        for descriptor in (self._read_end, self.beat_end, self.levels_end, self._write_end):
            os.close(descriptor)
