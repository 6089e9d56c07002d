# SPDX-License-Identifier: Apache-2.0
"""The fronts as the manager sees them: ports, arenas, snapshots sent and applied, and their orderly end."""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING

from ovms_mp.config.addresses import split_addresses
from ovms_mp.config.server import MEBIBYTE
from ovms_mp.defects import contain
from ovms_mp.errors import BootError
from ovms_mp.manager.children.child import Child, ChildState, Kind
from ovms_mp.manager.children.process_limits import check_process_limits
from ovms_mp.manager.fronts.arenas import ArenaPool
from ovms_mp.manager.fronts.inherited import by_port
from ovms_mp.manager.fronts.listeners import bind_rest, hold_grpc_port, lock_ports
from ovms_mp.manager.fronts.snapshots import SnapshotEncoder
from ovms_mp.wire.codec import encode
from ovms_mp.wire.messages import ArenaRetired, Drain, Welcome

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from ovms_mp.config.server import ServerConfig
    from ovms_mp.manager.children.specs import SpecMaker
    from ovms_mp.manager.children.supervisor import Supervisor
    from ovms_mp.wire.channels import Poller, Router
    from ovms_mp.wire.messages import RoutingSnapshot, ToChild
    from ovms_mp.wire.records import ArenaHandle

_log = logging.getLogger(__name__)


