# SPDX-License-Identifier: Apache-2.0
"""Arena memory of messages that are still arriving: whoever sends slowly loses it to others when there is no more.

A long tensor's memory is leased when its length is known, so a peer could hold the arena with nothing but promises.
While there is room that harms nobody. When a lease does not fit, arrivals that lag behind are given up, the latest
first, until it does.
"""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Protocol

from ovms_mp.defects import contain

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.front.dispatch import Dispatcher, Lease

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
    """The arriving messages of one front; lives on its event loop's thread."""

    def __init__(self, dispatcher: Dispatcher, clock: Callable[[], float] = time.monotonic) -> None:
        """Make room in the dispatcher's arena from now on."""
        self._dispatcher = dispatcher
        self._clock = clock
        self._begun_s: weakref.WeakKeyDictionary[Arrival, float] = weakref.WeakKeyDictionary()
        dispatcher.make_room = self._make_room

    def lease(self, arrival: Arrival, nbytes: int) -> Lease:
        """Lease memory for an arriving message.

        Raises:
            NoFreeSlot: It does not fit, and nobody lags behind.
            TensorTooLarge: It would not fit an empty arena.
        """
        # It is not here while it asks, so it cannot be given up for itself.
        begun_s = self._begun_s.pop(arrival, self._clock())
        lease = self._dispatcher.lease(nbytes)
        self._begun_s[arrival] = begun_s
        return lease

    def _make_room(self) -> bool:
        """Give up the arrival that lags most behind a fair pace; whether there was one."""
        now_s = self._clock()
        lags = [
            (now_s - begun_s - arrival.received_bytes / _FAIR_BYTES_PER_S, id(arrival), arrival)
            for arrival, begun_s in self._begun_s.items()
        ]
        if not lags or (latest := max(lags))[0] < _LEAST_LAG_S:
            return False
        del self._begun_s[latest[2]]
        # Whoever asks for memory now is not to blame for what another's end raises.
        contain("front.give_up", "a message that arrives slowly", latest[2].give_up)
        return True
