# SPDX-License-Identifier: Apache-2.0
"""Staffs the seats: starts workers for the devices that models want, replaces and retires them hitlessly.

A worker that is replaced goes on until its successor has loaded everything that it has; then a snapshot routes
past it, and when every front has applied that, the worker is drained. So a replacement looks like a version switch.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from msgspec import structs

from ovms_mp.config.server import MEBIBYTE
from ovms_mp.defects import contain
from ovms_mp.log import tell_people
from ovms_mp.manager.children.child import ChildState, Kind
from ovms_mp.manager.workers.cpu_plan import CpuPlan, make_plan, plan_lines
from ovms_mp.manager.workers.machine import own_memory_bytes
from ovms_mp.model.core_lists import core_text
from ovms_mp.wire.codec import encode
from ovms_mp.wire.messages import Drain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ovms_mp.child.specs import CpuShare
    from ovms_mp.config.server import ServerConfig
    from ovms_mp.manager.children.child import Child
    from ovms_mp.manager.children.specs import SpecMaker
    from ovms_mp.manager.children.supervisor import Supervisor
    from ovms_mp.manager.timers import Timers
    from ovms_mp.manager.workers.cpu_plan import Machine
    from ovms_mp.manager.workers.workers import Seat, Workers
    from ovms_mp.wire.channels import Router

_log = logging.getLogger(__name__)

_MEMORY_LOOK_S = 1.0
_REPLACE_AGAIN_FIRST_S = 10.0
_REPLACE_AGAIN_LONGEST_S = 3600.0
_GROWTH_WORTH_REPLACING = 1.1
"""A successor that starts out above the limit is replaced only when it has grown by this factor since."""


class Completeness(Protocol):
    """Who knows what a worker has loaded."""

    def is_complete_on(self, worker: str, device: str, tenant: int = 0) -> bool:
        """Whether it has everything that its device serves, or the one deployment that it is for."""


@dataclass(slots=True)
class _MemoryWatch:
    """When a seat's worker was replaced for its memory, and what its successor needs at least."""

    allowed_at: float = 0.0
    delay_s: float = _REPLACE_AGAIN_FIRST_S
    at_start_bytes: int = 0


class Staff:
    """Decides who sits where. Owned by the manager's loop."""

    def __init__(
        self, config: ServerConfig, machine: Machine, supervisor: Supervisor, workers: Workers, timers: Timers
    ) -> None:
        self._config = config
        self._machine = machine
        self._supervisor = supervisor
        self._workers = workers
        self._timers = timers
        self._plan = CpuPlan({}, ())
        self._memory: dict[str, _MemoryWatch] = {}
        self._unavailable: set[str] = set()
        self._has_started = False
        self._specs: SpecMaker
        self._control: Router
        self._descriptors: tuple[int, ...]
        self.is_changed = False

    def connect(self, specs: SpecMaker, control: Router, descriptors: tuple[int, ...]) -> None:
        """What is known only once the arenas exist."""
        self._specs = specs
        self._control = control
        self._descriptors = descriptors

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

    def advance(self, catalogue: Completeness, epoch: int, applied_epoch: int) -> None:
        """Carry on what was begun.

        Args:
            catalogue: Knows what is loaded where.
            epoch: Number of the snapshot that fronts were sent last.
            applied_epoch: Number of the one that all of them have applied.
        """
        for seat in self._workers:
            contain("manager.seat", seat.name, self._advance_seat, seat, catalogue, epoch, applied_epoch)

    def _advance_seat(self, seat: Seat, catalogue: Completeness, epoch: int, applied_epoch: int) -> None:
        if seat.replaces is not None and seat.is_ready and seat.child is not None:
            self._succeed(seat, seat.replaces, seat.child, catalogue)
        if seat.replaces is not None and seat.child is not None and not seat.is_leaving:
            self._give_up_late(seat, seat.child)
        if seat.is_leaving and seat.leave_epoch == 0 and not self.is_changed:
            seat.leave_epoch = epoch
        if seat.is_leaving and 0 < seat.leave_epoch <= applied_epoch and seat.child is not None:
            self._drain(seat.child)

    def _succeed(self, seat: Seat, old: Seat, child: Child, catalogue: Completeness) -> None:
        """Let the old worker leave once its successor has everything."""
        if not catalogue.is_complete_on(child.child_id, seat.device, seat.tenant):
            return
        seat.replaces = None
        if seat.name in self._memory:
            self._memory[seat.name].at_start_bytes = own_memory_bytes(child.pid)
        self._leave(old)

    def _give_up_late(self, seat: Seat, child: Child) -> None:
        """End a successor that did not come to have everything; the old worker stays."""
        limit_s = self._config.supervision.load_timeout_s
        if child.was_ready and time.monotonic() - child.ready_at > limit_s:
            _log.error("event=not_replaced seat=%s does not have everything within %g s", seat.name, limit_s)
            seat.replaces = None
            self._leave(seat)

    def worker_exited(self, child: Child) -> bool:
        """A worker is gone; its seat too, if it was leaving. Whether it was."""
        self.is_changed = True
        seat = self._workers.exited(child)
        if seat is None or not seat.is_leaving:
            return False
        _log.info("event=left seat=%s", seat.name)
        self._workers.remove(seat)
        return True

    def _fill(self, seat: Seat, pause_s: Callable[[], float] = lambda: 0.0) -> None:
        self._supervisor.fill(
            seat.name,
            Kind.WORKER,
            lambda child_id: self._workers.seated(
                seat, self._specs.worker(child_id, seat.device, seat.share, seat.page_descriptor)
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
        self._memory.pop(seat.name, None)
        self._supervisor.stop_replacing(seat.name)
        child = seat.child
        if child is None:
            self._supervisor.end_role(seat.name)
            self._workers.remove(seat)

    def _drain(self, child: Child) -> None:
        if child.state is ChildState.READY:
            grace_s = self._config.supervision.stuck_timeout_s
            _log.info("event=draining child=%s", child.child_id)
            deadline_ns = time.monotonic_ns() + int(grace_s * 1e9)
            self._control.send(child.child_id.encode(), encode(Drain(deadline_ns)))
            child.to(ChildState.DRAINING)
            self._supervisor.end_within(child, grace_s + 1.0)

    def _look_at_memory(self) -> None:
        """Replace a worker that has grown past the limit."""
        limit = self._config.engine.worker_memory_limit_mb * MEBIBYTE
        leaving = {seat.replaces for seat in self._workers if seat.replaces is not None}
        for seat in self._workers:
            if not seat.is_ready or seat.child is None or seat in leaving or seat.replaces is not None:
                continue
            watch = self._memory.setdefault(seat.name, _MemoryWatch())
            own = own_memory_bytes(seat.child.pid)
            now = time.monotonic()
            if own <= limit:
                continue
            if now < watch.allowed_at or own < watch.at_start_bytes * _GROWTH_WORTH_REPLACING:
                continue
            successor = self.replace(
                seat,
                f"{own // MEBIBYTE} MiB of its own, the limit is {limit // MEBIBYTE} (--worker_memory_limit_mb)",
            )
            # For the successor, and for this one should the successor not come to life.
            watch.allowed_at = now + watch.delay_s
            watch.delay_s = min(2 * watch.delay_s, _REPLACE_AGAIN_LONGEST_S)
            self._memory[successor.name] = _MemoryWatch(watch.allowed_at, watch.delay_s)
