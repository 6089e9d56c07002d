# SPDX-License-Identifier: Apache-2.0
"""Which worker serves which device, and the deadline of its loads. No process is started."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from ovms_mp.config import ServerConfig
from ovms_mp.manager import timers as timers_module
from ovms_mp.manager.children import Child, ChildState, Kind
from ovms_mp.manager.specs import SpecMaker
from ovms_mp.manager.timers import Timers
from ovms_mp.manager.workers import WorkerPool
from ovms_mp.wire.messages import LoadModel, ModelSettings, UnloadModel

if TYPE_CHECKING:
    from ovms_mp.wire.messages import ToChild

DEVICES = ("CPU", "AUTO:GPU,CPU")
LOAD = LoadModel(7, "m", 3, "/m.onnx", ModelSettings("CPU", 0, {}, 1, 1))
LIMIT_S = 600.0


@dataclass
class Scene:
    """A pool, what it sent and whom it signalled."""

    now: float = 1000.0
    sent: list[tuple[str, ToChild]] = field(default_factory=list)
    signals: list[tuple[int, int]] = field(default_factory=list)
    loading: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.timers = Timers()
        self.pool = WorkerPool(DEVICES, self.send, self.timers, LIMIT_S)
        self.pool.watch = self

    def monotonic(self) -> float:
        return self.now

    def send(self, child: Child, message: ToChild) -> None:
        self.sent.append((child.child_id, message))

    def is_loading(self, handle: int) -> bool:
        return handle in self.loading

    def ready(self, device: str, generation: int = 1) -> Child:
        """A worker starts and becomes ready."""
        name = self.pool.role_name(device)
        child_id = f"{name}.{generation}"
        specs = SpecMaker(ServerConfig(models=()), "run", "ipc://@control", ())
        self.pool.make_spec(specs, child_id, device)
        child = Child(name, child_id, Kind.WORKER, os.getpid(), 77, None, 0.0, 0.0, ChildState.READY)
        self.pool.became_ready(child)
        return child

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.timers.run_due()


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene()
    monkeypatch.setattr(timers_module, "time", made)
    monkeypatch.setattr(
        signal, "pidfd_send_signal", lambda pidfd, number: made.signals.append((pidfd, number))
    )
    return made


def test_every_device_has_its_role(scene: Scene) -> None:
    names = [scene.pool.role_name(device) for device in DEVICES]

    assert len(set(names)) == 2
    for device in DEVICES:
        assert scene.pool.device_of(scene.ready(device)) == device


def test_all_are_ready_when_each_is(scene: Scene) -> None:
    assert not scene.pool.are_all_ready()
    scene.ready("CPU")
    assert not scene.pool.are_all_ready()
    other = scene.ready("AUTO:GPU,CPU")
    assert scene.pool.are_all_ready()
    scene.pool.exited(other)

    assert not scene.pool.are_all_ready()


def test_endpoints_are_those_of_ready_workers(scene: Scene) -> None:
    assert scene.pool.endpoint("CPU") == ""
    assert scene.pool.endpoints() == ()
    child = scene.ready("CPU")
    endpoint = scene.pool.endpoint("CPU")
    assert endpoint.startswith("ipc://@")
    assert scene.pool.endpoints() == (endpoint,)
    scene.pool.exited(child)

    assert scene.pool.endpoint("CPU") == ""
    assert scene.pool.endpoints() == ()


def test_a_worker_that_has_only_started_is_no_way_to_its_device(scene: Scene) -> None:
    specs = SpecMaker(ServerConfig(models=()), "run", "ipc://@control", ())
    spec = scene.pool.make_spec(specs, "worker-0.1", "CPU")

    assert (spec.device, spec.child_id) == ("CPU", "worker-0.1")
    assert scene.pool.endpoint("CPU") == ""


def test_a_successor_has_another_endpoint_and_outlives_the_notice_of_its_predecessor(scene: Scene) -> None:
    first = scene.ready("CPU")
    before = scene.pool.endpoint("CPU")
    scene.ready("CPU", generation=2)
    after = scene.pool.endpoint("CPU")
    scene.pool.exited(first)

    assert after != before
    assert scene.pool.endpoint("CPU") == after


def test_messages_go_to_the_devices_worker(scene: Scene) -> None:
    scene.ready("CPU")
    other = scene.ready("AUTO:GPU,CPU")
    scene.pool.send("AUTO:GPU,CPU", UnloadModel(5))

    assert scene.sent == [(other.child_id, UnloadModel(5))]
    assert scene.timers.seconds_to_next() is None


def test_without_a_worker_nothing_is_sent(scene: Scene) -> None:
    scene.pool.send("CPU", LOAD)

    assert scene.sent == []
    assert scene.timers.seconds_to_next() is None


def test_a_load_that_hangs_costs_the_worker_its_life(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.ready("CPU")
    scene.loading.add(LOAD.handle)
    scene.pool.send("CPU", LOAD)
    scene.pass_time(LIMIT_S - 1)
    assert scene.signals == []
    scene.pass_time(1)

    assert scene.signals == [(77, signal.SIGKILL)]
    assert "model=m version=3 not loaded within 600 s (--load_timeout_s); killing worker-0.1" in caplog.text


def test_a_load_that_has_ended_does_not(scene: Scene) -> None:
    scene.ready("CPU")
    scene.pool.send("CPU", LOAD)
    scene.pass_time(LIMIT_S)

    assert scene.signals == []


def test_a_worker_that_is_being_stopped_is_left_to_its_own_deadline(scene: Scene) -> None:
    child = scene.ready("CPU")
    scene.loading.add(LOAD.handle)
    scene.pool.send("CPU", LOAD)
    child.to(ChildState.DRAINING)
    scene.pass_time(LIMIT_S)

    assert scene.signals == []
