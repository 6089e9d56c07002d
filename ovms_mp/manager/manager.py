# SPDX-License-Identifier: Apache-2.0
"""The manager's loop over messages, deaths, signals and timers, from the first worker to the last exit.

Start: workers, trials, first load, fronts ready, log lines. Stop is the reverse: fronts finish, workers drain, exit.
"""

from __future__ import annotations

import ctypes
import logging
import signal
from typing import TYPE_CHECKING

from ovms_mp.defects import Steps, contain
from ovms_mp.errors import DeviceUnavailable, ExitCode
from ovms_mp.log import reopen_logs, tell_people
from ovms_mp.manager.announcement import Announcement
from ovms_mp.manager.children.child import Child, ChildState, Kind
from ovms_mp.manager.children.socket_directory import SocketDirectory
from ovms_mp.manager.children.specs import SpecMaker
from ovms_mp.manager.children.supervisor import Supervisor
from ovms_mp.manager.ending import Ending
from ovms_mp.manager.fronts.fronts import Fronts
from ovms_mp.manager.inbox import Inbox
from ovms_mp.manager.models.catalogue import Catalogue
from ovms_mp.manager.models.load_reports import LoadReports
from ovms_mp.manager.models.planning import Planning
from ovms_mp.manager.models.quarantine import Quarantine
from ovms_mp.manager.models.reload import BY_SIGNAL, ReloadRequests, tell_outcome
from ovms_mp.manager.models.trial_memory import TrialMemory
from ovms_mp.manager.models.trials import Trials, cache_directory_of
from ovms_mp.manager.phase import STOPPING, Phase
from ovms_mp.manager.signal_pipe import SignalPipe
from ovms_mp.manager.status_socket import StatusSocket
from ovms_mp.manager.terminal import Terminal
from ovms_mp.manager.timers import Timers
from ovms_mp.manager.workers.machine import read_machine, read_memory
from ovms_mp.manager.workers.staff import Staff
from ovms_mp.manager.workers.workers import Workers
from ovms_mp.wire.channels import Poller, Router
from ovms_mp.wire.codec import encode
from ovms_mp.wire.messages import (
    PROTOCOL_VERSION,
    ArenaReleased,
    BootFailed,
    Drain,
    Drained,
    Heartbeat,
    Hello,
    LoadProgress,
    ModelStateChanged,
    ProbeDone,
    Ready,
    ReloadConfig,
    RequestConvicted,
    RoutingSnapshot,
    SnapshotApplied,
    Welcome,
)
from ovms_mp.wire.status_document import status_document

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ovms_mp.config.server import ServerConfig
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.models.deployment import Deployment
    from ovms_mp.wire.messages import ToChild
    from ovms_mp.wire.records import ErrorRecord

_log = logging.getLogger(__name__)

_PR_SET_CHILD_SUBREAPER = 36
_AGAIN_S = 0.05
"""Until steps that raised are done again."""
_MOST_FAILURES_AT_START = 20
"""Turns in a row in which a step may raise while nothing is served yet; then the server ends with its reason."""
_TERMINAL_LOOK_S = 1.0
_TERMINAL_CLOSED = "its terminal was closed (SIGHUP); start it with nohup to have it go on"
_START_PATIENCE_S = 30.0
"""What is not loaded by then is loaded while the rest serves."""


