# SPDX-License-Identifier: Apache-2.0
"""Fronts as the manager sees them: snapshots and arenas. The processes are the test's; the port is a real one."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from ovms_mp.config.server import LimitsConfig, ServerConfig
from ovms_mp.config.transports import GrpcConfig, RestConfig
from ovms_mp.log_levels import LogLevels
from ovms_mp.manager.children.child import Child, ChildState
from ovms_mp.manager.children.control import ControlChannel
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.manager.children.spec_maker import SpecMaker
from ovms_mp.manager.children.supervisor import Supervisor
from ovms_mp.manager.fronts.arbiter_pipes import ArbiterPipes
from ovms_mp.manager.fronts.arenas import ArenaPool
from ovms_mp.manager.fronts.fronts import Fronts
from ovms_mp.manager.fronts.ports import take_ports
from ovms_mp.manager.timers import Timers
from ovms_mp.wire.channels import Poller
from ovms_mp.wire.counters import CountersFile
from ovms_mp.wire.messages import ArenaRetired, Drain, RoutingSnapshot, Welcome

from ..fakes import Router
from ..kernel import Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.child.specs import ChildSpec
    from ovms_mp.wire.messages import ToChild


def snapshot(epoch: int) -> RoutingSnapshot:
    return RoutingSnapshot(epoch=epoch, is_draining=False, workers=(), plan=(), models=())


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


class Scene:
    """Fronts of one gRPC process (so two arenas), and the control channel's manager end."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        config = ServerConfig(
            models=(),
            grpc=GrpcConfig(port=free_port(), bind_address="127.0.0.1"),
            rest=RestConfig(port=0),
            limits=LimitsConfig(arena_size_mb=1),
        )
        self.timers, self.poller = Timers(kernel), Poller()
        self.supervisor = Supervisor(config.supervision, self.timers, self.poller, kernel)
        self.ports, self.arenas, self.beats = (
            take_ports(config),
            ArenaPool(2, 1 << 20),
            ArbiterPipes(self.poller),
        )
        self.specs = SpecMaker(config, "run", "ipc://@control", self.arenas.handles, 8 << 30, LogLevels)
        self.router = Router()
        control = ControlChannel(self.router)  # type: ignore[arg-type]  # only sends
        self.counters = CountersFile(2, 0)
        self.fronts = Fronts(
            config, self.supervisor, control, self.specs, self.ports, self.arenas, self.beats, self.counters
        )

    def take(self) -> list[tuple[str, ToChild]]:
        return self.router.take()

    def close(self) -> None:
        for owner in (self.beats, self.arenas, self.ports, self.counters):
            owner.close()

    def child_exited(self, child: Child, reason: str) -> None:
        if child.kind is Kind.WORKER:
            self.fronts.worker_reaped(child)
        else:
            self.fronts.exited(child)
        self.fronts.welcome_waiting(snapshot(9))

    def fill(self, name: str, kind: Kind) -> Child:
        def make_spec(child_id: str) -> ChildSpec:
            return self.specs.grpc_front(child_id)

        self.supervisor.fill(name, kind, make_spec, ())
        return self.child(f"{name}.1")

    def child(self, child_id: str) -> Child:
        child = self.supervisor.find(child_id)
        assert child is not None
        return child

    def front(self, name: str = "grpc-0") -> Child:
        """A front that has said hello."""
        return self.greet(self.fill(name, Kind.GRPC))

    def greet(self, child: Child, epoch: int = 1) -> Child:
        child.to(ChildState.BOOTING)
        self.fronts.greeted(child, snapshot(epoch))
        return child

    def worker(self, name: str = "worker-0") -> Child:
        child = self.fill(name, Kind.WORKER)
        child.to(ChildState.BOOTING)
        child.to(ChildState.READY)
        return child

    def end(self, child: Child, status: int = -9) -> None:
        child.ready_at = child.ready_at or 1.0
        self.kernel.process(child.pid).end(status)
        self.supervisor.collect(self.poller.wait(0.0), self)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    kernel = Kernel()
    kernel.install(monkeypatch)
    made = Scene(kernel)
    yield made
    made.close()
    kernel.close()
    made.poller.close()


def test_there_are_twice_as_many_arenas_as_fronts_and_no_more_processes_than_that(scene: Scene) -> None:
    assert len(scene.arenas.handles) == 2
    scene.fronts.start()

    assert [child.child_id for child in scene.supervisor.living()] == ["grpc-0.1"]
    memory = (*scene.arenas.descriptors(), scene.counters.handle.descriptor)
    assert scene.kernel.processes[0].descriptors == memory
    assert not scene.fronts.are_ready()
    front = scene.child("grpc-0.1")
    front.to(ChildState.BOOTING)
    front.to(ChildState.READY)
    assert scene.fronts.are_ready()


