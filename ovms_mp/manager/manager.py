# SPDX-License-Identifier: Apache-2.0
"""The manager's loop over messages, deaths, signals and timers, from the first worker to the last exit.

Start: workers, trials, first load, fronts ready, log lines. Stop is the reverse: say so, fronts finish, workers drain,
exit.
"""

from __future__ import annotations

import ctypes
import enum
import logging
import os
import signal
import time
from typing import TYPE_CHECKING

from ovms_mp.errors import DeviceUnavailable, ExitCode, ProtocolError
from ovms_mp.manager.catalogue import Catalogue
from ovms_mp.manager.children import Child, ChildState, Kind
from ovms_mp.manager.fronts import Fronts
from ovms_mp.manager.machine import read_machine
from ovms_mp.manager.reload import ConfigFile, ReloadRequests
from ovms_mp.manager.repository import Repository
from ovms_mp.manager.specs import SpecMaker
from ovms_mp.manager.staff import Staff
from ovms_mp.manager.status_socket import StatusSocket
from ovms_mp.manager.supervisor import Supervisor
from ovms_mp.manager.timers import Timers
from ovms_mp.manager.trials import Trials
from ovms_mp.manager.workers import Workers
from ovms_mp.wire.channels import Poller, Router, new_endpoint
from ovms_mp.wire.messages import (
    PROTOCOL_VERSION,
    ArenaReleased,
    BootFailed,
    Drain,
    Drained,
    Heartbeat,
    Hello,
    ModelStateChanged,
    ProbeDone,
    Ready,
    ReloadConfig,
    RoutingSnapshot,
    SnapshotApplied,
    Welcome,
    decode_to_manager,
    encode,
)
from ovms_mp.wire.status_document import status_document

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ovms_mp.config import ServerConfig
    from ovms_mp.manager.deployments import Deployment
    from ovms_mp.wire.messages import ToChild

_log = logging.getLogger(__name__)

_PR_SET_CHILD_SUBREAPER = 36
_NOTICE_S = 0.3
"""After a stop was asked for, REST takes requests for so long and tells clients to close their connections."""
_START_PATIENCE_S = 30.0
"""What is not loaded by then is loaded while the rest serves."""
_DEBOUNCE_S = 0.05
"""A copy makes many events; one look after the first of them sees what they say together."""


class Phase(enum.Enum):
    """What the server as a whole is doing."""

    LOADING = enum.auto()
    STARTING_FRONTS = enum.auto()
    SERVING = enum.auto()
    STOPPING_FRONTS = enum.auto()
    STOPPING_WORKERS = enum.auto()


_STOPPING = (Phase.STOPPING_FRONTS, Phase.STOPPING_WORKERS)


