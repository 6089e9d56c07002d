# SPDX-License-Identifier: Apache-2.0
"""Which workers run: the real supervisor and seats, over a kernel that the test plays."""

from __future__ import annotations

import itertools
import mmap
import os
import signal
from typing import TYPE_CHECKING

import pytest

from ovms_mp.child.memory import own_memory_bytes
from ovms_mp.child.specs import CpuShare, WorkerSpec, spec_from_argument
from ovms_mp.config.server import EngineConfig, ServerConfig, SupervisionConfig
from ovms_mp.manager.children.child import Child, ChildState
from ovms_mp.manager.workers import memory_limit as memory_limit_module
from ovms_mp.manager.workers.cpu_plan import Machine
from ovms_mp.manager.workers.workers import Seat
from ovms_mp.wire.messages import Drain

from ..kernel import Kernel
from ..provisioning import provisioning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MACHINE = Machine((0, 1, 2, 3), ((0, 1, 2, 3),), {core: (core,) for core in range(4)})
STUCK_S = 120.0
MIB = 1 << 20


class Scene:
    """A provisioner among its surroundings; the test also plays the manager's loop."""

    def __init__(self, kernel: Kernel, *, cpu_workers: int = 1, limit_mb: int = 0) -> None:
        self.kernel = kernel
        config = ServerConfig(
            models=(),
            supervision=SupervisionConfig(stuck_timeout_s=STUCK_S),
            engine=EngineConfig(cpu_workers=cpu_workers, worker_memory_limit_mb=limit_mb),
        )
        made = provisioning(config, MACHINE, kernel)
        self.timers, self.poller, self.control = made.timers, made.poller, made.router
        self.supervisor, self.workers, self.provisioner = made.supervisor, made.workers, made.provisioner
        self.complete: set[str] = set()
        self.memory: dict[int, int] = {}
        self.fatal: list[str] = []
        self.without_worker: list[str] = []
        self.epoch = self.applied = 0

    # The supervisor's listener.

    def child_exited(self, child: Child, reason: str) -> None:
        self.provisioner.worker_exited(child)

    def take_failures(self) -> None:
        while (failure := self.supervisor.take_failure()) is not None:
            if failure.is_vital:
                self.fatal.append(failure.reason)
            elif (device := self.provisioner.role_failed(failure.role)) is not None:
                self.without_worker.append(device)

    # What workers have.

    def is_complete_on(self, worker: str, device: str, tenant: int = 0) -> bool:
        return worker in self.complete

    # The test's doings.

    def publish(self) -> None:
        """As the manager does at the end of each turn."""
        if self.provisioner.is_changed:
            self.epoch += 1
            self.provisioner.note_snapshot(self.epoch)
        self.provisioner.advance(self, self.applied)

    def apply(self) -> None:
        """The fronts have applied what was published last."""
        self.applied = self.epoch
        self.provisioner.advance(self, self.applied)

    def rest(self) -> None:
        """Publish and apply until nothing moves."""
        for _ in range(5):
            self.publish()
            self.apply()

    def child(self, seat: Seat) -> Child:
        (child,) = [child for child in self.supervisor.living() if child.role == seat.name]
        return child

    def make_ready(self, seat: Seat) -> Child:
        child = self.child(seat)
        child.to(ChildState.BOOTING)
        child.to(ChildState.READY)
        self.supervisor.beat(child)
        self.workers.became_ready(child)
        return child

    def end(self, child: Child, status: int) -> None:
        self.kernel.process(child.pid).end(status)
        self.supervisor.collect(self.poller.wait(0.0), self)
        self.take_failures()

    def pass_time(self, seconds: float) -> None:
        self.kernel.now += seconds
        self.timers.run_due()
        self.take_failures()

    def seats(self, device: str = "CPU") -> list[Seat]:
        return [seat for seat in self.workers if seat.device == device]

    def spec(self, child: Child) -> WorkerSpec:
        return spec_from_argument(self.kernel.process(child.pid).command[-1], WorkerSpec)

    def signals(self, child: Child) -> list[int]:
        return self.kernel.process(child.pid).signals

    def started(self, *devices: str) -> list[Child]:
        """The first workers, ready."""
        self.provisioner.start(devices)
        children = [self.make_ready(seat) for seat in self.workers]
        self.complete |= {child.child_id for child in children}
        self.rest()
        return children


