# SPDX-License-Identifier: Apache-2.0
"""Timers of the manager's loop."""

from __future__ import annotations

import heapq
import itertools
from functools import partial
from typing import TYPE_CHECKING

from ovms_mp.defects import contain

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.manager.clock import Clock

_AGAIN_S = 1.0
_MOST_TRIES = 5


class Timers:
    """Calls functions at monotonic moments.

    A call cannot be cancelled, so functions check whether they still apply. One that raises is called again a second
    later, five times in all, and does not affect the others.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def call_at(self, moment: float, function: Callable[[], None]) -> None:
        """Call ``function`` once the clock's monotonic time has reached ``moment``."""
        heapq.heappush(self._heap, (moment, next(self._order), function))

    def call_after(self, delay_s: float, function: Callable[[], None]) -> None:
        """Call ``function`` after ``delay_s``."""
        self.call_at(self._clock.monotonic() + delay_s, function)

    def call_every(self, interval_s: float, function: Callable[[], None]) -> None:
        """Call ``function`` now and every ``interval_s``, whether or not it raises."""

        def turn() -> None:
            self.call_after(interval_s, turn)
            contain("manager.timer", _name(function), function)

        turn()

    def seconds_to_next(self) -> float | None:
        """Time until the next call is due; None when there is none."""
        return max(0.0, self._heap[0][0] - self._clock.monotonic()) if self._heap else None

    def run_due(self) -> None:
        """Make the calls that are due now; calls that they add wait for the next turn."""
        now = self._clock.monotonic()
        due: list[Callable[[], None]] = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[2])
        for function in due:
            self._call(function, 1)

    def _call(self, function: Callable[[], None], tries: int) -> None:
        if not contain("manager.timer", _name(function), function) and tries < _MOST_TRIES:
            self.call_after(_AGAIN_S, partial(self._call, function, tries + 1))


def _name(function: Callable[[], None]) -> str:
    """For the log."""
    plain = function.func if isinstance(function, partial) else function
    return getattr(plain, "__qualname__", type(plain).__name__)
