# SPDX-License-Identifier: Apache-2.0
"""Supervision without processes: the kernel's part (start, pidfd, signal, wait) is played by pipes."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovms_mp.child.specs import ChildSpec, CommonSpec
from ovms_mp.config.server import SupervisionConfig
from ovms_mp.log_levels import LogLevels
from ovms_mp.manager.children import supervisor as supervisor_module
from ovms_mp.manager.children.child import Child, ChildState
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.manager.children.roles import RoleFailure
from ovms_mp.manager.children.supervisor import Supervisor
from ovms_mp.manager.timers import Timers
from ovms_mp.wire.channels import Poller

from ..kernel import FIRST_PID, InlineReaper, Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Told:
    """What the manager was told."""

    supervisor: Supervisor
    exits: list[tuple[str, str]] = field(default_factory=list)
    failures: list[RoleFailure] = field(default_factory=list)

    def child_exited(self, child: Child, reason: str) -> None:
        assert child.state is ChildState.EXITED
        self.exits.append((child.child_id, reason))

    def _take_failures(self) -> list[RoleFailure]:
        while (failure := self.supervisor.take_failure()) is not None:
            self.failures.append(failure)
        return self.failures

    @property
    def reasons(self) -> list[str]:
        """Why the server must stop."""
        return [failure.reason for failure in self._take_failures() if failure.is_vital]

    @property
    def given_up(self) -> list[tuple[str, str]]:
        """Roles that it can do without."""
        return [(failure.role, failure.reason) for failure in self._take_failures() if not failure.is_vital]


@dataclass
class Scene:
    """A supervisor among its surroundings."""

    kernel: Kernel
    timers: Timers
    poller: Poller
    told: Told
    supervisor: Supervisor

    def fill(self, name: str = "worker-0", kind: Kind = Kind.WORKER, *, is_vital: bool = True) -> Child:
        self.supervisor.fill(name, kind, make_spec, (3, 4), is_vital=is_vital)
        return self.child(f"{name}.1")

    def spawn_once(self, child_id: str = "probe.1") -> Child:
        child = self.supervisor.spawn_once(Kind.PROBE, make_spec(child_id), (3, 4))
        assert child is not None
        return child

    def signals(self, child: Child) -> list[int]:
        return self.kernel.process(child.pid).signals

    def child(self, child_id: str) -> Child:
        found = self.supervisor.find(child_id)
        assert found is not None, f"{child_id} is not there"
        return found

    def make_ready(self, child: Child) -> Child:
        child.to(ChildState.BOOTING)
        child.to(ChildState.READY)
        self.supervisor.beat(child)
        return child

    def end(self, child: Child, status: int) -> None:
        """The process ends, and the manager's loop notices."""
        self.kernel.process(child.pid).end(status)
        self.supervisor.collect(self.poller.wait(0.0), self.told)

    def serve_and_end(self, child: Child, status: int) -> None:
        self.make_ready(child)
        self.supervisor.beat(child, progress=1)
        self.end(child, status)

    def pass_time(self, seconds: float) -> None:
        self.kernel.now += seconds
        self.timers.run_due()

    def ids(self) -> list[str]:
        return [child.child_id for child in self.supervisor.living()]


def make_spec(child_id: str) -> ChildSpec:
    common = CommonSpec(
        parent_pid=1,
        run_id="r",
        control_endpoint="e",
        log_levels=LogLevels(),
        log_path="",
        log_format="EVENTS",
        heartbeat_interval_s=0.5,
        heartbeat_timeout_s=10.0,
        boot_timeout_s=60.0,
        arenas=(),
    )
    return ChildSpec(child_id=child_id, kind="worker", common=common)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    kernel = Kernel()
    kernel.install(monkeypatch)
    timers, poller = Timers(kernel), Poller()
    supervisor = Supervisor(
        SupervisionConfig(heartbeat_timeout_s=5.0), timers, poller, InlineReaper(), kernel
    )
    yield Scene(
        kernel,
        timers,
        poller,
        Told(supervisor),
        supervisor,
    )
    kernel.close()
    poller.close()


