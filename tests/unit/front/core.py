# SPDX-License-Identifier: Apache-2.0
"""The protocol-neutral parts of a front on a real arena, put together as a session does, without a manager."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from ovms_mp.front.counting import Counting
from ovms_mp.front.infer.arrivals import Arrivals
from ovms_mp.front.infer.convictions import Convictions
from ovms_mp.front.infer.dispatch import Dispatcher
from ovms_mp.front.infer.leases import Leases
from ovms_mp.front.readiness import Readiness
from ovms_mp.front.regions.table import Regions
from ovms_mp.front.routing import NO_SNAPSHOT, RoutingTable
from ovms_mp.front.service import Service
from ovms_mp.wire.arena import Arena
from ovms_mp.wire.counters import CounterReader, CounterRow
from ovms_mp.wire.records import NO_COUNTERS, ArenaHandle, CountersHandle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ovms_mp.wire.changes import AnyChange
    from ovms_mp.wire.messages import StateChanged
    from ovms_mp.wire.records import Conviction

MIB = 1 << 20


async def no_change(change: AnyChange, deadline_ns: int) -> StateChanged:
    """For tests in which nobody asks for one."""
    raise AssertionError("nobody asks")


class Core:
    """Leases, dispatcher and service; made within a running event loop."""

    def __init__(
        self,
        descriptor: int,
        size_bytes: int = MIB,
        *,
        address: bytes = b"0:1",
        retry_window_s: float = 5.0,
        max_message_bytes: int = 1 << 62,
        ask_change: Callable[[AnyChange, int], Awaitable[StateChanged]] = no_change,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        counters: CountersHandle = NO_COUNTERS,
    ) -> None:
        self.announced: list[Conviction] = []
        self.leases = Leases(Arena(ArenaHandle(descriptor, size_bytes)), Arrivals(clock_ns))
        regions = Regions(is_allowed=True)
        self.convictions = Convictions(self.leases.memory, self.announced.append, clock_ns, regions.read_part)
        self.dispatcher = Dispatcher(
            self.leases, address, asyncio.get_running_loop(), self.convictions.judge, clock_ns
        )
        self.service = Service(
            self.leases,
            self.convictions,
            self.dispatcher,
            Counting(CounterRow(counters, 0), CounterReader(counters)),
            ask_change,
            regions,
            request_timeout_s=300.0,
            retry_window_s=retry_window_s,
            max_message_bytes=max_message_bytes,
            clock_ns=clock_ns,
            readiness=Readiness(RoutingTable(NO_SNAPSHOT), 10.0, clock_ns),
        )
