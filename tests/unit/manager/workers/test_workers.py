# SPDX-License-Identifier: Apache-2.0
"""Which worker serves which device, and the deadline of its loads. No process is started."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

import pytest

from ovms_mp.child.specs import CpuShare
from ovms_mp.config.model import ModelConfig
from ovms_mp.config.server import LimitsConfig, ServerConfig
from ovms_mp.log_levels import LogLevels
from ovms_mp.manager.children.child import Child, ChildState
from ovms_mp.manager.children.control import ControlChannel
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.manager.children.spec_maker import SpecMaker
from ovms_mp.manager.models.deployment import Deployment, settings_of
from ovms_mp.manager.timers import Timers
from ovms_mp.manager.workers.workers import Seat, Workers
from ovms_mp.wire.messages import UnloadModel
from ovms_mp.wire.records import WorkerRecord

from ..fakes import Clock, Router, files

SHARE = CpuShare((2, 3), 1, is_pinning_safe=False)
LIMIT_S = 600.0
CONFIG = ModelConfig(name="m", base_path=files().model_file)
LOAD = Deployment(7, "m", 3, settings_of(CONFIG, LimitsConfig()), files()).load_message()


@dataclass
class Scene:
    """Seats, what was sent and who was signalled."""

    clock: Clock
    signals: list[tuple[int, int]] = field(default_factory=list)
    pending: set[tuple[int, str]] = field(default_factory=set)
    held_up: set[tuple[int, str]] = field(default_factory=set)
    late: list[tuple[int, str]] = field(default_factory=list)
    pid: int = 100

    def __post_init__(self) -> None:
        self.timers = Timers(self.clock)
        self.specs = SpecMaker(ServerConfig(models=()), "run", "ipc://@control", (), 8 << 30, LogLevels)
        self.router = Router()
        control = ControlChannel(self.router)  # type: ignore[arg-type]  # only sends
        self.workers = Workers(control, self.timers, LIMIT_S)

    def is_pending(self, handle: int, worker: str) -> bool:
        return (handle, worker) in self.pending

    def waits_for_untried(self, handle: int, worker: str) -> bool:
        return (handle, worker) in self.held_up

    def load_is_late(self, handle: int, reason: str) -> None:
        self.late.append((handle, reason))

    def spawn(self, seat: Seat, generation: int = 1) -> Child:
        """The seat's worker starts and is booting."""
        child_id = f"{seat.name}.{generation}"
        self.workers.seated(seat, self.specs.worker(child_id, seat.device, seat.share))
        self.pid += 1
        child = Child(seat.name, child_id, Kind.WORKER, self.pid, self.pid, None, self.clock)
        child.to(ChildState.BOOTING)
        return child

    def ready(self, device: str = "CPU") -> tuple[Seat, Child]:
        """A new seat with a worker that takes loads."""
        seat = self.workers.add(device, SHARE)
        return seat, self.become_ready(self.spawn(seat))

    def become_ready(self, child: Child) -> Child:
        child.to(ChildState.READY)
        self.workers.became_ready(child)
        return child

    def pass_time(self, seconds: float) -> None:
        self.clock.pass_time(seconds)
        self.timers.run_due()


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene(Clock())
    monkeypatch.setattr(
        signal, "pidfd_send_signal", lambda pidfd, number: made.signals.append((pidfd, number))
    )
    return made


def test_names_of_seats_are_never_used_twice(scene: Scene) -> None:
    first, second = scene.workers.add("CPU", SHARE), scene.workers.add("CPU", SHARE)
    scene.workers.remove(first)
    scene.workers.remove(first)
    third = scene.workers.add("GPU", SHARE)

    assert len({first.name, second.name, third.name}) == 3
    assert list(scene.workers) == [second, third]
    assert scene.workers.devices() == {"CPU", "GPU"}


def test_a_worker_is_a_route_once_it_is_ready(scene: Scene) -> None:
    seat = scene.workers.add("CPU", SHARE)
    child = scene.spawn(seat)
    assert scene.workers.ready("CPU") == ()
    assert list(scene.workers.routes("CPU")) == []
    assert scene.workers.records() == ()
    scene.become_ready(child)

    assert scene.workers.ready("CPU") == (child.child_id,)
    assert scene.workers.ready("GPU") == ()
    assert list(scene.workers.routes("CPU")) == [(child.child_id, seat.endpoint)]
    assert seat.endpoint.startswith("ipc://@")
    assert scene.workers.records() == (WorkerRecord(seat.name, "CPU", child.pid, (2, 3), seat.endpoint),)


def test_all_are_ready_when_each_seat_that_stays_is_filled(scene: Scene) -> None:
    assert scene.workers.are_all_ready()
    first = scene.workers.add("CPU", SHARE)
    assert not scene.workers.are_all_ready()
    scene.become_ready(scene.spawn(first))
    assert scene.workers.are_all_ready()
    second = scene.workers.add("GPU", SHARE)
    assert not scene.workers.are_all_ready()
    second.is_leaving = True

    assert scene.workers.are_all_ready()