def test_a_child_is_started_with_its_spec_and_descriptors(scene: Scene) -> None:
    child = scene.fill("grpc-0", Kind.GRPC)
    (process,) = scene.kernel.processes

    assert process.command == [
        sys.executable, "-P", "-m", "ovms_mp.front.grpc", make_spec("grpc-0.1").to_argument()
    ]  # fmt: skip
    assert process.descriptors == (3, 4)
    assert process.environment["OPENBLAS_NUM_THREADS"] == os.environ.get("OPENBLAS_NUM_THREADS", "1")
    root = str(Path(supervisor_module.__file__).parents[3])
    assert process.environment["PYTHONPATH"].split(os.pathsep)[0] == root
    assert (child.role, child.child_id, child.pid, child.state) == (
        "grpc-0", "grpc-0.1", process.pid, ChildState.SPAWNED
    )  # fmt: skip


def test_children_are_found_by_id_and_by_kind(scene: Scene) -> None:
    worker, front = scene.fill(), scene.fill("grpc-0", Kind.GRPC)

    assert scene.supervisor.find("worker-0.1") is worker
    assert scene.supervisor.find("worker-0") is None
    assert list(scene.supervisor.living(Kind.GRPC, Kind.REST)) == [front]
    assert list(scene.supervisor.living()) == [worker, front]


def test_who_is_not_ready_in_time_ends_the_server(scene: Scene) -> None:
    scene.fill().to(ChildState.BOOTING)
    scene.pass_time(59.9)
    assert scene.told.reasons == []
    scene.pass_time(0.1)

    assert scene.told.reasons == ["worker-0.1 was not ready within 60 s (--boot_timeout_s)"]


def test_who_is_ready_in_time_does_not(scene: Scene) -> None:
    scene.make_ready(scene.fill())
    scene.pass_time(100)

    assert scene.told.reasons == []


# Deaths.


def test_who_had_served_is_replaced_at_once(scene: Scene) -> None:
    scene.serve_and_end(scene.fill(), -9)

    assert scene.told.exits[0][0] == "worker-0.1"
    assert scene.told.exits[0][1].startswith("killed by signal 9 (SIGKILL)")
    assert scene.ids() == ["worker-0.2"]
    assert scene.child("worker-0.2").state is ChildState.SPAWNED


@pytest.mark.parametrize("is_dismissed", [True, False])
def test_who_was_ended_has_the_reason_and_no_guess(
    scene: Scene, caplog: pytest.LogCaptureFixture, *, is_dismissed: bool
) -> None:
    probe = scene.spawn_once()
    with caplog.at_level("INFO"):
        probe.end("nobody wants it", is_dismissed=is_dismissed)
        probe.end("another reason")  # The first one counts.
        scene.end(probe, -9)

    assert scene.signals(probe) == [signal.SIGKILL, signal.SIGKILL]
    assert scene.told.exits == [("probe.1", "ended: nobody wants it")]
    (record,) = [
        record for record in caplog.records if "probe.1" in record.message and "ended" in record.message
    ]
    assert (record.levelname, "event=exited" in record.message) == (
        ("INFO", True) if is_dismissed else ("ERROR", False)
    )
    assert "out of memory" not in caplog.text


