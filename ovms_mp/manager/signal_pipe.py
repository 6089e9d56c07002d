# SPDX-License-Identifier: Apache-2.0
"""The signals that the manager acts upon, as bytes in a pipe that its loop watches; see signal(7)."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from ovms_mp.child.lifetime import LOG_SIGNALS, release_log_signals
from ovms_mp.manager.children.processes import wait_readable

if TYPE_CHECKING:
    from ovms_mp.wire.channels import Poller

_MOST_AT_ONCE = 256


class SignalPipe:
    """Owns the pipe and, while it is open, this process's handlers."""

    def __init__(self, poller: Poller) -> None:
        """Take the signals from now on."""
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        poller.register(self._read)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, *LOG_SIGNALS):
            # The wake-up descriptor carries the signal's number; the handler has nothing to do.
            signal.signal(number, _do_nothing)
        release_log_signals()

    def take(self, readable: set[int]) -> bytes:
        """The numbers of the signals that have come, in their order."""
        return os.read(self._read, _MOST_AT_ONCE) if self._read in readable else b""

    def wait(self, timeout_s: float) -> None:
        """Wait for a signal, at most so long."""
        wait_readable(self._read, timeout_s)

    def close(self) -> None:
        """Give the descriptors back; what comes from now on is lost."""
        signal.set_wakeup_fd(-1)
        for descriptor in (self._read, self._write):
            os.close(descriptor)


def _do_nothing(*_: object) -> None:
    """See where it is installed."""