def test_a_front_gets_its_arena_and_the_routes_of_now(scene: Scene) -> None:
    scene.front()

    assert scene.take() == [("grpc-0.1", Welcome(0, 1)), ("grpc-0.1", snapshot(1))]


def test_without_fronts_everything_has_been_applied(scene: Scene) -> None:
    scene.worker()

    assert scene.fronts.applied_epoch(7) == 7


def test_the_slowest_front_counts(scene: Scene) -> None:
    first, second = scene.front("grpc-0"), scene.front("grpc-1")
    assert scene.fronts.applied_epoch(7) == 0
    first.applied_epoch = 7
    assert scene.fronts.applied_epoch(7) == 0
    second.applied_epoch = 5

    assert scene.fronts.applied_epoch(7) == 5
    scene.end(second)
    assert scene.fronts.applied_epoch(7) == 7


def test_a_front_that_has_no_routes_yet_does_not_count(scene: Scene) -> None:
    first = scene.front()
    first.applied_epoch = 7
    scene.fill("grpc-1", Kind.GRPC)

    assert scene.fronts.applied_epoch(7) == 7
    scene.take()
    scene.fronts.publish(snapshot(8))
    assert scene.take() == [("grpc-0.1", snapshot(8))]


def test_a_front_waits_for_a_dead_ones_arena_until_the_workers_let_go(scene: Scene) -> None:
    worker = scene.worker()
    first, second = scene.front("grpc-0"), scene.front("grpc-1")
    first.applied_epoch = second.applied_epoch = 3
    scene.end(first)
    scene.take()
    successor = scene.greet(scene.child("grpc-0.2"), 4)
    assert [child.child_id for child in scene.supervisor.living() if child.is_waiting] == ["grpc-0.2"]
    assert scene.take() == []
    # It routes nothing, so nothing waits for it.
    assert scene.fronts.applied_epoch(3) == 3
    scene.fronts.publish(snapshot(5))
    assert scene.take() == [("grpc-1.1", snapshot(5))]

    scene.fronts.arena_released(worker, 0, 1)
    scene.fronts.welcome_waiting(snapshot(6))
    assert scene.take() == [("grpc-0.2", Welcome(0, 2)), ("grpc-0.2", snapshot(6))]
    assert not successor.is_waiting
    assert scene.fronts.applied_epoch(6) == 0


def test_workers_that_live_are_told_of_a_dead_front(scene: Scene) -> None:
    scene.worker()
    scene.fill("worker-1", Kind.WORKER)
    front = scene.front()
    scene.take()
    scene.end(front)

    # The second worker has not said hello: it has never seen the front.
    assert scene.take() == [("worker-0.1", ArenaRetired(0, 1))]


def test_a_dead_worker_has_let_go(scene: Scene) -> None:
    worker = scene.worker()
    first, _ = scene.front("grpc-0"), scene.front("grpc-1")
    scene.end(first)
    scene.greet(scene.child("grpc-0.2"))
    scene.take()
    scene.end(worker)

    assert ("grpc-0.2", Welcome(0, 2)) in scene.take()


def test_a_front_that_dies_while_it_waits_is_passed_over(scene: Scene) -> None:
    worker = scene.worker()
    first, _ = scene.front("grpc-0"), scene.front("grpc-1")
    scene.end(first)
    waiting = scene.greet(scene.child("grpc-0.2"))
    scene.end(waiting)
    scene.greet(scene.child("grpc-0.3"))
    scene.take()
    scene.fronts.arena_released(worker, 0, 1)
    scene.fronts.welcome_waiting(snapshot(2))

    assert scene.take() == [("grpc-0.3", Welcome(0, 2)), ("grpc-0.3", snapshot(2))]


def test_a_beat_of_the_arbiter_makes_it_ready(scene: Scene) -> None:
    arbiter = scene.fill("arbiter", Kind.ARBITER)
    scene.fronts.take_beats(set())
    assert not arbiter.was_ready
    assert scene.poller.wait(0.0) == set()
    os.write(scene.beats.beat_end, b"..")
    readable = scene.poller.wait(1.0)
    assert len(readable) == 1
    scene.kernel.now += 3
    scene.fronts.take_beats(readable)

    assert arbiter.state is ChildState.READY
    assert arbiter.beat_at == scene.kernel.now
    assert scene.poller.wait(0.0) == set()


def test_rest_is_stopped_by_the_arbiter_and_its_fronts_are_told(scene: Scene) -> None:
    arbiter = scene.fill("arbiter", Kind.ARBITER)
    process = scene.kernel.start()
    rest = scene.supervisor.adopt("rest.7", Kind.REST, process.pid)
    assert rest is not None
    scene.greet(rest)
    scene.take()
    scene.fronts.stop_rest(55)

    assert scene.kernel.process(arbiter.pid).signals == [signal.SIGTERM]
    assert scene.take() == [("rest.7", Drain(55))]
    assert arbiter.state is rest.state is ChildState.DRAINING
