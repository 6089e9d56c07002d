# SPDX-License-Identifier: Apache-2.0
"""Messages that are still arriving and hold arena memory: whoever sends slowly loses it when there is no more.

A long tensor's memory is leased when its length is known, so a peer could hold the arena with nothing but promises.
While there is room that harms nobody. When a lease does not fit, arrivals that lag behind are given up, the latest
first, until it does (:class:`~ovms_mp.front.infer.leases.Leases`).
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Protocol

from ovms_mp.defects import contain

if TYPE_CHECKING:
    from ovms_mp.front.clock import Clock

_FAIR_BYTES_PER_S = 16 << 20
"""What a sender shall reach. Slower networks are served as well, but not when they keep the arena from others."""
_LEAST_LAG_S = 0.05
"""Those who lag less are on their way: giving up one of them for another would help nobody."""


class Arrival(Protocol):
    """A message that arrives; weakly referenced here, so it is forgotten when its owner forgets it."""

    @property
    def received_bytes(self) -> int:
        """So much of it is here."""

    def give_up(self) -> None:
        """Release its leases; the message cannot be completed any more."""


class Arrivals:
    """The arriving messages of one front, each with the moment when it first asked for memory."""

    def __init__(self, clock_ns: Clock) -> None:
        self._clock_ns = clock_ns
        self._begun_ns: weakref.WeakKeyDictionary[Arrival, int] = weakref.WeakKeyDictionary()

    def take_out(self, arrival: Arrival) -> int:
        """Take an arrival out, if it is here; the moment when it began, which is now if it is new."""
        return self._begun_ns.pop(arrival, None) or self._clock_ns()

    def put_in(self, arrival: Arrival, begun_ns: int) -> None:
        """Have an arrival that began then among those that may be given up."""
        self._begun_ns[arrival] = begun_ns

    def give_up_latest(self) -> bool:
        """Give up the arrival that lags most behind a fair pace; whether there was one."""
        now_ns = self._clock_ns()
        lags = [
            ((now_ns - begun_ns) / 1e9 - arrival.received_bytes / _FAIR_BYTES_PER_S, id(arrival), arrival)
            for arrival, begun_ns in self._begun_ns.items()
        ]
        if not lags or (latest := max(lags))[0] < _LEAST_LAG_S:
            return False
        del self._begun_ns[latest[2]]
        # Whoever asks for memory now is not to blame for what another's end raises.
        contain("front.give_up", "a message that arrives slowly", latest[2].give_up)
        return True
