# SPDX-License-Identifier: Apache-2.0
"""Starts workers for the devices that models want, replaces them without losing requests, and retires others.

A worker that is replaced goes on until its successor has loaded everything that it has; then a snapshot routes
past it, and when every front has applied that, the worker is drained. So a replacement looks like a version switch.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from msgspec import structs

from ovms_mp.defects import contain
from ovms_mp.log import tell_people
from ovms_mp.manager.children.child import ChildState
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.manager.children.roles import no_pause
from ovms_mp.manager.workers.cpu_plan import CpuPlan, make_plan, plan_lines
from ovms_mp.manager.workers.memory_limit import MemoryLimit
from ovms_mp.model.core_lists import core_text
from ovms_mp.wire.messages import Drain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ovms_mp.child.specs import CpuShare
    from ovms_mp.config.server import ServerConfig
    from ovms_mp.manager.children.child import Child
    from ovms_mp.manager.children.control import ControlChannel
    from ovms_mp.manager.children.spec_maker import SpecMaker
    from ovms_mp.manager.children.supervisor import Supervisor
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.timers import Timers
    from ovms_mp.manager.workers.cpu_plan import Machine
    from ovms_mp.manager.workers.workers import Seat, Workers

_log = logging.getLogger(__name__)

_MEMORY_LOOK_S = 1.0


class Completeness(Protocol):
    """Who knows what a worker has loaded."""

    def is_complete_on(self, worker: str, device: str, tenant: int = 0) -> bool:
        """Whether it has everything that its device serves, or the one deployment that it is for."""


class Provisioner:
    """Decides which workers run. Owned by the manager's loop."""

    def __init__(
        self,
        config: ServerConfig,
        machine: Machine,
        supervisor: Supervisor,
        workers: Workers,
        control: ControlChannel,
        specs: SpecMaker,
        descriptors: tuple[int, ...],
        timers: Timers,
        clock: Clock,
    ) -> None:
        """Prepare; no worker is started before :meth:`start`.

        Args:
            config: Of the server.
            machine: What the workers are to share.
            supervisor: Keeps a child in each seat's role.
            workers: The seats.
            control: The way to the workers.
            specs: Makes their command lines.
            descriptors: The arenas and the counters, which each worker inherits.
            timers: The manager's.
            clock: The manager's.
        """
        self._config = config
        self._machine = machine
        self._supervisor = supervisor
        self._workers = workers
        self._timers = timers
        self._clock = clock
        self._plan = CpuPlan({}, ())
        self._memory = MemoryLimit(config.engine.worker_memory_limit_mb, clock)
        self._unavailable: set[str] = set()
        self._served: set[str] = set()
        """Devices that have had a worker."""
        self._has_started = False
        self._control = control
        self._specs = specs
        self._descriptors = descriptors
        self._epoch = 0
        self.is_changed = False
        """Whether the newest snapshot does not show the workers as they are."""

    def note_snapshot(self, epoch: int) -> None:
        """What has changed until now is in the snapshot of this number."""
        self._epoch = epoch
        self.is_changed = False

    def plan_lines(self) -> tuple[str, ...]:
        """How the machine is divided among the workers that there are now, for people."""
        shares: dict[str, list[CpuShare]] = {}
        alone: list[str] = []
        for seat in self._workers:
            if seat.is_leaving or seat.replaces is not None:
                continue
            if seat.tenant:
                where = f" on cores {core_text(seat.share.cores)}" if seat.share.cores else ""
                alone.append(
                    f"{seat.device}: 1 more worker{where}, for one version whose requests crash workers"
                )
            else:
                shares.setdefault(seat.device, []).append(seat.share)
        return (*plan_lines(self._machine, shares), *alone)

    def lost_devices(self) -> tuple[str, ...]:
        """Devices that are wanted and had a worker, and for which none can be started any more."""
        return tuple(sorted(self._unavailable & self._served))

    def share_of(self, device: str) -> CpuShare:
        """The part of the machine that a worker of this device has."""
        return self._plan.shares[device][0]

    def start(self, devices: Sequence[str]) -> None:
        """Start the first workers; one that cannot start ends the server."""
        self.adjust(devices, frozenset())
        self._has_started = True
        if self._config.engine.worker_memory_limit_mb:
            self._timers.call_every(_MEMORY_LOOK_S, self._look_at_memory)

    def adjust(self, devices: Sequence[str], in_use: frozenset[str] | set[str]) -> None:
        """Have workers for these devices, and let those of others go.

        Args:
            devices: What models want, in the order of the configuration.
            in_use: What deployments still use, too.
        """
        present = self._workers.devices()
        # One that could not be had is tried again when a version is: at the pace of that one's back-off.
        self._unavailable -= in_use
        missing = [device for device in devices if device not in present and device not in self._unavailable]
        if missing:
            everything = [*devices, *sorted(in_use - set(devices))]
            self._plan = make_plan(self._machine, everything, self._config.engine.cpu_workers)
            for line in self._plan.lines:
                _log.info("event=plan %s", line)
            tell_people(_log, "%s", self._plan.summary())
            self._rebalance()
            self.is_changed = True
        for device in missing:
            for share in self._plan.shares[device]:
                self._fill(self._workers.add(device, share))
        for seat in self._workers:
            if seat.device not in devices and seat.device not in in_use and not seat.is_leaving:
                _log.info("event=worker_not_needed seat=%s device=%s", seat.name, seat.device)
                self._leave(seat)
        self._unavailable &= set(devices)

    def _rebalance(self) -> None:
        """Replace workers whose part of the machine is another in the new plan: nobody can change it while it runs."""
        successors = {seat.replaces: seat for seat in self._workers if seat.replaces is not None}
        for device, shares in self._plan.shares.items():
            seats = [
                seat
                for seat in self._workers
                if seat.device == device and not (seat.is_leaving or seat.tenant) and seat.replaces is None
            ]
            for seat, share in zip(seats, shares, strict=False):
                if seat.share != share and seat not in successors:
                    self.replace(seat, "the machine is divided anew", share)

    def role_failed(self, name: str) -> str | None:
        """A worker that was started later cannot be started; the device that has none now, or None."""
        seat = next((seat for seat in self._workers if seat.name == name), None)
        if seat is None:
            return None
        self._workers.remove(seat)
        if seat.tenant or seat.device in self._workers.devices():
            return None
        self._unavailable.add(seat.device)
        return seat.device

    def replace(self, seat: Seat, reason: str, share: CpuShare | None = None) -> Seat:
        """Give a seat's work to a new worker in a seat of its own, which is returned."""
        _log.warning("event=replacing seat=%s reason=%s", seat.name, reason)
        successor = self._workers.add(seat.device, share or seat.share, replaces=seat)
        self._fill(successor)
        return successor

    def isolate(self, device: str, tenant: int, pause_s: Callable[[], float]) -> None:
        """Start a worker for one deployment only, on the cores that its device's first worker has.

        Args:
            device: Its device.
            tenant: Its handle.
            pause_s: How long a successor of that worker must wait.
        """
        if any(seat.tenant == tenant and not seat.is_leaving for seat in self._workers):
            return
        # Both would tie their threads to the same cores.
        share = structs.replace(self.share_of(device), is_pinning_safe=False)
        self._fill(self._workers.add(device, share, tenant=tenant), pause_s)

    def tenant_of(self, name: str) -> int:
        """The one deployment that a seat is for; 0 for a seat that is shared, or unknown."""
        return next((seat.tenant for seat in self._workers if seat.name == name), 0)

    def let_tenants_go(self, is_needed: Callable[[int], bool]) -> None:
        """Retire workers of deployments that need none of their own any more."""
        for seat in self._workers:
            if seat.tenant and not seat.is_leaving and not is_needed(seat.tenant):
                _log.info("event=worker_not_needed seat=%s device=%s", seat.name, seat.device)
                self._leave(seat)

    def advance(self, loads: Completeness, applied_epoch: int) -> None:
        """Carry on what was begun.

        Args:
            loads: Knows what is loaded where.
            applied_epoch: Number of the snapshot that all fronts have applied.
        """
        for seat in self._workers:
            contain("manager.seat", seat.name, self._advance_seat, seat, loads, applied_epoch)

    def _advance_seat(self, seat: Seat, loads: Completeness, applied_epoch: int) -> None:
        if seat.replaces is not None and seat.is_ready and seat.child is not None:
            self._succeed(seat, seat.replaces, seat.child, loads)
        if seat.replaces is not None and seat.child is not None and not seat.is_leaving:
            self._give_up_late(seat, seat.child)
        if seat.is_leaving and seat.leave_epoch == 0 and not self.is_changed:
            seat.leave_epoch = self._epoch
        if seat.is_leaving and 0 < seat.leave_epoch <= applied_epoch and seat.child is not None:
            self._drain(seat.child)

    def _succeed(self, seat: Seat, old: Seat, child: Child, loads: Completeness) -> None:
        """Let the old worker leave once its successor has everything."""
        if not loads.is_complete_on(child.child_id, seat.device, seat.tenant):
            return
        seat.replaces = None
        self._memory.succeeded(seat, child)
        self._leave(old)

    def _give_up_late(self, seat: Seat, child: Child) -> None:
        """End a successor that did not come to have everything; the old worker stays."""
        limit_s = self._config.supervision.load_timeout_s
        if child.was_ready and self._clock.monotonic() - child.ready_at > limit_s:
            _log.error("event=not_replaced seat=%s does not have everything within %g s", seat.name, limit_s)
            seat.replaces = None
            self._leave(seat)

    def worker_ready(self, child: Child) -> Seat | None:
        """A worker takes loads from now on; its seat, or None when that is not wanted any more."""
        seat = self._workers.became_ready(child)
        self.is_changed |= seat is not None
        if seat is not None:
            self._served.add(seat.device)
        return seat

    def worker_exited(self, child: Child) -> bool:
        """A worker is gone; its seat too, if it was leaving. Whether it was."""
        self.is_changed = True
        seat = self._workers.exited(child)
        if seat is None or not seat.is_leaving:
            return False
        _log.info("event=left seat=%s", seat.name)
        self._workers.remove(seat)
        return True

    def _fill(self, seat: Seat, pause_s: Callable[[], float] = no_pause) -> None:
        self._supervisor.fill(
            seat.name,
            Kind.WORKER,
            lambda child_id: self._workers.seated(
                seat,
                self._specs.worker(child_id, seat.device, seat.share, seat.page_descriptor, seat.counter_row),
            ),
            (*self._descriptors, *((seat.page_descriptor,) if seat.page_descriptor >= 0 else ())),
            is_vital=not self._has_started,
            pause_s=pause_s,
        )

    def _leave(self, seat: Seat) -> None:
        """Route past it; :meth:`advance` drains it when all fronts do."""
        seat.is_leaving = True
        seat.leave_epoch = 0
        self.is_changed = True
        self._memory.forget(seat)
        self._supervisor.stop_replacing(seat.name)
        child = seat.child
        if child is None:
            self._supervisor.end_role(seat.name)
            self._workers.remove(seat)

    def _drain(self, child: Child) -> None:
        if child.state is ChildState.READY:
            grace_s = self._config.supervision.stuck_timeout_s
            _log.info("event=draining child=%s", child.child_id)
            deadline_ns = self._clock.monotonic_ns() + int(grace_s * 1e9)
            self._control.send(child, Drain(deadline_ns))
            child.to(ChildState.DRAINING)
            self._supervisor.end_within(child, grace_s + 1.0)

    def _look_at_memory(self) -> None:
        """Replace workers that have grown past the limit."""
        leaving = {seat.replaces for seat in self._workers if seat.replaces is not None}
        settled = [seat for seat in self._workers if seat not in leaving and seat.replaces is None]
        for seat, reason in self._memory.exceeded(settled):
            seat.has_outgrown = True
            self._memory.replaced(seat, self.replace(seat, reason))
