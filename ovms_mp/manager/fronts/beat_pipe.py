# SPDX-License-Identifier: Apache-2.0
"""The pipe by which the arbiter says that it lives: it forks, so it must not have a ZeroMQ socket."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovms_mp.wire.channels import Poller


class BeatPipe:
    """Owns both ends; the arbiter inherits the one that is written to, and writes a byte a turn."""

    def __init__(self, poller: Poller) -> None:
        """Make it.

        Args:
            poller: Wakes up when a byte has come.
        """
        self._read_end, self.write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        poller.register(self._read_end)

    def has_beaten(self, readable: set[int]) -> bool:
        """Whether the arbiter has said anything since the last time."""
        if self._read_end not in readable:
            return False
        os.read(self._read_end, 4096)
        return True

    def close(self) -> None:
        """Give the descriptors back."""
        for descriptor in (self._read_end, self.write_end):
            os.close(descriptor)