class Manager:
    """Owns the control socket and the loop; everything else is owned by the parts that it ties together."""

    def __init__(self, config: ServerConfig, run_id: str, clock: Clock) -> None:
        self._clock = clock
        self._config = config
        self._run_id = run_id
        self._timers = Timers(clock)
        self._poller = Poller()
        supervision = config.supervision
        self._supervisor = Supervisor(supervision, self._timers, self._poller, clock, self)
        self._fronts = Fronts(config, self._supervisor, self._poller)
        self._workers = Workers(self.send, self._timers, supervision.load_timeout_s)
        machine = read_machine()
        self._staff = Staff(config, machine, self._supervisor, self._workers, self._timers, clock)
        self._trials = Trials(
            self._launch_probe,
            self._trial_ended,
            self._timers,
            time_limit_s=supervision.load_timeout_s,
            most_at_once=max(1, min(8, len(machine.cores) // 2)),
            cache_dir=cache_directory_of(config.engine),
            memory=TrialMemory(config.engine.trial_memory_limit_mb),
        )
        self._catalogue = Catalogue(config.models, config.limits, self._workers, self._trials, clock)
        self._catalogue.refuse(config.refused)
        self._planning = Planning(config, self._catalogue, self._staff, self._timers, clock)
        self._catalogue.on_outdated = self._planning.ask
        self._workers.watch = self._catalogue.deployments
        self._quarantine = Quarantine(self._catalogue, self._staff, clock)
        self._inbox = Inbox(self._supervisor, self._catalogue.deployments, self._timers, self)
        self._load_reports = LoadReports(
            config, self._catalogue, self._trials, self._workers, self._timers, clock
        )
        self._reloads = ReloadRequests()
        self._terminal = Terminal(clock)
        self._announcement = Announcement(config)
        self._catalogue.on_loaded = self._announcement.loaded
        self._status = StatusSocket(
            self._poller, self._timers, lambda: status_document(self._snapshot(), self._planning.notes())
        )
        self._phase = Phase.LOADING
        self._started_at = self._clock.monotonic()
        self._exit_code: int | None = None
        self._epoch = 0
        self._is_snapshot_due = False
        self._stop_signals = 0
        self._final_code = ExitCode.CLEAN
        self._ending = Ending(supervision.stop_grace_s, self._supervisor, self._timers, clock, self.send)
        self._readable: set[int] = set()

    def __enter__(self) -> Self:
        """Take ports, memory and signals; no child exists yet.

        Raises:
            BootError: A port is taken, or the memory is refused.
        """
        # REST fronts whose arbiter died become our children, so that we can reap them also where init does
        # not.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._fronts.open()
        self._trials.open()
        self._sockets = SocketDirectory()
        control_endpoint = self._sockets.new_endpoint()
        self._specs = SpecMaker(
            self._config,
            self._run_id,
            control_endpoint,
            self._fronts.arena_handles,
            read_memory(),
            self._sockets.new_endpoint,
        )
        self._control = Router(control_endpoint)
        self._fronts.connect(self._specs, self._control)
        self._staff.connect(self._specs, self._control, self._fronts.arena_descriptors())
        self._poller.register(self._control)
        self._planning.open(self._poller)
        try:
            self._status.open(self._config.grpc.port, self._config.rest.port)
        except OSError as error:
            _log.warning("event=no_status_socket `ovms_mp status` needs --rest_port here: %s", error)
        self._signals = SignalPipe(self._poller)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Whatever happened, leave no process, file or port behind."""
        self._supervisor.kill_all()
        self._control.close()
        self._sockets.close()
        self._poller.close()
        self._fronts.close()
        self._planning.close()
        self._trials.close()
        self._workers.close()
        self._status.close()
        self._signals.close()

    def run(self) -> int:
        """Serve until stopped; the exit code."""
        self._staff.start(self._catalogue.devices())
        self._timers.call_every(
            self._config.supervision.heartbeat_interval_s, self._supervisor.check_liveness
        )
        if self._terminal.is_awaited:
            self._timers.call_every(_TERMINAL_LOOK_S, self._look_at_terminal)
        self._load_reports.open()
        turn = (
            self._take_signals,
            self._take_beats,
            self._take_hints,
            self._tell_status,
            self._take_messages,
            self._collect,
            self._timers.run_due,
            self._plan,
            self._advance,
            self._publish,
            self._answer_reloads,
        )
        steps = Steps("manager", _MOST_FAILURES_AT_START)
        while self._exit_code is None:
            if self._phase is Phase.SERVING:
                steps.most_failures = 0
            if steps.have_failed:
                # Not at once, as what made a descriptor readable may not have been taken.
                self._signals.wait(_AGAIN_S)
                self._timers.call_after(0.0, _ignore)
            self._readable = self._poller.wait(self._timers.seconds_to_next())
            steps.do(turn)
        return self._exit_code

    def _take_beats(self) -> None:
        self._fronts.take_beats(self._readable)

    def _collect(self) -> None:
        self._supervisor.collect(self._readable)

    def _tell_status(self) -> None:
        self._status.take(self._readable)

    def _take_hints(self) -> None:
        self._planning.take_hints(self._readable)

    def _plan(self) -> None:
        if self._phase in STOPPING:
            self._planning.is_due = False
        elif self._planning.is_due:
            self._planning.plan(self._epoch)

    def _advance(self) -> None:
        """Step to the next phase when this one has done its work."""
        if self._ending.is_over and self._exit_code is None:
            self._exit_code = self._final_code
            return
        failure = self._catalogue.last_failure
        match self._phase:
            case Phase.LOADING if (
                failure and failure.name == DeviceUnavailable.__name__ and self._config.config_path is None
            ):
                self.cannot_boot(failure.message)
            case Phase.LOADING if self._workers.are_all_ready() and self._has_loaded():
                self._phase = Phase.STARTING_FRONTS
                reason = self._fronts.start()
                if reason:
                    self.cannot_boot(reason)
            case Phase.STARTING_FRONTS if self._fronts.are_ready():
                self._phase = Phase.SERVING
                self._is_snapshot_due = True  # And with it what is served is told.
                self._planning.poll()
            case Phase.STOPPING_FRONTS if not any(
                self._supervisor.living(Kind.GRPC, Kind.REST, Kind.ARBITER)
            ):
                self._phase = Phase.STOPPING_WORKERS
                self._ending.drain(Kind.WORKER)
            case Phase.STOPPING_WORKERS if not any(self._supervisor.living()):
                _log.info("event=stopped")
                tell_people(_log, "Stopped")
                self._exit_code = self._final_code
            case _:
                pass

    def _has_loaded(self) -> bool:
        """Whether to open the doors: all has been tried, or enough for one that takes long not to hold up the rest."""
        if self._clock.monotonic() - self._started_at > _START_PATIENCE_S:
            return self._catalogue.is_idle() or self._catalogue.has_available()
        return self._catalogue.is_settled()

    def _publish(self) -> None:
        """Send a snapshot if anything in it changed, and carry on what waits for one to be applied."""
        parts = (self._catalogue, self._staff, self._planning)
        if self._is_snapshot_due or any(part.is_changed for part in parts):
            for part in parts:
                part.is_changed = False
            self._epoch += 1
            self._catalogue.epoch = self._epoch
            self._is_snapshot_due = True  # Again, should this raise.
            self._is_snapshot_due = not self._fronts.publish(self._snapshot())
            if self._phase is Phase.SERVING:
                self._announcement.tell(self._catalogue.records(), self._planning.notes())
        self._carry_on()

    def _carry_on(self) -> None:
        applied = self._fronts.applied_epoch(self._epoch)
        self._catalogue.deployments.fronts_applied(applied)
        if self._phase not in STOPPING:
            contain("manager.quarantine", "nobody", self._quarantine.advance)
            self._staff.advance(self._catalogue.deployments, self._epoch, applied)

    def _snapshot(self) -> RoutingSnapshot:
        return RoutingSnapshot(
            epoch=self._epoch,
            is_draining=self._phase in STOPPING,
            workers=self._workers.records(),
            plan=self._staff.plan_lines(),
            models=self._catalogue.records(),
            deaths=self._quarantine.deaths(),
            convictions=self._quarantine.convictions(),
            config_refusal=self._planning.config_refusal,
        )

    def _answer_reloads(self) -> None:
        """Answer who asked for a reload once all that followed from it has ended."""
        planning = self._planning
        if not self._reloads or planning.is_due or planning.is_reading or not self._catalogue.is_settled():
            return
        refusal = planning.config_refusal
        error = refusal.error if refusal is not None else self._catalogue.last_failure
        for child_id, answer in self._reloads.answers(self._catalogue.changes, error):
            front = self._supervisor.find(child_id)
            if child_id == BY_SIGNAL:
                tell_outcome(answer)
            elif front is not None:
                contain("manager.answer", child_id, self.send, front, answer)

    def _reload(self, child_id: str, request_id: int) -> None:
        if not self._reloads:
            self._catalogue.last_failure = None
        self._reloads.add(child_id, request_id, self._catalogue.changes)
        self._planning.look_now()

    def _launch_probe(self, child_id: str, deployment: Deployment) -> Child | None:
        share = self._staff.share_of(deployment.settings.device)
        return self._supervisor.spawn_once(
            Kind.PROBE,
            self._specs.probe(child_id, deployment.load_message(), share),
            self._fronts.arena_descriptors(),
        )

    def _trial_ended(self, handle: int, error: ErrorRecord | None, detail: str) -> None:
        self._catalogue.deployments.trial_ended(handle, error, detail)

    def _take_messages(self) -> None:
        self._inbox.take(self._control)

    def beat(self, child: Child, message: Heartbeat) -> None:
        """A child says how it is."""
        self._supervisor.beat(child, message.progress, message.in_flight, message.oldest_run_s)

    def take_message(self, child: Child, message: object) -> None:
        """Hand what a child says to the part that it is for."""
        match message:
            case Ready(detail=detail):
                self._child_ready(child, detail)
            case BootFailed(error=error):
                self._boot_failed(child, error)
            case SnapshotApplied(epoch=epoch):
                child.applied_epoch = epoch
                self._carry_on()
            case ModelStateChanged():
                self._catalogue.deployments.state_changed(child.child_id, message)
            case LoadProgress(handle=handle, stage=stage):
                self._load_reports.take_stage(child, handle, stage)
            case ProbeDone():
                self._trials.done(child, message)
                self.send(child, Drain(0))  # Heard; it may end.
            case _:
                self._take_front_message(child, message)

    def _boot_failed(self, child: Child, error: ErrorRecord) -> None:
        if child.kind is Kind.PROBE:
            self._trials.failed(child, error)
        else:
            self._supervisor.report_boot_failure(child, error.message)

    def _take_front_message(self, child: Child, message: object) -> None:
        match message:
            case ReloadConfig():
                self._reload(child.child_id, message.request_id)
            case RequestConvicted(conviction=conviction):
                self._quarantine.convicted(conviction)
            case ArenaReleased(arena=arena, epoch=epoch):
                self._fronts.arena_released(child, arena, epoch)
                self._fronts.welcome_waiting(self._snapshot())
            case Drained():
                return
            case _:
                _log.warning(
                    "event=unexpected_message child=%s type=%s", child.child_id, type(message).__name__
                )

    def greet(self, hello: Hello) -> None:
        """Welcome a child that says that it is there."""
        if hello.protocol != PROTOCOL_VERSION:
            self.cannot_boot(
                f"{hello.child_id} speaks protocol {hello.protocol}, the manager {PROTOCOL_VERSION}; "
                f"was the package replaced while the server ran?"
            )
            return
        child = self._supervisor.find(hello.child_id)
        if child is None and hello.kind == Kind.REST.value:
            child = self._supervisor.adopt(hello.child_id, Kind.REST, hello.pid)
        if child is None or child.state is not ChildState.SPAWNED:
            return  # Gone, or already told to go while its hello was on the way.
        child.to(ChildState.BOOTING)
        if child.kind.is_front:
            self._fronts.greeted(child, self._snapshot())
            if self._phase in STOPPING:
                self._ending.greeted(child, self._fronts)
        else:
            self.send(child, Welcome(-1, 0))

    def _child_ready(self, child: Child, detail: str) -> None:
        if child.state is not ChildState.BOOTING:
            return  # It is being drained already.
        child.to(ChildState.READY)
        self._supervisor.beat(child)
        _log.info("event=ready child=%s pid=%d %s", child.child_id, child.pid, detail)
        if child.kind is Kind.WORKER:
            seat = self._workers.became_ready(child)
            if seat is not None:
                self._is_snapshot_due = True
                self._catalogue.deployments.worker_ready(child.child_id, seat.device, seat.tenant)

    def send(self, child: Child, message: ToChild) -> None:
        """Send a message to a child."""
        self._control.send(child.child_id.encode(), encode(message))

    def child_exited(self, child: Child, reason: str) -> None:
        """A child has ended and touches nothing any more."""
        if child.kind is Kind.PROBE:
            self._trials.exited(child, reason)
            return
        if child.kind is Kind.WORKER:
            self._planning.ask()
            self._fronts.worker_reaped(child)
            self._quarantine.worker_exited(child, self._workers.seat_of(child), reason)
        elif child.kind.is_front:
            self._fronts.exited(child)
        self._fronts.welcome_waiting(self._snapshot())

    def role_failed(self, name: str, reason: str) -> None:
        """A worker that a reload asked for cannot be started: its device's models fail, the server goes on."""
        tenant = self._staff.tenant_of(name)
        device = self._staff.role_failed(name)
        if tenant:
            self._quarantine.release(tenant)
        if device is not None:
            self._catalogue.device_failed(
                device, f"no inference worker for {device!r} can be started: {reason}"
            )

    def cannot_boot(self, reason: str) -> None:
        """A child cannot be started: end the server with the reason, gently if it has been serving."""
        if self._exit_code is not None or self._phase in STOPPING:
            return
        _log.error("event=boot_failed could not start: %s", reason)
        if self._phase is Phase.SERVING:
            self._stop("a child cannot be started")
            self._final_code = ExitCode.BOOT_FAILED
        else:
            self._supervisor.kill_all()
            self._exit_code = ExitCode.BOOT_FAILED

    def _take_signals(self) -> None:
        for number in self._signals.take(self._readable):
            if number in (signal.SIGHUP, signal.SIGUSR1):
                reopen_logs()
                self._supervisor.reopen_logs()
            if number == signal.SIGHUP:
                self._hang_up()
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop_signals += 1
                name = signal.Signals(number).name
                if self._stop_signals == 1:
                    self._stop(name)
                else:
                    _log.warning("event=stop_now reason=second %s", name)
                    self._exit_code = 128 + number

    def _hang_up(self) -> None:
        """Stop if the terminal was closed; else it is the signal for a reload."""
        if self._terminal.hang_up():
            self._stop(_TERMINAL_CLOSED)
        elif self._phase not in STOPPING:
            _log.info("event=reload reason=SIGHUP")
            self._reload(BY_SIGNAL, 0)

    def _look_at_terminal(self) -> None:
        if self._terminal.is_closed():
            self._stop(_TERMINAL_CLOSED)

    def _stop(self, reason: str) -> None:
        """Begin the orderly stop; :meth:`_advance` carries it on."""
        if self._phase in STOPPING:
            return
        self._phase = Phase.STOPPING_FRONTS
        self._is_snapshot_due = True
        self._load_reports.close()
        self._ending.begin(reason, self._fronts, self._trials)


def _ignore(*_: object) -> None:
    """Do nothing; see where it is installed."""