class Manager:
    """Owns the control socket and the loop; everything else is owned by the parts that it ties together."""

    def __init__(self, config: ServerConfig, run_id: str) -> None:
        self._config = config
        self._run_id = run_id
        self._timers = Timers()
        self._poller = Poller()
        supervision = config.supervision
        self._supervisor = Supervisor(supervision, self._timers, self._poller, self)
        self._fronts = Fronts(config, self._supervisor, self._poller)
        self._workers = Workers(self._send, self._timers, supervision.load_timeout_s)
        machine = read_machine()
        self._staff = Staff(config, machine, self._supervisor, self._workers, self._timers)
        self._trials = Trials(
            self._launch_probe,
            self._trial_ended,
            self._timers,
            time_limit_s=supervision.load_timeout_s,
            most_at_once=max(1, min(8, len(machine.cores) // 2)),
            cache_dir=config.engine.cache_dir,
        )
        self._catalogue = Catalogue(config.models, config.limits, self._workers, self._trials)
        self._catalogue.on_outdated = self._ask_plan
        self._workers.watch = self._catalogue.deployments
        self._repository = Repository(
            config.repository.settle_s, is_watching=config.repository.poll_wait_s > 0
        )
        self._config_file = (
            ConfigFile(config.config_path, is_strict=config.is_strict) if config.config_path else None
        )
        self._reloads = ReloadRequests()
        self._status = StatusSocket(self._poller, self._timers, lambda: status_document(self._snapshot()))
        self._phase = Phase.LOADING
        self._started_at = time.monotonic()
        self._exit_code: int | None = None
        self._epoch = 0
        self._is_snapshot_due = False
        self._is_plan_due = True
        self._is_hint_timed = False
        self._is_asked = False
        self._stop_signals = 0
        self._final_code = ExitCode.CLEAN
        self._drain_deadline_ns = 0

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
        control_endpoint = new_endpoint()
        self._specs = SpecMaker(self._config, self._run_id, control_endpoint, self._fronts.arena_handles)
        self._control = Router(control_endpoint)
        self._fronts.connect(self._specs, self._control)
        self._staff.connect(self._specs, self._control, self._fronts.arena_descriptors())
        self._poller.register(self._control)
        try:
            self._status.open(self._config.grpc.port, self._config.rest.port)
        except OSError as error:
            _log.warning("event=no_status_socket `ovms_mp status` needs --rest_port here: %s", error)
        self._hint_descriptor = self._repository.fileno()
        if self._hint_descriptor is not None:
            self._poller.register(self._hint_descriptor)
        self._signal_read, self._signal_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poller.register(self._signal_read)
        signal.set_wakeup_fd(self._signal_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # The wake-up descriptor carries the signal's number; the handler has nothing to do.
            signal.signal(number, _ignore)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Whatever happened, leave no process, file or port behind."""
        self._supervisor.kill_all()
        self._control.close()
        self._poller.close()
        self._fronts.close()
        self._repository.close()
        self._trials.close()
        self._status.close()
        signal.set_wakeup_fd(-1)
        for descriptor in (self._signal_read, self._signal_write):
            os.close(descriptor)

    def run(self) -> int:
        """Serve until stopped; the exit code."""
        self._staff.start(self._catalogue.devices())
        self._check_liveness()
        while self._exit_code is None:
            readable = self._poller.wait(self._timers.seconds_to_next())
            self._take_signals(readable)
            self._fronts.take_beats(readable)
            self._take_hints(readable)
            self._status.take(readable)
            self._take_messages()
            self._supervisor.collect(readable)
            self._timers.run_due()
            if self._is_plan_due:
                self._plan()
            self._advance()
            self._publish()
            self._answer_reloads()
        return self._exit_code

    def _check_liveness(self) -> None:
        self._supervisor.check_liveness()
        self._timers.call_after(self._config.supervision.heartbeat_interval_s, self._check_liveness)

    def _take_hints(self, readable: set[int]) -> None:
        if self._hint_descriptor in readable and self._repository.has_hint() and not self._is_hint_timed:
            self._is_hint_timed = True
            self._timers.call_after(_DEBOUNCE_S, self._follow_hint)

    def _follow_hint(self) -> None:
        self._is_hint_timed = False
        self._ask_plan()

    def _ask_plan(self) -> None:
        self._is_plan_due = True

    def _plan(self) -> None:
        """Look at configuration and repositories, and carry out what follows from it."""
        self._is_plan_due = False
        if self._phase in _STOPPING:
            return
        is_asked, self._is_asked = self._is_asked, False
        self._repository.arm(self._catalogue.configs, self._config.config_path)
        may_read = is_asked or self._config.repository.poll_wait_s > 0
        if self._config_file is not None and (may_read or self._config_file.is_being_read):
            models, again_at = self._config_file.read_if_changed(is_asked=is_asked)
            if models is not None:
                self._catalogue.reconfigure(models)
                self._repository.arm(self._catalogue.configs, self._config.config_path)
            if again_at is not None:
                self._timers.call_at(again_at, self._ask_plan)
        self._staff.adjust(self._catalogue.devices(), self._catalogue.devices_in_use())
        retry_at = self._catalogue.rescan(self._repository, self._epoch, is_asked=is_asked)
        # A version that is tried again may bring back a device whose worker could not be started.
        self._staff.adjust(self._catalogue.devices(), self._catalogue.devices_in_use())
        if retry_at is not None:
            self._timers.call_at(retry_at, self._ask_plan)

    def _poll_repositories(self) -> None:
        self._ask_plan()
        self._timers.call_after(self._config.repository.poll_wait_s, self._poll_repositories)

    def _advance(self) -> None:
        """Step to the next phase when this one has done its work."""
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
                self._fronts.announce([config.name for config in self._catalogue.configs])
                if self._config.repository.poll_wait_s > 0:
                    self._poll_repositories()
            case Phase.STOPPING_FRONTS if not any(
                self._supervisor.living(Kind.GRPC, Kind.REST, Kind.ARBITER)
            ):
                self._phase = Phase.STOPPING_WORKERS
                self._drain(Kind.WORKER)
            case Phase.STOPPING_WORKERS if not any(self._supervisor.living()):
                _log.info("event=stopped")
                self._exit_code = self._final_code
            case _:
                pass

    def _has_loaded(self) -> bool:
        """Whether to open the doors: all has been tried, or enough for one that takes long not to hold up the rest."""
        if time.monotonic() - self._started_at > _START_PATIENCE_S:
            return self._catalogue.is_idle() or self._catalogue.has_available()
        return self._catalogue.is_settled()

    def _publish(self) -> None:
        """Send a snapshot if anything in it changed, and carry on what waits for one to be applied."""
        if self._catalogue.is_changed or self._staff.is_changed or self._is_snapshot_due:
            self._catalogue.is_changed = self._staff.is_changed = self._is_snapshot_due = False
            self._epoch += 1
            self._catalogue.epoch = self._epoch
            self._fronts.publish(self._snapshot())
        self._carry_on()

    def _carry_on(self) -> None:
        applied = self._fronts.applied_epoch(self._epoch)
        self._catalogue.deployments.fronts_applied(applied)
        if self._phase not in _STOPPING:
            self._staff.advance(self._catalogue.deployments, self._epoch, applied)

    def _snapshot(self) -> RoutingSnapshot:
        return RoutingSnapshot(
            epoch=self._epoch,
            is_draining=self._phase in _STOPPING,
            workers=self._workers.records(),
            plan=self._staff.plan_lines(),
            models=self._catalogue.records(),
        )

    def _answer_reloads(self) -> None:
        """Answer who asked for a reload once all that followed from it has ended."""
        if not self._reloads or self._is_plan_due or not self._catalogue.is_settled():
            return
        if self._config_file is not None and self._config_file.is_being_read:
            return
        error = self._catalogue.last_failure
        if self._config_file is not None and self._config_file.error is not None:
            error = self._config_file.error
        for child_id, answer in self._reloads.answers(self._catalogue.changes, error):
            front = self._supervisor.find(child_id)
            if front is not None:
                self._send(front, answer)

    def _reload(self, front: Child, request: ReloadConfig) -> None:
        if not self._reloads:
            self._catalogue.last_failure = None
        self._reloads.add(front.child_id, request.request_id, self._catalogue.changes)
        self._look_now()

    def _look_now(self) -> None:
        """Somebody wants configuration and repositories looked at, whatever the settings say."""
        self._is_asked = True
        self._ask_plan()

    def _launch_probe(self, child_id: str, deployment: Deployment) -> Child | None:
        share = self._staff.share_of(deployment.settings.device)
        return self._supervisor.spawn_once(
            Kind.PROBE, self._specs.probe(child_id, deployment, share), self._fronts.arena_descriptors()
        )

    def _trial_ended(self, handle: int, error_name: str, reason: str, detail: str) -> None:
        self._catalogue.deployments.trial_ended(handle, error_name, reason, detail)

    def _take_messages(self) -> None:
        while (received := self._control.receive()) is not None:
            identity, payload = received
            try:
                message = decode_to_manager(payload)
            except ProtocolError as error:
                _log.error("event=bad_message peer=%r error=%s", identity, error)
                continue
            match message:
                case Heartbeat():
                    child = self._supervisor.find(message.child_id)
                    if child is not None:
                        self._supervisor.beat(
                            child, message.progress, message.in_flight, message.oldest_run_s
                        )
                case Hello():
                    self._greet(message)
                case _:
                    child = self._supervisor.find(identity.decode(errors="replace"))
                    if child is not None:
                        self._take_message(child, message)

    def _take_message(self, child: Child, message: object) -> None:
        match message:
            case Ready(detail=detail):
                self._child_ready(child, detail)
            case BootFailed(error=error) if child.kind is Kind.PROBE:
                self._trials.failed(child, error)
            case BootFailed(error=error):
                self._supervisor.report_boot_failure(child, error.message)
            case SnapshotApplied(epoch=epoch):
                child.applied_epoch = epoch
                self._carry_on()
            case ModelStateChanged():
                self._catalogue.deployments.state_changed(child.child_id, message)
            case ProbeDone():
                self._trials.done(child, message)
                self._send(child, Drain(0))  # Heard; it may end.
            case ReloadConfig():
                self._reload(child, message)
            case ArenaReleased(arena=arena, epoch=epoch):
                self._fronts.arena_released(child, arena, epoch)
                self._fronts.welcome_waiting(self._snapshot())
            case Drained():
                _log.debug("event=drained child=%s", child.child_id)
            case _:
                _log.warning(
                    "event=unexpected_message child=%s type=%s", child.child_id, type(message).__name__
                )

    def _greet(self, hello: Hello) -> None:
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
        else:
            self._send(child, Welcome(-1, 0))

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
                self._catalogue.deployments.worker_ready(child.child_id, seat.device)

    def _send(self, child: Child, message: ToChild) -> None:
        self._control.send(child.child_id.encode(), encode(message))

    def child_exited(self, child: Child, reason: str) -> None:
        """A child has ended and touches nothing any more."""
        if child.kind is Kind.PROBE:
            self._trials.exited(child, reason)
            return
        if child.kind is Kind.WORKER:
            was_leaving = self._staff.worker_exited(child)
            self._catalogue.deployments.worker_lost(child.child_id, "" if was_leaving else reason)
            self._fronts.worker_reaped(child)
            self._ask_plan()
        elif child.kind.is_front:
            self._fronts.exited(child)
        self._fronts.welcome_waiting(self._snapshot())

    def role_failed(self, name: str, reason: str) -> None:
        """A worker that a reload asked for cannot be started: its device's models fail, the server goes on."""
        device = self._staff.role_failed(name)
        if device is not None:
            self._catalogue.device_failed(
                device, f"no inference worker for {device!r} can be started: {reason}"
            )

    def cannot_boot(self, reason: str) -> None:
        """A child cannot be started: end the server with the reason, gently if it has been serving."""
        if self._exit_code is not None or self._phase in _STOPPING:
            return
        _log.error("event=boot_failed could not start: %s", reason)
        if self._phase is Phase.SERVING:
            self._stop("a child cannot be started")
            self._final_code = ExitCode.BOOT_FAILED
        else:
            self._supervisor.kill_all()
            self._exit_code = ExitCode.BOOT_FAILED

    def _take_signals(self, readable: set[int]) -> None:
        if self._signal_read not in readable:
            return
        for number in os.read(self._signal_read, 256):
            if number == signal.SIGHUP:
                _log.info("event=reload reason=SIGHUP")
                self._look_now()
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop_signals += 1
                name = signal.Signals(number).name
                if self._stop_signals == 1:
                    self._stop(name)
                else:
                    _log.warning("event=stop_now reason=second %s", name)
                    self._exit_code = 128 + number

    def _stop(self, reason: str) -> None:
        """Begin the orderly stop; :meth:`_advance` carries it on."""
        if self._phase in _STOPPING:
            return
        grace_s = self._config.supervision.stop_grace_s
        _log.info("event=stopping reason=%s grace_s=%g", reason, grace_s)
        self._phase = Phase.STOPPING_FRONTS
        self._supervisor.stop_replacing()
        self._trials.stop()
        self._drain_deadline_ns = time.monotonic_ns() + int(grace_s * 1e9)
        self._is_snapshot_due = True
        self._drain(Kind.GRPC)
        self._timers.call_after(
            min(_NOTICE_S, grace_s / 2), lambda: self._fronts.stop_rest(self._drain_deadline_ns)
        )
        self._timers.call_after(grace_s, self._give_up)

    def _drain(self, kind: Kind) -> None:
        """Ask the children of a kind to finish; one that has not even begun is ended at once."""
        for child in self._supervisor.living(kind):
            if child.state is ChildState.READY:
                self._send(child, Drain(self._drain_deadline_ns))
            elif child.state is not ChildState.DRAINING:
                child.signal(signal.SIGKILL)
            child.to(ChildState.DRAINING)

    def _give_up(self) -> None:
        """The grace period is over."""
        living = [child.child_id for child in self._supervisor.living()]
        if living and self._exit_code is None:
            _log.warning(
                "event=grace_over killing=%s; work in flight is lost (--stop_grace_s)", ",".join(living)
            )
            self._exit_code = self._final_code


def _ignore(*_: object) -> None:
    """Do nothing; see where it is installed."""
