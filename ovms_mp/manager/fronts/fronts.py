# SPDX-License-Identifier: Apache-2.0
"""The fronts as the manager sees them: started, given arenas, sent snapshots, and stopped in good order."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.manager.children.child import Child, ChildState
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.manager.fronts.snapshots import SnapshotEncoder
from ovms_mp.wire.codec import encode
from ovms_mp.wire.messages import ArenaRetired, Drain, ManagerBeat, Welcome

if TYPE_CHECKING:
    from ovms_mp.config.server import ServerConfig
    from ovms_mp.manager.children.control import ControlChannel
    from ovms_mp.manager.children.spec_maker import SpecMaker
    from ovms_mp.manager.children.supervisor import Supervisor
    from ovms_mp.manager.fronts.arbiter_pipes import ArbiterPipes
    from ovms_mp.manager.fronts.arenas import ArenaPool
    from ovms_mp.manager.fronts.ports import Ports
    from ovms_mp.wire.counters import CountersFile
    from ovms_mp.wire.messages import RoutingSnapshot


class Fronts:
    """Which fronts there are, which of them have an arena, and what they have been told."""

    def __init__(
        self,
        config: ServerConfig,
        supervisor: Supervisor,
        control: ControlChannel,
        specs: SpecMaker,
        ports: Ports,
        arenas: ArenaPool,
        pipes: ArbiterPipes,
        counters: CountersFile,
    ) -> None:
        """Prepare; no front is started before :meth:`start`.

        Args:
            config: Of the server.
            supervisor: Keeps the fronts running.
            control: The way to the fronts.
            specs: Makes their command lines.
            ports: Closed by :meth:`stop_rest`; the caller's otherwise.
            arenas: One for each front, and as many for successors; the caller's.
            pipes: Of the arbiter; the caller's.
            counters: A front's row has the number of its arena; the caller's.
        """
        self._config = config
        self._supervisor = supervisor
        self._control = control
        self._specs = specs
        self._ports = ports
        self._arenas = arenas
        self._pipes = pipes
        self._counters = counters
        self._waiting: list[str] = []
        self._encoder = SnapshotEncoder()

    def start(self) -> None:
        """Start all fronts.

        Raises:
            BootError: Another program listens on the REST port.
        """
        config = self._config
        memory = (*self._arenas.descriptors(), self._counters.handle.descriptor)
        if config.grpc.is_served:
            shared = tuple(listener.fileno() for listener in self._ports.grpc)
            for index in range(config.grpc.workers):
                self._supervisor.fill(
                    f"grpc-{index}",
                    Kind.GRPC,
                    lambda child_id: self._specs.grpc_front(
                        child_id, shared, has_port=not self._ports.has_grpc_port
                    ),
                    (*memory, *shared),
                )
        if config.rest.is_served:
            self._ports.listen(config.rest.port, config.rest.backlog)
            listeners = tuple(listener.fileno() for listener in self._ports.rest)
            beats, levels = self._pipes.beat_end, self._pipes.levels_end
            self._supervisor.fill(
                "arbiter",
                Kind.ARBITER,
                lambda child_id: self._specs.arbiter(child_id, listeners, beats, levels),
                (*memory, *listeners, beats, levels),
            )

    def are_ready(self) -> bool:
        """Whether as many as configured answer requests."""
        config = self._config
        ready = {
            kind: sum(child.state is ChildState.READY for child in self._supervisor.living(kind))
            for kind in (Kind.GRPC, Kind.REST)
        }
        return (not config.grpc.is_served or ready[Kind.GRPC] >= config.grpc.workers) and (
            not config.rest.is_served or ready[Kind.REST] >= config.rest.workers
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
            self._control.send(child, Welcome(*claimed))
            self._control.send_payload(child, self._encoder.payload(snapshot))

    def publish(self, snapshot: RoutingSnapshot) -> bool:
        """Send a new snapshot to every front that has its arena; whether each of them could be sent it."""
        payload = self._encoder.payload(snapshot)
        is_sent = True
        for child in self._routing():
            is_sent &= contain("manager.publish", child.child_id, self._control.send_payload, child, payload)
        return is_sent

    def beat(self, lost_devices: tuple[str, ...]) -> None:
        """Tell every front that the manager lives, and what is lost."""
        payload = encode(ManagerBeat(lost_devices))
        for child in self._routing():
            contain("manager.beat", child.child_id, self._control.send_payload, child, payload)

    def applied_epoch(self, latest: int) -> int:
        """The snapshot that every front has applied; the latest one when there is no front."""
        return min((child.applied_epoch for child in self._routing()), default=latest)

    def behind(self, epoch: int) -> list[str]:
        """Fronts that have not applied this snapshot yet."""
        return [child.child_id for child in self._routing() if child.applied_epoch < epoch]

    def take_beats(self, readable: set[int]) -> None:
        """The arbiter's sign of life is a byte in a pipe."""
        if not self._pipes.has_beaten(readable):
            return
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
            contain("manager.counters", child.child_id, self._counters.close_row, retired[0])
            for worker in workers.values():
                notice = ArenaRetired(*retired)
                if not contain("manager.retire", worker.child_id, self._control.send, worker, notice):
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
        self._ports.close()
        for child in self._supervisor.living(Kind.REST, Kind.ARBITER):
            if not contain("manager.drain", child.child_id, self.stop_one, child, drain_deadline_ns):
                child.end("the server stops", is_dismissed=True)

    def stop_one(self, child: Child, drain_deadline_ns: int) -> None:
        """Have one REST front, or the arbiter, finish; its end is expected from now on."""
        if child.kind is Kind.ARBITER:
            child.signal(signal.SIGTERM)
        else:
            self._control.send(child, Drain(drain_deadline_ns))
        child.to(ChildState.DRAINING)

    def _routing(self) -> list[Child]:
        return [
            child
            for child in self._supervisor.living(Kind.GRPC, Kind.REST)
            if child.state is not ChildState.SPAWNED and child.child_id not in self._waiting
        ]
