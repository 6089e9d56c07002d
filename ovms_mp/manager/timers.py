# SPDX-License-Identifier: Apache-2.0
"""Timers of the manager's loop."""

from __future__ import annotations

import heapq
import itertools
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Timers:
    """Calls functions at monotonic moments.

    An entry cannot be taken back, so callees check whether they still apply.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def call_at(self, moment: float, function: Callable[[], None]) -> None:
        """Call ``function`` once ``time.monotonic()`` has reached ``moment``."""
        heapq.heappush(self._heap, (moment, next(self._order), function))

    def call_after(self, delay_s: float, function: Callable[[], None]) -> None:
        """Call ``function`` after ``delay_s``."""
        self.call_at(time.monotonic() + delay_s, function)

    def seconds_to_next(self) -> float | None:
        """Time until the next call is due; None when there is none."""
        return max(0.0, self._heap[0][0] - time.monotonic()) if self._heap else None

    def run_due(self) -> None:
        """Make the calls that are due now; calls that they add wait for the next turn."""
        now = time.monotonic()
        due: list[Callable[[], None]] = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[2])
        for function in due:
            function()