def test_a_dead_worker_is_no_route(scene: Scene) -> None:
    seat, child = scene.ready()
    assert scene.workers.exited(child) is seat

    assert scene.workers.ready("CPU") == ()
    assert scene.workers.records() == ()
    assert not scene.workers.are_all_ready()
    assert scene.workers.devices() == {"CPU"}


def test_a_successor_has_another_endpoint_and_outlives_the_notice_of_its_predecessor(scene: Scene) -> None:
    seat, first = scene.ready()
    before = seat.endpoint
    scene.workers.exited(first)
    second = scene.become_ready(scene.spawn(seat, generation=2))
    scene.workers.exited(first)

    assert seat.endpoint != before
    assert scene.workers.ready("CPU") == (second.child_id,)


def test_a_worker_that_leaves_lives_and_is_no_route(scene: Scene) -> None:
    seat, child = scene.ready()
    seat.is_leaving = True

    assert scene.workers.ready("CPU") == ()
    assert list(scene.workers.routes("CPU")) == []
    assert [record.pid for record in scene.workers.records()] == [child.pid]
    assert scene.workers.devices() == set()


def test_a_worker_that_is_ready_after_its_seat_is_gone_has_none(scene: Scene) -> None:
    gone, leaving = scene.workers.add("CPU", SHARE), scene.workers.add("CPU", SHARE)
    late, later = scene.spawn(gone), scene.spawn(leaving)
    scene.workers.remove(gone)
    leaving.is_leaving = True
    late.to(ChildState.READY)
    later.to(ChildState.READY)

    assert scene.workers.became_ready(late) is None
    assert scene.workers.became_ready(later) is None
    assert scene.workers.ready("CPU") == ()
    assert scene.workers.exited(late) is None
    assert scene.workers.exited(later) is leaving


def test_messages_go_to_the_worker_that_is_meant(scene: Scene) -> None:
    scene.ready()
    seat, other = scene.ready()
    scene.workers.unload(other.child_id, 5)
    seat.is_leaving = True
    scene.workers.unload(other.child_id, 6)

    assert scene.router.sent == [(other.child_id, UnloadModel(5)), (other.child_id, UnloadModel(6))]
    assert scene.timers.seconds_to_next() is None


def test_what_is_sent_to_a_worker_that_is_gone_is_lost(scene: Scene) -> None:
    _, child = scene.ready()
    scene.workers.exited(child)
    scene.workers.load(child.child_id, LOAD, scene)

    assert scene.router.sent == []
    assert scene.timers.seconds_to_next() is None


def test_a_load_that_hangs_costs_the_worker_its_life(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    _, child = scene.ready()
    scene.pending.add((LOAD.handle, child.child_id))
    scene.workers.load(child.child_id, LOAD, scene)
    assert scene.router.sent == [(child.child_id, LOAD)]
    scene.pass_time(LIMIT_S - 1)
    assert scene.signals == []
    scene.pass_time(1)

    assert scene.signals == [(child.pidfd, signal.SIGKILL)]
    text = f"model=m version=3 not loaded within 600 s (--load_timeout_s); killing {child.child_id}"
    assert text in caplog.text
    assert scene.late == [(LOAD.handle, "it was not loaded within 600 s (--load_timeout_s)")]


@pytest.mark.parametrize("is_held_up", [False, True])
def test_what_was_tried_does_not_wait_long_behind_what_was_not(scene: Scene, *, is_held_up: bool) -> None:
    _, child = scene.ready()
    scene.pending.add((LOAD.handle, child.child_id))
    scene.workers.load(child.child_id, LOAD, scene)
    scene.pass_time(9)
    assert scene.signals == []
    if is_held_up:
        scene.held_up.add((LOAD.handle, child.child_id))
    scene.pass_time(1)

    assert scene.signals == ([(child.pidfd, signal.SIGKILL)] if is_held_up else [])
    assert scene.late == []


def test_a_load_that_has_ended_here_does_not(scene: Scene) -> None:
    _, child = scene.ready()
    _, other = scene.ready()
    scene.pending.add((LOAD.handle, other.child_id))
    scene.workers.load(child.child_id, LOAD, scene)
    scene.pass_time(LIMIT_S)

    assert scene.signals == []


@pytest.mark.parametrize("state", [ChildState.DRAINING, ChildState.EXITED])
def test_a_worker_that_is_ending_is_left_to_that(scene: Scene, state: ChildState) -> None:
    _, child = scene.ready()
    scene.pending.add((LOAD.handle, child.child_id))
    scene.workers.load(child.child_id, LOAD, scene)
    child.to(state)
    scene.pass_time(LIMIT_S)

    assert scene.signals == []
