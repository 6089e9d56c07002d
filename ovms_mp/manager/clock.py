# SPDX-License-Identifier: Apache-2.0
"""The manager's clock: every part is given one at construction, so that tests give one that they move."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time as the functions of these names in :mod:`time` do."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back. What all deadlines and intervals are measured by."""

    def monotonic_ns(self) -> int:
        """The same in nanoseconds, for deadlines that cross processes of this machine."""

    def time(self) -> float:
        """Seconds since the epoch (wall clock), to compare with time stamps of files and to show to people."""


class SystemClock:
    """The machine's."""

    def monotonic(self) -> float:
        """See :class:`Clock`."""
        return time.monotonic()

    def monotonic_ns(self) -> int:
        """See :class:`Clock`."""
        return time.monotonic_ns()

    def time(self) -> float:
        """See :class:`Clock`."""
        return time.time()
