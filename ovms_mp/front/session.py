# SPDX-License-Identifier: Apache-2.0
"""A front's life, the same for both protocols: hello, arena, snapshots, signs of life, drain."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from typing import TYPE_CHECKING

from ovms_mp.child.heartbeat import HeartbeatThread
from ovms_mp.errors import BootError
from ovms_mp.front.access.keys import Keys
from ovms_mp.front.access.proxies import TrustedProxies
from ovms_mp.front.access.refusals import KeyRefusals
from ovms_mp.front.client_limits import ClientLimits
from ovms_mp.front.counting import Counting
from ovms_mp.front.descriptors import DescriptorWatch
from ovms_mp.front.gate import Gate
from ovms_mp.front.infer.arrivals import Arrivals
from ovms_mp.front.infer.convictions import Convictions
from ovms_mp.front.infer.dispatch import Dispatcher
from ovms_mp.front.infer.leases import Leases
from ovms_mp.front.metrics.calls import CallCounting
from ovms_mp.front.metrics.load_report import LoadReports
from ovms_mp.front.metrics.ovms import OvmsMetrics
from ovms_mp.front.metrics.own import OwnMetrics
from ovms_mp.front.metrics.page import MetricsPage
from ovms_mp.front.metrics.stages import LOOK_S, StageObserver
from ovms_mp.front.readiness import Readiness
from ovms_mp.front.regions.table import Regions
from ovms_mp.front.routing import NO_SNAPSHOT, RoutingTable
from ovms_mp.front.service import Service
from ovms_mp.front.state_changes import StateChanges
from ovms_mp.front.steps import Periodic, attempt, report_the_rest
from ovms_mp.front.tls.callers import name_by_certificate
from ovms_mp.front.watch import Watch
from ovms_mp.log import apply_levels
from ovms_mp.wire.arena import Arena
from ovms_mp.wire.codec import decode_to_child
from ovms_mp.wire.counters import CounterReader, CounterRow, managers_row
from ovms_mp.wire.messages import (
    Drain,
    Drained,
    ManagerBeat,
    Ready,
    RequestConvicted,
    RoutingSnapshot,
    SnapshotApplied,
    StateChanged,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from ovms_mp.child.control import ControlLink
    from ovms_mp.child.specs import FrontSpec
    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.clock import Clock
    from ovms_mp.front.observers import CallObserver
    from ovms_mp.wire.messages import ChangeState, Welcome

_log = logging.getLogger(__name__)

_TRIM_INTERVAL_S = 10.0


class FrontSession:
    """Ties one front process to the manager and to the workers. Lives in the event loop that it is opened in."""

    def __init__(
        self, spec: FrontSpec, control: ControlLink, welcome: Welcome, watch: Watch, clock_ns: Clock
    ) -> None:
        """Prepare; see :meth:`open`.

        Args:
            spec: What this front was told at its start.
            control: Has said hello.
            welcome: The manager's answer.
            watch: Tells of calls; the session's from now on.
            clock_ns: Monotonic time.
        """
        self._spec = spec
        self._control = control
        self._clock_ns = clock_ns
        self._loop = asyncio.get_running_loop()
        self._ticks = 0
        self._levels = spec.common.log_levels
        self._descriptors = DescriptorWatch(clock_ns)
        self._has_table = asyncio.Event()
        self._changes = StateChanges(self._send, spec.limits.request_timeout_s, clock_ns)
        self._heartbeat = HeartbeatThread(
            spec.common.control_endpoint,
            control.child_id,
            spec.common.heartbeat_interval_s,
            lambda: (self._ticks, 1, 0.0),
        )
        self._timers: list[Periodic] = []
        self.drain_deadline_ns = 0
        self.drain_requested = asyncio.Event()
        self._watch = watch
        access = spec.access
        self._keys = Keys(
            needs_key=access.needs_key,
            needs_admin_key=access.needs_admin_key,
            refusals=KeyRefusals(clock_ns),
        )
        self.proxies = TrustedProxies(access.trusted_proxies)
        counters = spec.common.counters
        row, reader = CounterRow(counters, welcome.arena), CounterReader(counters)
        self.leases = Leases(Arena(spec.common.arenas[welcome.arena]), Arrivals(clock_ns))
        interface = "REST" if spec.kind == "rest" else "gRPC"
        self.stages = StageObserver(row, self.leases, interface, clock_ns)
        loads = LoadReports(
            reader, managers_row(counters), self.leases, lambda: self._dispatcher.statistics().in_flight
        )
        self.gate = self._gate(loads.tell)
        convictions = Convictions(
            self.leases.memory,
            lambda conviction: self._send(RequestConvicted(conviction)),
            clock_ns,
            lambda ref, start, end: self.service.regions.read_part(ref, start, end),
        )
        self._readiness = Readiness(RoutingTable(NO_SNAPSHOT), spec.common.heartbeat_timeout_s, clock_ns)
        address = f"{welcome.arena}:{welcome.arena_epoch}".encode()
        self._dispatcher = Dispatcher(self.leases, address, self._loop, convictions.judge, clock_ns)
        counting = Counting(row, reader, has_metrics=bool(spec.metrics))
        self.service = Service(
            self.leases,
            convictions,
            self._dispatcher,
            counting,
            self._changes.ask,
            Regions(
                is_allowed=spec.limits.allows_client_shm,
                manager_pid=spec.common.parent_pid,
                ended=self._dispatcher.detach_region,
            ),
            request_timeout_s=spec.limits.request_timeout_s,
            retry_window_s=spec.limits.retry_window_s,
            max_message_bytes=spec.limits.max_message_bytes,
            max_unpacked_bytes=spec.limits.max_unpacked_bytes,
            max_image_megapixels=spec.limits.max_image_megapixels,
            clock_ns=clock_ns,
            readiness=self._readiness,
        )
        self.metrics = MetricsPage(
            [
                OvmsMetrics(lambda: self.service.table.snapshot, reader),
                OwnMetrics(
                    reader,
                    managers_row(counters),
                    lambda: self.service.table,
                    int(spec.common.heartbeat_timeout_s * 1e9),
                    clock_ns,
                ),
            ],
            spec.metrics,
        )
        """With the list of all collectors."""

    def _gate(self, tell_load: Callable[[CallContext], None]) -> Gate:
        """The lists of all that is asked and told of calls; nothing that is off. Whose call it is comes first."""
        checks: list[Callable[[CallContext], None]] = []
        observers: list[CallObserver] = []
        if self._spec.metrics:
            observers += [CallCounting(), self.stages]
        if self._spec.tls is not None and self._spec.tls.client_ca:
            checks.append(name_by_certificate)
        if self.proxies:
            checks.append(self.proxies.check)
        if self._spec.access.needs_key or self._spec.access.needs_admin_key:
            checks.append(self._keys.check)
        if most := self._spec.limits.max_requests_per_client:
            limits = ClientLimits(most, self._clock_ns)
            checks.append(limits.check)
            observers.append(limits)
        observers += self._watch.observers
        return Gate(checks, observers, tell_load=tell_load)

    @classmethod
    async def open(cls, spec: FrontSpec, control: ControlLink, clock_ns: Clock = time.monotonic_ns) -> Self:
        """Introduce this front, map its arena and wait for the first snapshot.

        Raises:
            BootError: The manager does not answer in time, or a variable of OpenTelemetry cannot be used.
        """
        report_the_rest(asyncio.get_running_loop())
        welcome = control.say_hello()
        session = cls(spec, control, welcome, Watch.open(spec), clock_ns)
        await session._start()
        return session

    async def _start(self) -> None:
        self._heartbeat.start()
        beat_s = self._spec.common.heartbeat_interval_s
        self._timers += [
            Periodic(self._loop, "front.tick", lambda: beat_s, self._tick),
            Periodic(self._loop, "front.look", lambda: LOOK_S, self.stages.look),
            Periodic(self._loop, "front.trim", lambda: _TRIM_INTERVAL_S, self.leases.trim),
            *(Periodic(self._loop, "front.access_log", *step) for step in self._watch.steps),
        ]
        self._loop.add_reader(self._control.dealer.fileno(), self._take_control_soon)
        self._take_control_soon()
        try:
            async with asyncio.timeout(self._spec.common.boot_timeout_s):
                await self._has_table.wait()
        except TimeoutError:
            raise BootError(
                f"no routing snapshot within {self._spec.common.boot_timeout_s:g} s (--boot_timeout_s)"
            ) from None

    def report_ready(self, detail: str = "") -> None:
        """Tell the manager that requests are answered from now on."""
        # PERF: what has been imported stays for ever; a collection that walks it holds all requests up for 4 ms.
        gc.freeze()
        self._send(Ready(detail))

    async def finish(self) -> None:
        """Wait until nothing is in flight, or the drain's deadline; then say goodbye and close."""
        self._changes.end()
        await self._dispatcher.wait_idle((self.drain_deadline_ns - self._clock_ns()) / 1e9)
        await self._watch.close((self.drain_deadline_ns - self._clock_ns()) / 1e9)
        self._send(Drained())
        self._heartbeat.stop()
        self._loop.remove_reader(self._control.dealer.fileno())
        for timer in self._timers:
            timer.cancel()
        self.stages.look()
        self._dispatcher.close()
        self.service.regions.close()
        self._control.close()

    def _send(self, message: Ready | ChangeState | RequestConvicted | Drained | SnapshotApplied) -> None:
        self._control.send(message)
        # SAFETY: sending can consume the edge of the edge-triggered descriptor.
        self._loop.call_soon(self._take_control_soon)

    def _take_control_soon(self) -> None:
        attempt(self._loop, "front.control", self._take_control)

    def _take_control(self) -> None:
        if self._control.dealer.is_closed:
            return
        while (payload := self._control.dealer.receive()) is not None:
            # Each by itself: a front that misses a snapshot or its drain would be cut off for good, so that is tried
            # again, and what comes behind it does not wait.
            attempt(self._loop, "front.message", self._take_message, payload)

    def _take_message(self, payload: bytes) -> None:
        self._readiness.hear()
        match message := decode_to_child(payload):
            case RoutingSnapshot():
                self._apply(message)
            case ManagerBeat(lost_devices=devices):
                self._readiness.note_lost_devices(devices)
            case StateChanged():
                self._changes.take(message)
            case Drain(deadline_ns=deadline_ns):
                self.drain_deadline_ns = deadline_ns
                self._changes.end()
                self.drain_requested.set()
            case _:
                _log.warning("event=unexpected_message type=%s", type(message).__name__)

    def _apply(self, snapshot: RoutingSnapshot) -> None:
        if self._has_table.is_set() and snapshot.epoch < self.service.table.epoch:
            return  # A second try; a newer one has replaced it.
        if snapshot.levels != self._levels:
            self._levels = snapshot.levels
            apply_levels(self._levels)
        self._watch.follow(snapshot.trace)
        table = RoutingTable(snapshot, self.service.counting.counters_of)
        # Before the manager hears that the snapshot is applied: whoever has registered a region uses it then.
        self.service.regions.replace(snapshot.regions)
        self._keys.replace(snapshot.keys)
        self.service.replace_table(table)
        self._has_table.set()
        self._send(SnapshotApplied(table.epoch))
        if table.is_draining:
            self._changes.end()

    def _tick(self) -> None:
        """Progress of this front is that its loop turns."""
        self._ticks += 1
        self._descriptors.look()