class Fronts:
    """Owns the ports, the arenas and the pipe of the arbiter's beats."""

    def __init__(
        self,
        config: ServerConfig,
        supervisor: Supervisor,
        poller: Poller,
        inherited: Sequence[socket.socket] = (),
    ) -> None:
        """Prepare; :meth:`open` takes what is needed.

        Args:
            config: Ports and addresses.
            supervisor: Starts the fronts.
            poller: Of the manager's loop.
            inherited: Listening sockets from a service manager, used instead of sockets of our own; owned from now on.
        """
        self._config = config
        self._supervisor = supervisor
        self._poller = poller
        self._waiting: list[str] = []
        self._encoder = SnapshotEncoder()
        self._inherited = inherited
        self._grpc_sockets: tuple[socket.socket, ...] = ()
        """Those that gRPC fronts share; without a service manager each has its own."""
        self._rest_sockets: tuple[socket.socket, ...] = ()
        self._held_sockets: tuple[socket.socket, ...] = ()
        self._specs: SpecMaker
        self._control: Router

    def open(self) -> None:
        """Take ports and memory.

        Raises:
            BootError: A port is taken, or the memory is refused.
        """
        config = self._config
        count = (config.grpc.workers if config.grpc.port else 0) + (
            config.rest.workers if config.rest.port else 0
        )
        check_process_limits(count, config.limits.arena_size_mb)
        self._grpc_sockets, self._rest_sockets = by_port(self._inherited, config.grpc.port, config.rest.port)
        if self._grpc_sockets and config.grpc.front != "WIRE":
            raise BootError(
                f"--grpc_front {config.grpc.front} cannot take sockets from a service manager; use WIRE, or leave "
                f"port {config.grpc.port} out of the socket unit"
            )
        if config.grpc.port and not self._grpc_sockets:
            addresses = split_addresses(config.grpc.bind_address)
            self._held_sockets = lock_ports(addresses, config.grpc.port, "gRPC")
            self._held_sockets += hold_grpc_port(addresses, config.grpc.port)
        if config.rest.port and not self._rest_sockets:
            addresses = split_addresses(config.rest.bind_address)
            self._held_sockets += lock_ports(addresses, config.rest.port, "REST")
            self._rest_sockets = bind_rest(addresses, config.rest.port)
        try:
            self._arenas = ArenaPool(2 * count, config.limits.arena_size_mb * MEBIBYTE)
        except OSError as error:
            raise BootError(f"--arena_size_mb {config.limits.arena_size_mb}: {error.strerror}") from None
        self._beat_read, self._beat_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poller.register(self._beat_read)

    def connect(self, specs: SpecMaker, control: Router) -> None:
        """What is known only once the arenas exist."""
        self._specs = specs
        self._control = control

    @property
    def arena_handles(self) -> tuple[ArenaHandle, ...]:
        """For every child's command line."""
        return self._arenas.handles

    def arena_descriptors(self) -> tuple[int, ...]:
        """For inheritance."""
        return self._arenas.descriptors()

    def start(self) -> str:
        """Start all fronts; why that is not possible, or nothing."""
        config = self._config
        if config.grpc.port:
            shared = tuple(listener.fileno() for listener in self._grpc_sockets)
            for index in range(config.grpc.workers):
                self._supervisor.fill(
                    f"grpc-{index}",
                    Kind.GRPC,
                    lambda child_id: self._specs.grpc_front(child_id, shared),
                    (*self.arena_descriptors(), *shared),
                )
        if config.rest.port:
            try:
                for listener in self._rest_sockets:
                    listener.listen(config.rest.backlog)
            except OSError as error:
                # Bound sockets with SO_REUSEADDR can be overtaken until one of them listens.
                return f"--rest_port {config.rest.port}: {error.strerror}"
            descriptors = tuple(listener.fileno() for listener in self._rest_sockets)
            self._supervisor.fill(
                "arbiter",
                Kind.ARBITER,
                lambda child_id: self._specs.arbiter(child_id, descriptors, self._beat_write),
                (*self.arena_descriptors(), *descriptors, self._beat_write),
            )
        return ""

    def are_ready(self) -> bool:
        """Whether as many as configured answer requests."""
        config = self._config
        ready = {
            kind: sum(child.state is ChildState.READY for child in self._supervisor.living(kind))
            for kind in (Kind.GRPC, Kind.REST)
        }
        return (not config.grpc.port or ready[Kind.GRPC] >= config.grpc.workers) and (
            not config.rest.port or ready[Kind.REST] >= config.rest.workers
        )

    def greeted(self, child: Child, snapshot: RoutingSnapshot) -> None:
        """A front said hello; it is welcomed as soon as there is an arena for it."""
        self._waiting.append(child.child_id)
        self.welcome_waiting(snapshot)

    def welcome_waiting(self, snapshot: RoutingSnapshot) -> None:
        """Give free arenas to fronts, oldest first; the rest wait until a dead front's arena is released."""
        while self._waiting:
            child = self._supervisor.find(self._waiting[0])
            if child is None:
                self._waiting.pop(0)
                continue
            claimed = self._arenas.claim(child.child_id)
            child.is_waiting = claimed is None
            if claimed is None:
                return
            self._waiting.pop(0)
            self._send(child, Welcome(*claimed))
            self._control.send(child.child_id.encode(), self._encoder.payload(snapshot))

    def publish(self, snapshot: RoutingSnapshot) -> bool:
        """Send a new snapshot to every front that has its arena; whether each of them could be sent it."""
        payload = self._encoder.payload(snapshot)
        is_sent = True
        for child in self._routing():
            name = child.child_id
            is_sent &= contain("manager.publish", name, self._control.send, name.encode(), payload)
        return is_sent

    def applied_epoch(self, latest: int) -> int:
        """The snapshot that every front has applied; the latest one when there is no front."""
        return min((child.applied_epoch for child in self._routing()), default=latest)

    def take_beats(self, readable: set[int]) -> None:
        """The arbiter's sign of life is a byte in a pipe."""
        if self._beat_read not in readable:
            return
        os.read(self._beat_read, 4096)
        for child in self._supervisor.living(Kind.ARBITER):
            self._supervisor.beat(child)
            if child.state is ChildState.SPAWNED:
                child.to(ChildState.BOOTING)
                child.to(ChildState.READY)

    def exited(self, child: Child) -> None:
        """A front is gone: its arena is free once no worker touches it."""
        workers = {
            worker.child_id: worker
            for worker in self._supervisor.living(Kind.WORKER)
            if worker.state is not ChildState.SPAWNED
        }
        retired = self._arenas.retire(child.child_id, workers)
        if retired is not None:
            for worker in workers.values():
                if not contain("manager.retire", worker.child_id, self._send, worker, ArenaRetired(*retired)):
                    # What it had of the arena is settled by its end.
                    worker.end("it could not be told that a front is gone")

    def arena_released(self, worker: Child, arena: int, epoch: int) -> None:
        """A worker does not touch that epoch any more."""
        self._arenas.released(worker.child_id, arena, epoch)

    def worker_reaped(self, worker: Child) -> None:
        """A worker is dead and touches nothing."""
        self._arenas.worker_reaped(worker.child_id)

    def stop_rest(self, drain_deadline_ns: int) -> None:
        """Stop accepting on REST: gunicorn closes its sockets and lets its workers finish."""
        self.close_sockets()
        for child in self._supervisor.living(Kind.REST, Kind.ARBITER):
            if not contain("manager.drain", child.child_id, self.stop_one, child, drain_deadline_ns):
                child.end("the server stops", is_dismissed=True)

    def stop_one(self, child: Child, drain_deadline_ns: int) -> None:
        """Have one REST front, or the arbiter, finish; its end is expected from now on."""
        if child.kind is Kind.ARBITER:
            child.signal(signal.SIGTERM)
        else:
            self._send(child, Drain(drain_deadline_ns))
        child.to(ChildState.DRAINING)

    def close_sockets(self) -> None:
        """Give the ports back."""
        for held in (*self._rest_sockets, *self._held_sockets):
            held.close()
        self._rest_sockets = self._held_sockets = ()

    def close(self) -> None:
        """Give everything back."""
        self.close_sockets()
        self._arenas.close()
        for descriptor in (self._beat_read, self._beat_write):
            os.close(descriptor)

    def _routing(self) -> list[Child]:
        return [
            child
            for child in self._supervisor.living(Kind.GRPC, Kind.REST)
            if child.state is not ChildState.SPAWNED and child.child_id not in self._waiting
        ]

    def _send(self, child: Child, message: ToChild) -> None:
        self._control.send(child.child_id.encode(), encode(message))