def test_a_crash_before_its_end_is_a_crash(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    probe = scene.spawn_once()
    probe.end("nobody wants it", is_dismissed=True)
    scene.end(probe, -11)

    assert scene.told.exits == [("probe.1", "killed by signal 11 (SIGSEGV)")]
    assert "event=died child=probe.1" in caplog.text


def test_a_role_that_is_ended_leaves_no_error(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    worker = scene.make_ready(scene.fill())
    scene.supervisor.end_role("worker-0")
    scene.end(worker, -9)

    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert scene.ids() == []


def test_who_dies_again_and_again_after_serving_is_replaced_without_end(scene: Scene) -> None:
    scene.fill()
    for number in range(1, 20):
        scene.serve_and_end(scene.child(f"worker-0.{number}"), -11)

    assert scene.ids() == ["worker-0.20"]
    assert scene.told.reasons == []


@pytest.mark.parametrize("status", [0, 1, 3, 70])
def test_who_exits_before_it_was_ready_ends_the_server(scene: Scene, status: int) -> None:
    scene.end(scene.fill(), status)

    assert len(scene.told.reasons) == 1
    assert scene.told.reasons[0].startswith(f"worker-0.1 could not start: exit code {status} (")
    assert scene.ids() == []


def test_who_is_killed_before_it_was_ready_gets_successors_more_and_more_slowly(scene: Scene) -> None:
    scene.fill()
    delays = []
    for number in range(1, 9):
        scene.end(scene.child(f"worker-0.{number}"), -9)
        delays.append(scene.timers.seconds_to_next() if not scene.ids() else 0.0)
        scene.pass_time(delays[-1] or 0.0)
        scene.child(f"worker-0.{number + 1}")
    scene.end(scene.child("worker-0.9"), -9)

    assert delays == pytest.approx([0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0])
    assert scene.ids() == []
    assert len(scene.told.reasons) == 1
    assert scene.told.reasons[0].startswith(
        "worker-0 died 9 times in a row before it was ready; the last one: killed"
    )


def test_a_drained_child_is_not_replaced(scene: Scene) -> None:
    child = scene.make_ready(scene.fill())
    child.to(ChildState.DRAINING)
    scene.end(child, 0)

    assert scene.told.exits == [("worker-0.1", "exit code 0 (CLEAN)")]
    assert scene.ids() == []
    assert scene.told.reasons == []


def test_after_the_stop_nobody_is_replaced(scene: Scene) -> None:
    child = scene.make_ready(scene.fill())
    scene.supervisor.stop_replacing()
    scene.end(child, -9)

    assert scene.ids() == []


def test_a_successor_that_was_due_after_the_stop_is_not_started(scene: Scene) -> None:
    scene.fill()
    scene.end(scene.child("worker-0.1"), -9)
    scene.end(scene.child("worker-0.2"), -9)
    assert scene.timers.seconds_to_next() == pytest.approx(0.1)
    scene.supervisor.stop_replacing()
    scene.pass_time(1)

    assert scene.ids() == []
    assert len(scene.kernel.processes) == 2


def test_descriptors_that_are_no_childs_are_passed_over(scene: Scene) -> None:
    scene.fill()
    scene.supervisor.collect({0, 1, 12345}, scene.told)

    assert scene.ids() == ["worker-0.1"]
    assert scene.told.exits == []


def test_deaths_at_the_same_moment_are_all_noticed(scene: Scene) -> None:
    for name in ("worker-0", "grpc-0", "grpc-1"):
        scene.make_ready(scene.fill(name))
    for process in list(scene.kernel.processes):
        process.end(-9)
    scene.supervisor.collect(scene.poller.wait(0.0), scene.told)

    assert {child_id for child_id, _ in scene.told.exits} == {"worker-0.1", "grpc-0.1", "grpc-1.1"}
    assert sorted(scene.ids()) == ["grpc-0.2", "grpc-1.2", "worker-0.2"]


# Roles that the server can do without.


@pytest.mark.parametrize("status", [0, 1, 3, 70])
def test_a_role_that_is_not_vital_is_given_up_when_it_cannot_start(scene: Scene, status: int) -> None:
    vital = scene.make_ready(scene.fill("worker-0"))
    scene.end(scene.fill("worker-1", is_vital=False), status)
    scene.pass_time(60)

    assert scene.told.reasons == []
    ((name, reason),) = scene.told.given_up
    assert name == "worker-1"
    assert reason.startswith(f"worker-1.1 could not start: exit code {status} (")
    assert list(scene.supervisor.living()) == [vital]


def test_one_that_is_not_ready_in_time_is_killed_and_given_up(scene: Scene) -> None:
    child = scene.fill(is_vital=False)
    child.to(ChildState.BOOTING)
    scene.pass_time(60)
    assert scene.told.given_up == [("worker-0", "worker-0.1 was not ready within 60 s (--boot_timeout_s)")]
    assert scene.signals(child) == [signal.SIGKILL]
    scene.end(child, -9)
    scene.pass_time(60)

    assert scene.ids() == []
    assert scene.told.reasons == []
    assert len(scene.told.given_up) == 1
    assert [child_id for child_id, _ in scene.told.exits] == ["worker-0.1"]


def test_one_that_says_why_it_cannot_start_is_given_up_once(scene: Scene) -> None:
    child = scene.fill(is_vital=False)
    scene.supervisor.report_boot_failure(child, "no such library")
    scene.end(child, 3)

    assert scene.told.given_up == [("worker-0", "worker-0.1: no such library")]
    assert scene.told.reasons == []
    assert scene.ids() == []


def test_one_that_dies_again_and_again_before_it_is_ready_is_given_up(scene: Scene) -> None:
    scene.fill(is_vital=False)
    for number in range(1, 10):
        scene.end(scene.child(f"worker-0.{number}"), -9)
        scene.pass_time(5.0)

    assert len(scene.told.given_up) == 1
    assert scene.told.reasons == []
    assert scene.ids() == []


def test_one_that_has_served_is_replaced_like_any_other(scene: Scene) -> None:
    scene.serve_and_end(scene.fill(is_vital=False), -11)

    assert scene.ids() == ["worker-0.2"]
    assert scene.told.given_up == []


def test_a_role_that_the_system_refuses_to_fill_is_tried_again_and_then_given_up(scene: Scene) -> None:
    scene.kernel.refusals = 100
    scene.supervisor.fill("worker-0", Kind.WORKER, make_spec, (), is_vital=False)
    for _ in range(20):
        scene.pass_time(1.0)

    ((name, reason),) = scene.told.given_up
    assert name == "worker-0"
    assert "cannot be spawned" in reason
    assert scene.kernel.refusals == 91
    assert scene.told.reasons == []


def test_a_role_that_the_system_refuses_once_is_filled_a_little_later(scene: Scene) -> None:
    scene.kernel.refusals = 1
    scene.supervisor.fill("worker-0", Kind.WORKER, make_spec, ())
    assert scene.ids() == []
    scene.pass_time(1.0)

    assert scene.ids() == ["worker-0.2"]
    assert scene.told.reasons == []


def test_an_ended_role_is_killed_and_not_filled_again(scene: Scene) -> None:
    child, other = scene.make_ready(scene.fill("worker-0")), scene.make_ready(scene.fill("worker-1"))
    scene.supervisor.end_role("worker-0")
    scene.supervisor.end_role("never filled")
    assert scene.signals(child) == [signal.SIGKILL]
    assert scene.signals(other) == []
    scene.end(child, -9)
    scene.pass_time(10)

    assert scene.ids() == ["worker-1.1"]


def test_an_ended_role_whose_successor_was_due_stays_empty(scene: Scene) -> None:
    scene.fill()
    scene.end(scene.child("worker-0.1"), -9)
    scene.end(scene.child("worker-0.2"), -9)
    scene.supervisor.end_role("worker-0")
    scene.pass_time(10)

    assert scene.ids() == []


def test_one_role_alone_is_not_replaced_any_more(scene: Scene) -> None:
    one, other = scene.fill("worker-0"), scene.fill("worker-1")
    scene.supervisor.stop_replacing("worker-0")
    scene.serve_and_end(one, -9)
    scene.serve_and_end(other, -9)

    assert scene.ids() == ["worker-1.2"]


# Processes that are run once.


def test_a_process_that_is_run_once_is_not_replaced(scene: Scene) -> None:
    child = scene.spawn_once()
    assert (child.role, child.child_id, child.kind) == ("probe.1", "probe.1", Kind.PROBE)
    assert scene.kernel.processes[0].command[3] == "ovms_mp.worker.probe"
    assert scene.kernel.processes[0].descriptors == (3, 4)
    scene.end(child, 3)
    scene.pass_time(60)

    assert [child_id for child_id, _ in scene.told.exits] == ["probe.1"]
    assert scene.ids() == []
    assert scene.told.reasons == []
    assert scene.told.given_up == []


@pytest.mark.parametrize(("status", "level"), [(0, "INFO"), (-11, "ERROR"), (70, "ERROR")])
def test_only_the_good_end_of_a_probe_is_expected(
    scene: Scene, caplog: pytest.LogCaptureFixture, status: int, level: str
) -> None:
    caplog.set_level("INFO")
    scene.end(scene.spawn_once(), status)

    (record,) = [
        record for record in caplog.records if "pid=" in record.message and "spawned" not in record.message
    ]
    assert record.levelname == level


def test_a_system_that_refuses_a_process_that_is_run_once(scene: Scene) -> None:
    scene.kernel.refusals = 1

    assert scene.supervisor.spawn_once(Kind.PROBE, make_spec("probe.1"), ()) is None
    assert scene.ids() == []
    assert scene.spawn_once("probe.2").child_id == "probe.2"


def test_a_probe_has_no_boot_deadline_nor_silence(scene: Scene) -> None:
    child = scene.spawn_once()
    child.to(ChildState.BOOTING)
    look(scene, 200)
    scene.timers.run_due()

    assert scene.signals(child) == []
    assert scene.told.reasons == []


def test_its_failure_to_boot_is_nobody_elses(scene: Scene) -> None:
    scene.supervisor.report_boot_failure(scene.spawn_once(), "no such library")

    assert scene.told.reasons == []
    assert scene.told.given_up == []


# Draining with a deadline.


def test_who_drains_too_long_is_killed(scene: Scene) -> None:
    child = scene.make_ready(scene.fill())
    child.to(ChildState.DRAINING)
    scene.supervisor.end_within(child, 5.0)
    scene.pass_time(4.9)
    assert scene.signals(child) == []
    scene.pass_time(0.2)

    assert scene.signals(child) == [signal.SIGKILL]


def test_who_drained_in_time_is_not(scene: Scene) -> None:
    child = scene.make_ready(scene.fill())
    child.to(ChildState.DRAINING)
    scene.supervisor.end_within(child, 5.0)
    scene.end(child, 0)
    scene.pass_time(10)

    assert scene.signals(child) == []


# REST fronts.


def test_a_rest_front_is_watched_and_left_to_its_arbiter(scene: Scene) -> None:
    process = scene.kernel.start()
    child = scene.supervisor.adopt("rest.77", Kind.REST, process.pid)
    assert child is not None
    assert scene.child("rest.77") is child
    scene.end(child, 0)

    assert scene.told.exits == [("rest.77", "exited")]
    assert scene.ids() == []
    assert len(scene.kernel.processes) == 1


def test_a_process_that_is_gone_already_is_not_adopted(scene: Scene) -> None:
    assert scene.supervisor.adopt("rest.77", Kind.REST, FIRST_PID + 50) is None
    assert scene.ids() == []


# Strangers: as process 1 of a container, and as a subreaper, the manager gets children that it did not start.


def test_strangers_that_have_ended_are_collected(scene: Scene) -> None:
    scene.kernel.zombies = [7, 8]
    scene.supervisor.collect(set(), scene.told)

    assert scene.kernel.zombies == []


def test_one_of_ours_that_has_ended_is_left_for_its_pidfd(scene: Scene) -> None:
    child = scene.fill()
    scene.kernel.zombies = [7, child.pid, 8]
    scene.supervisor.collect(set(), scene.told)

    assert scene.kernel.zombies == [child.pid, 8]


# Signs of life.


def look(scene: Scene, seconds: float, *, every: float = 0.5) -> None:
    """The manager looks as often as it does, for some time."""
    for _ in range(round(seconds / every)):
        scene.kernel.now += every
        scene.supervisor.check_liveness()


def test_who_is_silent_is_killed(scene: Scene) -> None:
    scene.make_ready(scene.fill())
    look(scene, 5.0)
    assert scene.kernel.processes[0].signals == []
    look(scene, 0.5)

    assert scene.kernel.processes[0].signals == [signal.SIGKILL]


def test_who_beats_is_not(scene: Scene) -> None:
    child = scene.make_ready(scene.fill())
    for _ in range(200):
        look(scene, 1.0)
        scene.supervisor.beat(child, progress=0, in_flight=0)

    assert scene.kernel.processes[0].signals == []


@pytest.mark.parametrize("state", [ChildState.SPAWNED, ChildState.BOOTING, ChildState.DRAINING])
def test_silence_while_booting_or_draining_has_other_limits(scene: Scene, state: ChildState) -> None:
    child = scene.fill()
    if state is not ChildState.SPAWNED:
        child.to(state)
    look(scene, 30.0)

    assert scene.kernel.processes[0].signals == []


def test_who_beats_but_finishes_nothing_of_what_it_has_is_stuck(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    child = scene.make_ready(scene.fill())
    scene.supervisor.beat(child, progress=5, in_flight=1)
    for _ in range(120):
        look(scene, 1.0)
        scene.supervisor.beat(child, progress=5, in_flight=1)
    assert scene.kernel.processes[0].signals == []
    look(scene, 0.5)

    assert scene.kernel.processes[0].signals == [signal.SIGKILL]
    assert "120 s (--stuck_timeout_s)" in caplog.text


@pytest.mark.parametrize("step", ["progress", "idle"])
def test_progress_or_idleness_is_not_being_stuck(scene: Scene, step: str) -> None:
    child = scene.make_ready(scene.fill())
    for second in range(300):
        look(scene, 1.0)
        progress = second // 100 if step == "progress" else 5
        in_flight = 1 if step == "progress" or second % 100 else 0
        scene.supervisor.beat(child, progress=progress, in_flight=in_flight)

    assert scene.kernel.processes[0].signals == []


def test_when_the_manager_itself_was_held_up_silence_says_nothing(scene: Scene) -> None:
    child = scene.make_ready(scene.fill())
    scene.kernel.now += 60
    scene.supervisor.check_liveness()
    assert scene.kernel.processes[0].signals == []
    look(scene, 2.0)
    assert scene.kernel.processes[0].signals == []
    look(scene, 1.0)

    # But a child that stays silent is found out all the same.
    assert scene.kernel.processes[0].signals == [signal.SIGKILL]
    assert child.state is ChildState.READY
