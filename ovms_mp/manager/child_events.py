# SPDX-License-Identifier: Apache-2.0
"""Dispatches messages and exits of children to the part of the manager that handles them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ovms_mp.manager.children.child import Child, ChildState
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.wire.messages import (
    PROTOCOL_VERSION,
    ArenaReleased,
    BootFailed,
    ChangeState,
    Drain,
    Drained,
    FetchDone,
    FetchProgress,
    Heartbeat,
    Hello,
    LoadProgress,
    ModelStateChanged,
    PlanChanged,
    ProbeDone,
    Ready,
    RequestConvicted,
    SnapshotApplied,
    Welcome,
)

if TYPE_CHECKING:
    from ovms_mp.manager.changes.changes import Changes
    from ovms_mp.manager.changes.log_state import LogState
    from ovms_mp.manager.children.control import ControlChannel
    from ovms_mp.manager.children.roles import RoleFailure
    from ovms_mp.manager.children.supervisor import Supervisor
    from ovms_mp.manager.fronts.fronts import Fronts
    from ovms_mp.manager.lifecycle import Lifecycle
    from ovms_mp.manager.models.catalogue import Catalogue
    from ovms_mp.manager.models.load_reports import LoadReports
    from ovms_mp.manager.models.quarantine import Quarantine
    from ovms_mp.manager.models.rescans import Rescans
    from ovms_mp.manager.models.stores import Stores
    from ovms_mp.manager.models.trials import Trials
    from ovms_mp.manager.publisher import Publisher
    from ovms_mp.manager.shutdown import Shutdown
    from ovms_mp.manager.tally import Tally
    from ovms_mp.manager.workers.provisioner import Provisioner
    from ovms_mp.manager.workers.workers import Workers
    from ovms_mp.wire.messages import StateChanged
    from ovms_mp.wire.records import ErrorRecord

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class ChildEvents:
    """Handles events of the inbox and of the supervisor."""

    supervisor: Supervisor
    control: ControlChannel
    lifecycle: Lifecycle
    shutdown: Shutdown
    publisher: Publisher
    fronts: Fronts
    workers: Workers
    provisioner: Provisioner
    catalogue: Catalogue
    trials: Trials
    load_reports: LoadReports
    quarantine: Quarantine
    rescans: Rescans
    stores: Stores
    changes: Changes
    log_state: LogState
    tally: Tally

    def greet(self, hello: Hello) -> None:
        """Answer the Hello of a child."""
        if hello.protocol != PROTOCOL_VERSION:
            self.lifecycle.cannot_boot(
                f"{hello.child_id} speaks protocol {hello.protocol}, the manager {PROTOCOL_VERSION}; "
                f"was the package replaced while the server ran?"
            )
            return
        child = self.supervisor.find(hello.child_id)
        if child is None and hello.kind == Kind.REST.value:
            child = self.supervisor.adopt(hello.child_id, Kind.REST, hello.pid)
        if child is None or child.state is not ChildState.SPAWNED:
            return  # Gone, or already told to go while its hello was on the way.
        child.to(ChildState.BOOTING)
        if child.kind.is_front:
            self.fronts.greeted(child, self.publisher.snapshot())
            if self.lifecycle.is_stopping:
                self.shutdown.greeted(child)
        else:
            self.control.send(child, Welcome(-1, 0))
            self.log_state.greeted(child)

    def beat(self, child: Child, message: Heartbeat) -> None:
        """Handle a heartbeat."""
        self.supervisor.beat(child, message.progress, message.in_flight, message.oldest_run_s)

    def take_message(self, child: Child, message: object) -> None:
        """Dispatch a message."""
        match message:
            case Ready(detail=detail):
                self._child_ready(child, detail)
            case BootFailed(error=error):
                self._boot_failed(child, error)
            case SnapshotApplied(epoch=epoch):
                child.applied_epoch = epoch
                self.publisher.carry_on()
            case ModelStateChanged():
                self.tally.load_ended(child, message.handle, has_failed=message.error is not None)
                self.catalogue.deployments.state_changed(child.child_id, message)
            case PlanChanged():
                self.catalogue.deployments.plan_changed(child.child_id, message)
            case LoadProgress(handle=handle, stage=stage):
                self.load_reports.take_stage(child, handle, stage)
                self.tally.stage_begun(child.child_id, handle, stage)
            case ProbeDone():
                self.tally.load_ended(child, message.handle, has_failed=message.error is not None)
                self.trials.done(child, message)
                self.control.send(child, Drain(0))  # Heard; it may end.
            case FetchProgress():
                self.stores.progress(message)
            case FetchDone():
                self.stores.done(message)
            case _:
                self._take_front_message(child, message)

    def _take_front_message(self, child: Child, message: object) -> None:
        match message:
            case ChangeState():
                self.changes.ask(
                    message.change,
                    message.deadline_ns / 1e9,
                    partial(self._answer, child.child_id),
                    message.request_id,
                )
            case RequestConvicted(conviction=conviction):
                self.quarantine.convicted(conviction)
            case ArenaReleased(arena=arena, epoch=epoch):
                self.fronts.arena_released(child, arena, epoch)
                self.fronts.welcome_waiting(self.publisher.snapshot())
            case Drained():
                return
            case _:
                _log.warning(
                    "event=unexpected_message child=%s type=%s", child.child_id, type(message).__name__
                )

    def _answer(self, child_id: str, answer: StateChanged) -> None:
        """Answer a front that lives."""
        front = self.supervisor.find(child_id)
        if front is not None:
            self.control.send(front, answer)

    def _boot_failed(self, child: Child, error: ErrorRecord) -> None:
        if child.kind is Kind.PROBE:
            self.trials.failed(child, error)
        else:
            self.supervisor.report_boot_failure(child, error.message)

    def _child_ready(self, child: Child, detail: str) -> None:
        if child.state is not ChildState.BOOTING:
            return  # It is being drained already.
        child.to(ChildState.READY)
        self.supervisor.beat(child)
        _log.info("event=ready child=%s pid=%d %s", child.child_id, child.pid, detail)
        if child.kind is Kind.WORKER:
            seat = self.provisioner.worker_ready(child)
            if seat is not None:
                self.catalogue.deployments.worker_ready(child.child_id, seat.device, seat.tenant)
        elif child.kind is Kind.FETCHER:
            self.stores.ready(child)

    def child_exited(self, child: Child, reason: str) -> None:
        """Handle the exit of a child that has been reaped."""
        if child.kind is Kind.PROBE:
            self.trials.exited(child, reason)
            return
        if child.kind is Kind.FETCHER:
            self.stores.exited(child, reason)
            return
        if child.kind is Kind.WORKER:
            self.rescans.ask()
            self.fronts.worker_reaped(child)
            self.quarantine.worker_exited(child, self.workers.seat_of(child), reason)
        elif child.kind.is_front:
            self.fronts.exited(child)
        self.fronts.welcome_waiting(self.publisher.snapshot())

    def role_failed(self, failure: RoleFailure) -> None:
        """Handle a role that cannot be filled: stop the server, or fail the models of a worker's device."""
        if failure.is_vital:
            self.lifecycle.cannot_boot(failure.reason)
            return
        tenant = self.provisioner.tenant_of(failure.role)
        device = self.provisioner.role_failed(failure.role)
        if tenant:
            self.quarantine.release(tenant)
        if device is not None:
            self.catalogue.device_failed(
                device, f"no inference worker for {device!r} can be started: {failure.reason}"
            )