@pytest.fixture
def make_scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Scene]]:
    kernel = Kernel()
    kernel.install(monkeypatch)
    scenes: list[Scene] = []

    def make(**settings: int) -> Scene:
        scenes.append(Scene(kernel, **settings))
        monkeypatch.setattr(
            memory_limit_module, "own_memory_bytes", lambda pid: scenes[-1].memory.get(pid, 0)
        )
        return scenes[-1]

    yield make
    kernel.close()
    for scene in scenes:
        scene.poller.close()


@pytest.fixture
def scene(make_scene: Callable[..., Scene]) -> Scene:
    return make_scene()


# The start.


def test_every_device_has_a_worker_with_its_share(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(cpu_workers=2)
    scene.provisioner.start(["CPU", "GPU"])
    specs = [scene.spec(child) for child in scene.supervisor.living()]

    assert [(spec.device, spec.cpu.cores) for spec in specs] == [
        ("CPU", (0, 1)),
        ("CPU", (2, 3)),
        ("GPU", ()),
    ]
    assert len({spec.data_endpoint for spec in specs}) == 3
    assert [seat.endpoint for seat in scene.workers] == [spec.data_endpoint for spec in specs]
    assert scene.provisioner.share_of("CPU").cores == (0, 1)
    assert scene.provisioner.plan_lines()[0].startswith("machine: 4 cores")
    pages = [seat.page_descriptor for seat in scene.workers]
    assert len(set(pages)) == 3
    assert [spec.run_page for spec in specs] == pages
    inherited = [scene.kernel.process(child.pid).descriptors for child in scene.supervisor.living()]
    assert inherited == [(5, page) for page in pages]


def test_a_first_worker_that_cannot_start_ends_the_server(scene: Scene) -> None:
    scene.provisioner.start(["CPU"])
    scene.end(scene.child(scene.seats()[0]), 3)

    assert len(scene.fatal) == 1
    assert scene.without_worker == []


def test_a_worker_that_dies_is_followed_by_another_in_its_seat(scene: Scene) -> None:
    (child,) = scene.started("CPU")
    (seat,) = scene.seats()
    before = seat.endpoint
    scene.supervisor.beat(child, progress=1)
    scene.end(child, -11)

    assert scene.seats() == [seat]
    assert scene.child(seat).child_id == "worker-0.2"
    assert seat.child is None
    assert seat.endpoint != before
    assert scene.provisioner.is_changed


# Devices come and go.


def test_nothing_to_adjust_is_nothing(scene: Scene) -> None:
    scene.started("CPU")
    scene.provisioner.adjust(["CPU"], {"CPU"})

    assert len(scene.kernel.processes) == 1
    assert not scene.provisioner.is_changed


def test_a_new_device_gets_a_worker(scene: Scene) -> None:
    scene.started("CPU")
    scene.provisioner.adjust(["CPU", "GPU"], {"CPU"})

    assert [seat.device for seat in scene.workers] == ["CPU", "GPU"]
    assert any(line.startswith("GPU") for line in scene.provisioner.plan_lines())
    scene.provisioner.adjust(["CPU", "GPU"], {"CPU"})
    assert len(scene.kernel.processes) == 2


def test_the_plan_is_that_of_the_workers_there_are(scene: Scene) -> None:
    scene.started("CPU", "GPU")
    assert [line.split(":")[0] for line in scene.provisioner.plan_lines()] == [
        "machine",
        "CPU",
        "CPU worker 0",
        "GPU",
    ]
    scene.provisioner.adjust(["CPU"], {"CPU"})
    assert scene.provisioner.is_changed  # So that it is published.

    assert [line.split(":")[0] for line in scene.provisioner.plan_lines()] == [
        "machine",
        "CPU",
        "CPU worker 0",
    ]


def test_the_plan_lacks_a_device_whose_worker_could_not_be_started(scene: Scene) -> None:
    scene.started("CPU")
    scene.provisioner.adjust(["CPU", "GPU"], {"CPU"})
    scene.end(scene.child(scene.seats("GPU")[0]), 3)

    assert scene.without_worker == ["GPU"]
    assert not any(line.startswith("GPU") for line in scene.provisioner.plan_lines())


def test_the_plan_has_a_replaced_worker_until_its_successor_takes_over(scene: Scene) -> None:
    (old,) = scene.started("CPU")
    before = scene.provisioner.plan_lines()
    seat = scene.seats()[0]
    successor = scene.provisioner.replace(seat, "for a test", CpuShare((0, 1), 0, is_pinning_safe=True))
    scene.make_ready(successor)
    scene.rest()
    assert scene.provisioner.plan_lines() == before
    scene.complete.add(scene.child(successor).child_id)
    scene.publish()

    assert "CPU worker 0: cores 0-1, 2 threads at most" in scene.provisioner.plan_lines()
    assert scene.seats()[0].child is old


def test_the_plan_has_the_worker_of_a_version_on_its_own(scene: Scene) -> None:
    scene.started("CPU")
    scene.provisioner.isolate("CPU", 7, lambda: 0.0)

    assert scene.provisioner.plan_lines()[-1] == (
        "CPU: 1 more worker on cores 0-3, for one version whose requests crash workers"
    )
    assert scene.provisioner.plan_lines()[1].startswith("CPU: 1 worker; ")


def test_a_device_that_nobody_wants_is_drained_when_all_fronts_know(scene: Scene) -> None:
    _, child = scene.started("CPU", "GPU")
    scene.provisioner.adjust(["CPU"], {"CPU", "GPU"})
    scene.rest()
    assert scene.control.sent == [], "something is still deployed there"
    scene.provisioner.adjust(["CPU"], {"CPU"})
    assert scene.workers.ready("GPU") == ()
    scene.publish()
    assert scene.control.sent == []
    scene.apply()
    ((identity, message),) = scene.control.sent
    assert (identity, type(message)) == (child.child_id, Drain)
    assert child.state is ChildState.DRAINING
    scene.rest()
    assert len(scene.control.sent) == 1
    scene.end(child, 0)

    assert [seat.device for seat in scene.workers] == ["CPU"]
    assert len(scene.kernel.processes) == 2


def test_the_drain_has_a_deadline(scene: Scene) -> None:
    _, child = scene.started("CPU", "GPU")
    scene.provisioner.adjust(["CPU"], {"CPU"})
    scene.rest()
    (_, message) = scene.control.sent[0]
    assert isinstance(message, Drain)
    assert message.deadline_ns == int((scene.kernel.now + STUCK_S) * 1e9)
    scene.pass_time(STUCK_S)
    assert scene.signals(child) == []
    scene.pass_time(2)

    assert scene.signals(child) == [signal.SIGKILL]


def test_a_device_that_is_wanted_again_while_its_worker_leaves_gets_another(scene: Scene) -> None:
    _, child = scene.started("CPU", "GPU")
    scene.provisioner.adjust(["CPU"], {"CPU"})
    scene.provisioner.adjust(["CPU", "GPU"], {"CPU"})
    old, new = scene.seats("GPU")
    scene.make_ready(new)
    scene.rest()
    scene.end(child, 0)

    assert old.is_leaving
    assert scene.seats("GPU") == [new]


def test_a_worker_that_is_not_needed_before_it_is_ready_is_ended(scene: Scene) -> None:
    scene.started("CPU")
    scene.provisioner.adjust(["CPU", "GPU"], {"CPU"})
    child = scene.child(scene.seats("GPU")[0])
    scene.provisioner.adjust(["CPU"], {"CPU"})
    assert scene.signals(child) == [signal.SIGKILL]
    assert scene.seats("GPU") == []
    scene.end(child, -9)
    scene.pass_time(60)

    assert len(scene.kernel.processes) == 2
    assert (scene.fatal, scene.without_worker) == ([], [])


def test_a_device_whose_later_worker_cannot_start_is_told_once(scene: Scene) -> None:
    scene.started("CPU")
    scene.provisioner.adjust(["CPU", "NPU"], {"CPU"})
    scene.end(scene.child(scene.seats("NPU")[0]), 3)
    assert scene.without_worker == ["NPU"]
    assert scene.fatal == []
    assert scene.seats("NPU") == []
    scene.provisioner.adjust(["CPU", "NPU"], {"CPU"})

    assert len(scene.kernel.processes) == 2


def test_it_is_tried_again_when_the_configuration_asks_anew(scene: Scene) -> None:
    scene.started("CPU")
    scene.provisioner.adjust(["CPU", "NPU"], {"CPU"})
    scene.end(scene.child(scene.seats("NPU")[0]), 3)
    scene.provisioner.adjust(["CPU"], {"CPU"})
    scene.provisioner.adjust(["CPU", "NPU"], {"CPU"})

    assert len(scene.seats("NPU")) == 1


def test_it_is_tried_again_when_a_version_is_tried_again(scene: Scene) -> None:
    # A version whose back-off is over has a deployment there, which would wait for a worker for ever.
    scene.started("CPU")
    scene.provisioner.adjust(["CPU", "NPU"], {"CPU"})
    scene.end(scene.child(scene.seats("NPU")[0]), 3)
    scene.provisioner.adjust(["CPU", "NPU"], {"CPU"})
    scene.provisioner.adjust(["CPU", "NPU"], {"CPU", "NPU"})

    assert len(scene.seats("NPU")) == 1


def test_one_of_several_workers_that_cannot_start_leaves_the_device_to_the_others(
    make_scene: Callable[..., Scene],
) -> None:
    scene = make_scene(cpu_workers=2)
    scene.started("GPU")
    scene.provisioner.adjust(["GPU", "CPU"], {"GPU"})
    first, second = scene.seats()
    scene.end(scene.child(first), 3)

    assert scene.without_worker == []
    assert scene.seats() == [second]


def test_a_worker_that_leaves_is_none_that_the_device_has(scene: Scene) -> None:
    scene.started("CPU", "GPU")
    scene.provisioner.adjust(["CPU"], {"CPU"})
    scene.provisioner.adjust(["CPU", "GPU"], {"CPU"})
    old, new = scene.seats("GPU")
    assert old.is_leaving
    scene.end(scene.child(new), 3)

    assert scene.without_worker == ["GPU"]


def test_names_that_are_no_seat_are_nothing(scene: Scene) -> None:
    assert scene.provisioner.role_failed("grpc-0") is None


# Replacement.


def test_a_successor_takes_over_before_the_old_worker_leaves(scene: Scene) -> None:
    (old,) = scene.started("CPU")
    (seat,) = scene.seats()
    successor = scene.provisioner.replace(seat, "it has grown")
    assert successor.share == seat.share
    scene.rest()
    assert scene.workers.ready("CPU") == (old.child_id,)
    new = scene.make_ready(successor)
    scene.rest()
    assert scene.workers.ready("CPU") == (old.child_id, new.child_id), "it has not loaded everything"
    scene.complete.add(new.child_id)
    scene.publish()
    assert scene.workers.ready("CPU") == (new.child_id,)
    scene.publish()
    assert scene.control.sent == [], "fronts still route to it"
    scene.apply()
    assert [identity for identity, _ in scene.control.sent] == [old.child_id]
    scene.end(old, 0)
    scene.rest()

    assert scene.seats() == [successor]
    assert successor.replaces is None
    assert len(scene.kernel.processes) == 2


def test_only_a_snapshot_without_the_old_worker_counts(scene: Scene) -> None:
    (old,) = scene.started("CPU")
    successor = scene.provisioner.replace(scene.seats()[0], "it has grown")
    new = scene.make_ready(successor)
    scene.complete.add(new.child_id)
    # The fronts say that they have applied what was published before the old worker left.
    scene.provisioner.is_changed = True
    scene.publish()
    scene.apply()
    assert scene.seats()[0].is_leaving
    scene.apply()
    assert scene.control.sent == []
    scene.publish()
    assert scene.control.sent == []
    scene.apply()

    assert [identity for identity, _ in scene.control.sent] == [old.child_id]


def test_an_old_worker_that_dies_meanwhile_has_left(scene: Scene) -> None:
    (old,) = scene.started("CPU")
    seat = scene.seats()[0]
    successor = scene.provisioner.replace(seat, "it has grown")
    scene.supervisor.beat(old, progress=1)
    scene.end(old, -9)
    again = scene.child(seat)
    new = scene.make_ready(successor)
    scene.complete.add(new.child_id)
    scene.rest()
    assert scene.seats() == [successor]
    assert scene.signals(again) == [signal.SIGKILL]
    scene.end(again, -9)
    scene.pass_time(60)

    assert list(scene.supervisor.living()) == [new]


def test_a_successor_that_cannot_start_leaves_the_old_worker(scene: Scene) -> None:
    (old,) = scene.started("CPU")
    successor = scene.provisioner.replace(scene.seats()[0], "it has grown")
    scene.end(scene.child(successor), 3)
    scene.rest()

    assert scene.workers.ready("CPU") == (old.child_id,)
    assert len(scene.seats()) == 1
    assert (scene.fatal, scene.without_worker) == ([], [])


def test_a_successor_that_dies_is_followed_by_another(scene: Scene) -> None:
    (old,) = scene.started("CPU")
    successor = scene.provisioner.replace(scene.seats()[0], "it has grown")
    new = scene.make_ready(successor)
    scene.supervisor.beat(new, progress=1)
    scene.end(new, -9)
    scene.rest()
    assert scene.workers.ready("CPU") == (old.child_id,)
    again = scene.make_ready(successor)
    scene.complete.add(again.child_id)
    scene.rest()

    assert scene.workers.ready("CPU") == (again.child_id,)


def test_a_successor_that_never_has_everything_does_not_stay_for_ever(scene: Scene) -> None:
    # A version that serves did not load there, say for want of memory; nothing else would end the two workers.
    (old,) = scene.started("CPU")
    new = scene.make_ready(scene.provisioner.replace(scene.seats()[0], "it has grown"))
    for _ in range(100):
        scene.pass_time(60)
        scene.rest()

    assert scene.workers.ready("CPU") == (old.child_id,)
    assert new.state is ChildState.DRAINING or scene.signals(new)


# Memory.


def test_without_a_limit_nobody_looks(scene: Scene) -> None:
    (child,) = scene.started("CPU")
    scene.memory[child.pid] = 1 << 40
    scene.pass_time(10)

    assert len(scene.kernel.processes) == 1


def grown(make_scene: Callable[..., Scene], mib: int = 101) -> tuple[Scene, Child]:
    scene = make_scene(limit_mb=100)
    (child,) = scene.started("CPU")
    scene.memory[child.pid] = mib * MIB
    return scene, child


def take_over(scene: Scene, mib: int) -> Child:
    """The successor starts with so much memory, and the old worker leaves."""
    seat = scene.seats()[-1]
    child = scene.make_ready(seat)
    scene.memory[child.pid] = mib * MIB
    scene.complete.add(child.child_id)
    scene.rest()
    for other in list(scene.supervisor.living()):
        if other.state is ChildState.DRAINING:
            scene.end(other, 0)
    assert scene.seats() == [seat]
    return child


@pytest.mark.parametrize(("mib", "processes"), [(99, 1), (100, 1), (101, 2)])
def test_a_worker_past_the_limit_is_replaced(
    make_scene: Callable[..., Scene], mib: int, processes: int
) -> None:
    scene, _ = grown(make_scene, mib)
    scene.pass_time(1)
    scene.pass_time(1)

    assert len(scene.kernel.processes) == processes


def test_it_is_replaced_once(make_scene: Callable[..., Scene], caplog: pytest.LogCaptureFixture) -> None:
    scene, _ = grown(make_scene)
    scene.pass_time(1)
    scene.make_ready(scene.seats()[-1])
    for _ in range(100):
        scene.pass_time(1)

    assert len(scene.kernel.processes) == 2
    assert caplog.text.count("event=replacing") == 1
    assert "--worker_memory_limit_mb" in caplog.text


def test_a_successor_that_needs_as_much_is_not_replaced_without_end(make_scene: Callable[..., Scene]) -> None:
    scene, _ = grown(make_scene)
    scene.pass_time(1)
    take_over(scene, 105)
    for _ in range(1000):
        scene.pass_time(1)

    assert len(scene.kernel.processes) == 2


def test_a_successor_that_grows_again_is_replaced_after_a_pause(make_scene: Callable[..., Scene]) -> None:
    scene, _ = grown(make_scene)
    scene.pass_time(1)
    child = take_over(scene, 105)
    scene.memory[child.pid] = 130 * MIB
    scene.pass_time(5)
    assert len(scene.kernel.processes) == 2
    for _ in range(10):
        scene.pass_time(1)

    assert len(scene.kernel.processes) == 3


def test_replacements_for_ever_come_more_and_more_slowly(make_scene: Callable[..., Scene]) -> None:
    scene, _ = grown(make_scene)
    moments = []
    for _ in range(6):
        before = len(scene.kernel.processes)
        while len(scene.kernel.processes) == before:
            scene.pass_time(1)
        moments.append(scene.kernel.now)
        child = take_over(scene, 10)
        scene.memory[child.pid] = 200 * MIB
    pauses = [later - earlier for earlier, later in itertools.pairwise(moments)]

    assert pauses == sorted(pauses)
    assert pauses[-1] > 4 * pauses[0]


def test_a_replacement_that_came_to_nothing_is_tried_again_later(make_scene: Callable[..., Scene]) -> None:
    scene, old = grown(make_scene)
    scene.pass_time(1)
    scene.end(scene.child(scene.seats()[-1]), 3)
    scene.pass_time(1)
    assert len(scene.kernel.processes) == 2
    for _ in range(60):
        scene.pass_time(1)

    assert len(scene.kernel.processes) == 3
    assert scene.workers.ready("CPU") == (old.child_id,)


def test_memory_of_this_process() -> None:
    own = own_memory_bytes(os.getpid())
    # Not from the heap, which may have room that was counted already.
    with mmap.mmap(-1, 64 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as ballast:
        ballast.write(os.urandom(64 * MIB))
        grown_to = own_memory_bytes(os.getpid())

    assert 4 * MIB < own < 1 << 40
    assert grown_to - own > 48 * MIB


def test_memory_of_a_process_that_is_gone() -> None:
    assert own_memory_bytes(2**22 + 1) == 0
