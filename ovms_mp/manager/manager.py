# SPDX-License-Identifier: Apache-2.0
"""The manager's loop over messages, deaths, signals and timers, from the first worker to the last exit.

Start: workers, first load, fronts ready, log lines. Stop is the reverse: say so, fronts finish, workers drain,
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

from ovms_mp.config import MEBIBYTE
from ovms_mp.errors import BootError, ExitCode, ProtocolError
from ovms_mp.manager.arenas import ArenaPool
from ovms_mp.manager.catalogue import Catalogue
from ovms_mp.manager.children import Child, ChildState, Kind
from ovms_mp.manager.listeners import bind_rest, hold_grpc_port, lock_ports, split_addresses
from ovms_mp.manager.specs import SpecMaker
from ovms_mp.manager.supervisor import Supervisor
from ovms_mp.manager.timers import Timers
from ovms_mp.manager.workers import WorkerPool
from ovms_mp.wire.channels import Poller, Router, new_endpoint
from ovms_mp.wire.messages import (
    PROTOCOL_VERSION,
    ArenaReleased,
    ArenaRetired,
    BootFailed,
    Drain,
    Drained,
    Heartbeat,
    Hello,
    ModelStateChanged,
    Ready,
    RoutingSnapshot,
    SnapshotApplied,
    Welcome,
    decode_to_manager,
    encode,
)

if TYPE_CHECKING:
    import socket
    from types import TracebackType
    from typing import Self

    from ovms_mp.config import ServerConfig
    from ovms_mp.wire.messages import ToChild

_log = logging.getLogger(__name__)

_PR_SET_CHILD_SUBREAPER = 36
_NOTICE_S = 0.3
"""After a stop was asked for, REST takes requests for so long and tells clients to close their connections."""


class Phase(enum.Enum):
    """What the server as a whole is doing."""

    LOADING = enum.auto()
    STARTING_FRONTS = enum.auto()
    SERVING = enum.auto()
    STOPPING_FRONTS = enum.auto()
    STOPPING_WORKERS = enum.auto()


class Manager:
    """Owns the ports, the arenas, the control socket, the children and the truth about models."""

    def __init__(self, config: ServerConfig, run_id: str) -> None:
        self._config = config
        self._run_id = run_id
        self._timers = Timers()
        self._poller = Poller()
        self._supervisor = Supervisor(config.supervision, self._timers, self._poller, self)
        devices = tuple(dict.fromkeys(model.target_device for model in config.models))
        self._workers = WorkerPool(devices, self._send, self._timers, config.supervision.load_timeout_s)
        self._catalogue = Catalogue(config.models, config.limits, self._workers)
        self._workers.watch = self._catalogue
        self._devices = devices
        self._phase = Phase.LOADING
        self._exit_code: int | None = None
        self._epoch = 0
        self._is_snapshot_due = False
        self._is_plan_due = True
        self._waiting_fronts: list[str] = []
        self._stop_signals = 0
        self._final_code = ExitCode.CLEAN
        self._drain_deadline_ns = 0
        self._rest_sockets: tuple[socket.socket, ...] = ()
        self._held_sockets: tuple[socket.socket, ...] = ()

    def __enter__(self) -> Self:
        """Take ports, memory and signals; no child exists yet.

        Raises:
            BootError: A port is taken, or the memory is refused.
        """
        config = self._config
        # REST fronts whose arbiter died become our children, so that we can reap them also where init does
        # not.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        if config.grpc.port:
            addresses = split_addresses(config.grpc.bind_address)
            self._held_sockets = lock_ports(addresses, config.grpc.port, "gRPC")
            self._held_sockets += hold_grpc_port(addresses, config.grpc.port)
        if config.rest.port:
            addresses = split_addresses(config.rest.bind_address)
            self._held_sockets += lock_ports(addresses, config.rest.port, "REST")
            self._rest_sockets = bind_rest(addresses, config.rest.port)
        fronts = (config.grpc.workers if config.grpc.port else 0) + (
            config.rest.workers if config.rest.port else 0
        )
        try:
            self._arenas = ArenaPool(2 * fronts, config.limits.arena_size_mb * MEBIBYTE)
        except OSError as error:
            raise BootError(f"--arena_size_mb {config.limits.arena_size_mb}: {error.strerror}") from None
        control_endpoint = new_endpoint()
        self._specs = SpecMaker(config, self._run_id, control_endpoint, self._arenas.handles)
        self._control = Router(control_endpoint)
        self._poller.register(self._control)
        self._beat_read, self._beat_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poller.register(self._beat_read)
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
        """Whatever happened, leave no process behind."""
        self._supervisor.kill_all()
        self._close_sockets()
        self._control.close()
        self._poller.close()
        self._arenas.close()
        signal.set_wakeup_fd(-1)
        for descriptor in (self._beat_read, self._beat_write, self._signal_read, self._signal_write):
            os.close(descriptor)

    def _close_sockets(self) -> None:
        for held in (*self._rest_sockets, *self._held_sockets):
            held.close()
        self._rest_sockets = self._held_sockets = ()

    def run(self) -> int:
        """Serve until stopped; the exit code."""
        for device in self._devices:
            self._start_worker(device)
        self._check_liveness()
        while self._exit_code is None:
            readable = self._poller.wait(self._timers.seconds_to_next())
            self._take_signals(readable)
            self._take_beats(readable)
            self._take_messages()
            self._supervisor.collect(readable)
            self._timers.run_due()
            if self._is_plan_due:
                self._plan()
            self._advance()
            self._publish()
        return self._exit_code

    def _check_liveness(self) -> None:
        self._supervisor.check_liveness()
        self._timers.call_after(self._config.supervision.heartbeat_interval_s, self._check_liveness)

    def _plan(self) -> None:
        self._is_plan_due = False
        if self._phase in (Phase.STOPPING_FRONTS, Phase.STOPPING_WORKERS):
            return
        retry_at = self._catalogue.rescan(self._epoch)
        if retry_at is not None:
            self._timers.call_at(retry_at, self._ask_plan)

    def _ask_plan(self) -> None:
        self._is_plan_due = True

    def _poll_repositories(self) -> None:
        self._ask_plan()
        self._timers.call_after(self._config.repository.poll_wait_s, self._poll_repositories)

    def _advance(self) -> None:
        """Step to the next phase when this one has done its work."""
        match self._phase:
            case Phase.LOADING if self._catalogue.fatal_error and self._config.is_single_model:
                self.cannot_boot(self._catalogue.fatal_error.message)
            case Phase.LOADING if self._workers.are_all_ready() and self._catalogue.is_settled():
                self._phase = Phase.STARTING_FRONTS
                self._start_fronts()
            case Phase.STARTING_FRONTS if self._are_fronts_ready():
                self._phase = Phase.SERVING
                self._announce()
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

    def _publish(self) -> None:
        if not (self._catalogue.is_changed or self._is_snapshot_due):
            return
        self._catalogue.is_changed = self._is_snapshot_due = False
        self._epoch += 1
        payload = encode(self._snapshot())
        for child in self._supervisor.living(Kind.GRPC, Kind.REST):
            if child.state is not ChildState.SPAWNED and child.child_id not in self._waiting_fronts:
                self._control.send(child.child_id.encode(), payload)
        self._note_applied()

    def _snapshot(self) -> RoutingSnapshot:
        return RoutingSnapshot(
            epoch=self._epoch,
            is_draining=self._phase in (Phase.STOPPING_FRONTS, Phase.STOPPING_WORKERS),
            endpoints=self._workers.endpoints(),
            models=self._catalogue.records(),
        )

    def _start_worker(self, device: str) -> None:
        self._supervisor.fill(
            self._workers.role_name(device),
            Kind.WORKER,
            lambda child_id: self._workers.make_spec(self._specs, child_id, device),
            self._arenas.descriptors(),
        )

    def _start_fronts(self) -> None:
        config = self._config
        if config.grpc.port:
            for index in range(config.grpc.workers):
                self._supervisor.fill(
                    f"grpc-{index}", Kind.GRPC, self._specs.grpc_front, self._arenas.descriptors()
                )
        if config.rest.port:
            try:
                for listener in self._rest_sockets:
                    listener.listen(config.rest.backlog)
            except OSError as error:
                # Bound sockets with SO_REUSEADDR can be overtaken until one of them listens.
                self.cannot_boot(f"--rest_port {config.rest.port}: {error.strerror}")
                return
            descriptors = tuple(listener.fileno() for listener in self._rest_sockets)
            self._supervisor.fill(
                "arbiter",
                Kind.ARBITER,
                lambda child_id: self._specs.arbiter(child_id, descriptors, self._beat_write),
                (*self._arenas.descriptors(), *descriptors, self._beat_write),
            )

    def _are_fronts_ready(self) -> bool:
        config = self._config
        ready = {
            kind: sum(child.state is ChildState.READY for child in self._supervisor.living(kind))
            for kind in (Kind.GRPC, Kind.REST)
        }
        return (not config.grpc.port or ready[Kind.GRPC] >= config.grpc.workers) and (
            not config.rest.port or ready[Kind.REST] >= config.rest.workers
        )

    def _announce(self) -> None:
        """Scripts of legacy users wait for these lines."""
        config = self._config
        if config.grpc.port:
            names = ", ".join(repr(name) for name in self._catalogue.names)
            _log.info(
                "gRPC server listens on port %d and will be serving models: [%s]", config.grpc.port, names
            )
        if config.rest.port:
            names = ", ".join(repr(name) for name in self._catalogue.names)
            _log.info(
                "REST server listens on port %d and will be serving models: [%s]", config.rest.port, names
            )

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
            case BootFailed(error=error):
                self.cannot_boot(f"{child.child_id}: {error.message}")
            case SnapshotApplied(epoch=epoch):
                child.applied_epoch = epoch
                self._note_applied()
            case ModelStateChanged():
                self._catalogue.state_changed(message)
                self._ask_plan()
            case ArenaReleased(arena=arena, epoch=epoch):
                self._arenas.released(child.child_id, arena, epoch)
                self._welcome_waiting()
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
            self._waiting_fronts.append(child.child_id)
            self._welcome_waiting()
        else:
            self._send(child, Welcome(-1, 0))

    def _welcome_waiting(self) -> None:
        """Give free arenas to fronts, oldest first; the rest wait until a dead front's arena is released."""
        while self._waiting_fronts:
            child = self._supervisor.find(self._waiting_fronts[0])
            if child is None:
                self._waiting_fronts.pop(0)
                continue
            claimed = self._arenas.claim(child.child_id)
            child.is_waiting = claimed is None
            if claimed is None:
                return
            self._waiting_fronts.pop(0)
            index, epoch = claimed
            self._send(child, Welcome(index, epoch))
            self._send(child, self._snapshot())

    def _child_ready(self, child: Child, detail: str) -> None:
        if child.state is not ChildState.BOOTING:
            return  # It is being drained already.
        child.to(ChildState.READY)
        self._supervisor.beat(child)
        _log.info("event=ready child=%s pid=%d %s", child.child_id, child.pid, detail)
        if child.kind is Kind.WORKER:
            self._workers.became_ready(child)
            self._is_snapshot_due = True
            self._catalogue.worker_ready(self._workers.device_of(child))

    def _note_applied(self) -> None:
        """Work out which snapshot every front has applied."""
        epochs = [
            child.applied_epoch
            for child in self._supervisor.living(Kind.GRPC, Kind.REST)
            if child.state is not ChildState.SPAWNED and child.child_id not in self._waiting_fronts
        ]
        self._catalogue.fronts_applied(min(epochs, default=self._epoch))

    def _send(self, child: Child, message: ToChild) -> None:
        self._control.send(child.child_id.encode(), encode(message))

    def _take_beats(self, readable: set[int]) -> None:
        """The arbiter's sign of life is a byte in a pipe."""
        if self._beat_read not in readable:
            return
        os.read(self._beat_read, 4096)
        for child in self._supervisor.living(Kind.ARBITER):
            self._supervisor.beat(child)
            if child.state is ChildState.SPAWNED:
                child.to(ChildState.BOOTING)
                child.to(ChildState.READY)

    def child_exited(self, child: Child, reason: str) -> None:
        """A child has ended and touches nothing any more."""
        if child.kind is Kind.WORKER:
            self._workers.exited(child)
            self._catalogue.worker_lost(self._workers.device_of(child), reason)
            self._arenas.worker_reaped(child.child_id)
            self._is_snapshot_due = True
            self._ask_plan()
        elif child.kind.is_front:
            workers = {
                worker.child_id: worker
                for worker in self._supervisor.living(Kind.WORKER)
                if worker.state is not ChildState.SPAWNED
            }
            retired = self._arenas.retire(child.child_id, workers)
            if retired is not None:
                for worker in workers.values():
                    self._send(worker, ArenaRetired(*retired))
            self._note_applied()
        self._welcome_waiting()

    def cannot_boot(self, reason: str) -> None:
        """A child cannot be started: end the server with the reason, gently if it has been serving."""
        if self._exit_code is not None or self._phase in (Phase.STOPPING_FRONTS, Phase.STOPPING_WORKERS):
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
                self._ask_plan()
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
        if self._phase in (Phase.STOPPING_FRONTS, Phase.STOPPING_WORKERS):
            return
        grace_s = self._config.supervision.stop_grace_s
        _log.info("event=stopping reason=%s grace_s=%g", reason, grace_s)
        self._phase = Phase.STOPPING_FRONTS
        self._supervisor.stop_replacing()
        self._drain_deadline_ns = time.monotonic_ns() + int(grace_s * 1e9)
        self._is_snapshot_due = True
        self._drain(Kind.GRPC)
        self._timers.call_after(min(_NOTICE_S, grace_s / 2), self._stop_rest)
        self._timers.call_after(grace_s, self._give_up)

    def _drain(self, kind: Kind) -> None:
        """Ask the children of a kind to finish; one that has not even begun is ended at once."""
        for child in self._supervisor.living(kind):
            if child.state is ChildState.READY:
                self._send(child, Drain(self._drain_deadline_ns))
            else:
                child.signal(signal.SIGKILL)
            child.to(ChildState.DRAINING)

    def _stop_rest(self) -> None:
        """Stop accepting on REST: gunicorn closes its sockets and lets its workers finish."""
        self._close_sockets()
        for child in self._supervisor.living(Kind.REST, Kind.ARBITER):
            if child.kind is Kind.ARBITER:
                child.signal(signal.SIGTERM)
            else:
                self._send(child, Drain(self._drain_deadline_ns))
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
