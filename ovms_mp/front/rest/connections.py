# SPDX-License-Identifier: Apache-2.0
"""The connections of one REST front together: how many there may be, who goes first, and who has stalled for too long.

One look at all of them each second instead of timers for each. What was done to clients is counted, and logged once in
some seconds, so that they cannot fill the disk.
"""

from __future__ import annotations

import logging
import os
import resource
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from ovms_mp.defects import contain
from ovms_mp.front.rest import bounds
from ovms_mp.wire.process_counters import REST_REFUSALS

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from ovms_mp.front.budget import BodyBudget

_log = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 1.0
_REPORT_SWEEPS = 5
_LEAST_RESERVE = 16
_RESERVED_PART = 8
"""One descriptor in so many is left for connections that are being closed and for links to workers."""


class Connection(Protocol):
    """What is asked of a connection; each method ends in no time."""

    def check(self) -> str:
        """Called at every sweep; ends the connection when it has stalled, and then says how, else is empty."""

    def evict(self) -> None:
        """Make room for others: this one is between two requests."""

    def turn_away(self) -> None:
        """There is no room for this one."""


class Connections:
    """All connections of this process; lives on its event loop."""

    def __init__(self, bodies: BodyBudget, client_timeout_s: float, limit: int | None = None) -> None:
        """Start empty.

        Args:
            bodies: Has room for answers that are not read at once, too.
            client_timeout_s: How long a client may neither send what it has begun nor read its answer.
            limit: Most connections; by default what the descriptor limit leaves.
        """
        self.bodies = bodies
        self.client_timeout_s = client_timeout_s
        self.limit = _room_for_connections() if limit is None else limit
        self.scratch = memoryview(bytearray(bounds.SCRATCH_BYTES))
        """Where connections read to, one after another: what is there is taken at once."""
        self.counts: Counter[str] = Counter()
        """What was done to clients, since the start."""
        self._told: Counter[str] = Counter()
        self._open: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        """Those that wait for a request, the longest waiting first."""
        self._sweeps = 0
        self.at_stop: list[Callable[[], None]] = []
        """Called once, when this process is to stop: they end answers that would go on for ever."""

    def stop(self) -> None:
        """Each connection says so; the first one is heard."""
        steps, self.at_stop = self.at_stop, []
        for step in steps:
            contain("rest.stop", "nobody", step)

    def add(self, connection: Connection) -> None:
        """Take a new one; beyond the limit the one that has been idle for longest goes, or the new one."""
        self._open.add(connection)
        self._idle[connection] = None
        while len(self._open) > self.limit:
            longest = next(iter(self._idle))
            self.remove(longest)
            if longest is connection:
                self.counts["turned_away"] += 1
                longest.turn_away()
            else:
                self.counts["idle_closed"] += 1
                longest.evict()

    def remove(self, connection: Connection) -> None:
        """Forget one that ends; harmless when that has been done."""
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def is_busy(self, connection: Connection) -> None:
        """It has sent a request's head. PERF: 0.1 us."""
        self._idle.pop(connection, None)

    def is_idle(self, connection: Connection) -> None:
        """Its last request is answered."""
        if connection in self._open:
            self._idle[connection] = None

    def numbered_counts(self) -> list[tuple[int, int]]:
        """What was done to clients, by numbers of REST_REFUSALS; the last one is for all others."""
        last = len(REST_REFUSALS) - 1
        return [
            (REST_REFUSALS.index(name) if name in REST_REFUSALS else last, count)
            for name, count in self.counts.items()
        ]

    def sweep(self) -> None:
        """Look at each connection once."""
        for connection in list(self._open):
            ended_for = connection.check()
            if ended_for:
                self.counts[ended_for] += 1
        self._sweeps += 1
        if self.counts != self._told and self._sweeps % _REPORT_SWEEPS == 0:
            new = self.counts - self._told
            counts = " ".join(f"{name}={new[name]}" for name in sorted(new))
            _log.warning(
                "event=rest_clients_refused %s connections=%d limit=%d", counts, len(self._open), self.limit
            )
            self._told = self.counts.copy()

    def sweep_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Sweep from now on; ends with the loop."""
        loop.call_later(SWEEP_INTERVAL_S, self.sweep_on, loop)
        self.sweep()


def _room_for_connections() -> int:
    """What the descriptor limit leaves, besides what is open now and a reserve."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 20
    # The listing has a descriptor of its own, which is closed by now.
    held = len(os.listdir("/proc/self/fd")) - 1
    return max(1, soft - held - max(_LEAST_RESERVE, soft // _RESERVED_PART))
