# SPDX-License-Identifier: Apache-2.0
"""How long the turns of the manager's loop take: nothing that one of them does may hold up the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovms_mp.manager.clock import Clock

_WINDOW_S = 30.0


class TurnTimes:
    """Owned by the manager's loop."""

    def __init__(self, clock: Clock) -> None:
        """No turn has ended."""
        self._clock = clock
        self._former_s = self._longest_s = 0.0
        self._since = clock.monotonic()

    def note(self, began_at: float) -> None:
        """A turn ends that began at this moment, in monotonic seconds."""
        now = self._clock.monotonic()
        self._move_on(now)
        self._longest_s = max(self._longest_s, now - began_at)

    def longest_s(self) -> float:
        """The longest turn of the last half minute, or minute."""
        self._move_on(self._clock.monotonic())
        return max(self._former_s, self._longest_s)

    def _move_on(self, now: float) -> None:
        if now - self._since >= _WINDOW_S:
            is_next = now - self._since < 2 * _WINDOW_S
            self._former_s, self._longest_s = self._longest_s if is_next else 0.0, 0.0
            self._since = now
