# SPDX-License-Identifier: Apache-2.0
"""Trials with the test as the probes: no process is started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovms_mp.config.model import ModelConfig
from ovms_mp.config.server import EngineConfig, LimitsConfig
from ovms_mp.manager.children.child import Child, ChildState
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.manager.children.owned_directory import sweep
from ovms_mp.manager.models.compile_caches import CompileCaches, cache_directory_of
from ovms_mp.manager.models.deployment import Deployment, load_failure, settings_of
from ovms_mp.manager.models.trial_memory import TrialMemory
from ovms_mp.manager.models.trials import Trials
from ovms_mp.manager.timers import Timers
from ovms_mp.wire.messages import ProbeDone
from ovms_mp.wire.records import ErrorRecord

from ..fakes import Clock, files

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = settings_of(ModelConfig(name="m", base_path=Path("/models")), LimitsConfig())
LIMIT_S = 600.0
LIMIT_MB = 1000
NO_PID = 2**22 + 1


@dataclass
class Scene:
    """Trials, and the probes that they launched."""

    root: Path
    clock: Clock
    most_at_once: int = 2
    cache_dir: str = ""
    probes: dict[str, Child] = field(default_factory=dict)
    handles: dict[str, int] = field(default_factory=dict)
    signals: list[tuple[str, int]] = field(default_factory=list)
    reports: list[tuple[int, ErrorRecord | None, str]] = field(default_factory=list)
    is_refused: bool = False
    used_mb: dict[int, int] = field(default_factory=dict)
    next_handle: int = 1
    pid: int = NO_PID

    def __post_init__(self) -> None:
        self.timers = Timers(self.clock)
        self.compile_caches = CompileCaches(self.cache_dir)
        self.trials = Trials(
            self,  # type: ignore[arg-type]  # launches
            self.timers,
            time_limit_s=LIMIT_S,
            most_at_once=self.most_at_once,
            caches=self.compile_caches,
            memory=TrialMemory(LIMIT_MB, used_by=lambda pid: self.used_mb.get(pid, 0) << 20),
        )

    def launch(self, child_id: str, deployment: Deployment) -> Child | None:
        if self.is_refused:
            return None
        assert deployment.cache_directory == self.cache_dir or Path(deployment.cache_directory).is_dir()
        pid = self.pid + len(self.probes)
        child = Child(child_id, child_id, Kind.PROBE, pid, len(self.probes), None, self.clock)
        self.probes[child_id] = child
        self.handles[child_id] = deployment.handle
        return child

    def submit(self) -> Deployment:
        deployment = Deployment(self.next_handle, "m", self.next_handle, SETTINGS, files())
        self.next_handle += 1
        self.trials.submit(deployment, lambda *outcome: self.reports.append(outcome))
        return deployment

    def probe(self, deployment: Deployment) -> Child:
        (child_id,) = [name for name, handle in self.handles.items() if handle == deployment.handle]
        return self.probes[child_id]

    def say(self, deployment: Deployment, error: ErrorRecord | None = None, detail: str = "ok") -> None:
        self.trials.done(self.probe(deployment), ProbeDone(deployment.handle, error, detail))

    def end(self, deployment: Deployment, reason: str = "exit code 0 (CLEAN)") -> None:
        child = self.probe(deployment)
        child.to(ChildState.EXITED)
        self.trials.exited(child, reason)

    def pass_time(self, seconds: float) -> None:
        self.clock.pass_time(seconds)
        self.timers.run_due()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def scene(root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    made = Scene(root, clock)

    def send(pidfd: int, number: int) -> None:
        child = list(made.probes.values())[pidfd]
        assert child.state is not ChildState.EXITED, "its descriptor is somebody else's by now"
        made.signals.append((child.child_id, number))

    monkeypatch.setattr(signal, "pidfd_send_signal", send)
    yield made
    made.compile_caches.close()


# Outcomes.


def test_a_good_trial(scene: Scene) -> None:
    deployment = scene.submit()
    assert scene.reports == []
    scene.say(deployment, detail="2 streams")

    # A large version is not loaded beside the memory of its trial.
    assert scene.reports == []
    scene.end(deployment)
    assert scene.reports == [(deployment.handle, None, "2 streams")]


def test_a_trial_has_spare_time_first_and_more_when_that_is_not_enough(scene: Scene) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        scene.pid = process.pid
        scene.submit()
        policies = [os.sched_getscheduler(process.pid)]
        scene.pass_time(2.1)
        policies.append(os.sched_getscheduler(process.pid))
        process.kill()

    assert policies[0] == os.SCHED_IDLE or os.getuid() != 0
    assert policies[1] == os.SCHED_BATCH


def test_a_bad_trial(scene: Scene) -> None:
    deployment = scene.submit()
    scene.say(deployment, ErrorRecord("ModelLoadFailed", "no such operation"), "")
    scene.end(deployment)

    assert scene.reports == [(deployment.handle, ErrorRecord("ModelLoadFailed", "no such operation"), "")]


def test_a_death_without_a_word(scene: Scene) -> None:
    deployment = scene.submit()
    scene.end(deployment, "killed by signal 11 (SIGSEGV)")
    scene.pass_time(5)

    assert scene.reports == [
        (
            deployment.handle,
            load_failure("its trial process ended without a word: killed by signal 11 (SIGSEGV)"),
            "",
        )
    ]


def test_one_that_hangs_is_killed_and_the_limit_is_its_reason(scene: Scene) -> None:
    deployment = scene.submit()
    scene.pass_time(LIMIT_S - 1)
    assert scene.signals == []
    scene.pass_time(1)
    assert scene.signals == [("probe.1", signal.SIGKILL)]
    assert scene.reports == []
    scene.end(deployment, "killed by signal 9 (SIGKILL)")
    scene.pass_time(5)

    assert scene.reports == [
        (deployment.handle, load_failure("its trial was not over within 600 s (--load_timeout_s)"), "")
    ]


def test_its_word_at_the_last_moment_counts(scene: Scene) -> None:
    deployment = scene.submit()
    scene.pass_time(LIMIT_S)
    scene.say(deployment)
    scene.end(deployment, "killed by signal 9 (SIGKILL)")
    scene.pass_time(5)

    assert scene.reports == [(deployment.handle, None, "ok")]


def test_one_that_says_its_word_and_then_does_not_end_is_killed(scene: Scene) -> None:
    # The engine may hang while the process tidies up; nobody else has a deadline for it.
    deployment = scene.submit()
    scene.say(deployment)
    scene.pass_time(LIMIT_S)
    scene.pass_time(LIMIT_S)

    assert ("probe.1", signal.SIGKILL) in scene.signals


def test_one_that_ended_in_time_is_not_killed_later(scene: Scene) -> None:
    deployment = scene.submit()
    scene.say(deployment)
    scene.end(deployment)
    scene.pass_time(2 * LIMIT_S)

    assert scene.signals == []


def test_words_of_strangers_are_nothing(scene: Scene) -> None:
    deployment = scene.submit()
    scene.say(deployment)
    scene.say(deployment, ErrorRecord("ModelLoadFailed", "again"))
    stranger = Child("probe.9", "probe.9", Kind.PROBE, NO_PID, 9, None, scene.clock)
    scene.trials.done(stranger, ProbeDone(5, None, ""))
    scene.trials.exited(stranger, "exited")
    scene.pass_time(5)
    assert scene.reports == []
    scene.end(deployment)

    assert scene.reports == [(deployment.handle, None, "ok")]


def test_a_system_that_spawns_nothing_is_a_failure_with_a_reason(scene: Scene) -> None:
    scene.is_refused = True
    deployment = scene.submit()
    scene.pass_time(0)

    assert scene.reports == [
        (deployment.handle, load_failure("the process for its trial could not be spawned"), "")
    ]
    scene.is_refused = False
    other = scene.submit()
    assert scene.handles == {"probe.2": other.handle}


def test_the_outcome_never_comes_before_the_submission_has_returned(scene: Scene) -> None:
    # Who submits has not noted the deployment yet, and could not tell whose outcome it is.
    scene.is_refused = True
    scene.submit()

    assert scene.reports == []


# Queueing.


def test_further_trials_wait_until_a_process_has_ended(scene: Scene) -> None:
    first, second, third = scene.submit(), scene.submit(), scene.submit()
    assert list(scene.handles.values()) == [first.handle, second.handle]
    scene.end(second, "killed by signal 6 (SIGABRT)")

    assert list(scene.handles.values()) == [first.handle, second.handle, third.handle]


def test_one_that_takes_too_much_memory_is_ended_with_the_limit(scene: Scene) -> None:
    first, second = scene.submit(), scene.submit()
    scene.used_mb = {scene.probe(first).pid: 1001, scene.probe(second).pid: 1000}
    scene.pass_time(0.1)
    scene.pass_time(0.1)  # It need not be told twice.
    assert scene.signals == [(scene.probe(first).child_id, signal.SIGKILL)]
    scene.end(first, "ended")

    assert scene.reports == [
        (
            first.handle,
            ErrorRecord(
                "ModelTooLarge",
                "its trial takes 1001 MiB of memory; --trial_memory_limit_mb 1000 is the most",
            ),
            "",
        )
    ]


def test_memory_is_looked_at_again_when_trials_begin_again(scene: Scene) -> None:
    first = scene.submit()
    scene.say(first)
    scene.end(first)
    scene.pass_time(1)
    assert (scene.timers.seconds_to_next() or 1.0) > 0.5  # No look is due.
    second = scene.submit()
    scene.used_mb = {scene.probe(second).pid: 5000}
    scene.pass_time(0.1)

    assert scene.signals == [(scene.probe(second).child_id, signal.SIGKILL)]


def test_they_run_in_the_order_of_their_submission(scene: Scene) -> None:
    deployments = [scene.submit() for _ in range(6)]
    for deployment in deployments:
        scene.say(deployment)
        scene.end(deployment)

    assert list(scene.handles.values()) == [deployment.handle for deployment in deployments]
    assert [report[0] for report in scene.reports] == [deployment.handle for deployment in deployments]


def test_the_time_of_waiting_does_not_count(scene: Scene) -> None:
    first, _, third = scene.submit(), scene.submit(), scene.submit()
    scene.pass_time(LIMIT_S - 1)
    scene.end(first)
    scene.signals.clear()
    scene.pass_time(2)

    assert (scene.probe(third).child_id, signal.SIGKILL) not in scene.signals


def test_withdrawn_before_its_turn_it_never_runs(scene: Scene) -> None:
    first, _, third, fourth = scene.submit(), scene.submit(), scene.submit(), scene.submit()
    scene.trials.withdraw(third)
    scene.end(first)

    assert scene.signals == []
    assert third.handle not in scene.handles.values()
    assert fourth.handle in scene.handles.values()


def test_withdrawn_while_it_runs_it_is_killed_and_makes_room(scene: Scene) -> None:
    first, second, third = scene.submit(), scene.submit(), scene.submit()
    scene.trials.withdraw(first)
    assert scene.signals == [("probe.1", signal.SIGKILL)]
    assert third.handle not in scene.handles.values()
    scene.end(first, "killed by signal 9 (SIGKILL)")

    assert third.handle in scene.handles.values()
    scene.trials.withdraw(first)
    scene.trials.withdraw(second)
    assert scene.signals[1:] == [("probe.2", signal.SIGKILL)]


def test_after_the_end_none_is_begun(scene: Scene) -> None:
    first, _, third = scene.submit(), scene.submit(), scene.submit()
    scene.trials.stop()
    scene.end(first, "killed by signal 9 (SIGKILL)")

    assert third.handle not in scene.handles.values()


def test_what_was_said_before_the_end_of_the_server_is_not_reported(scene: Scene) -> None:
    deployment = scene.submit()
    scene.say(deployment)
    scene.trials.stop()
    scene.end(deployment)

    assert scene.reports == []


# Cache directories.


def test_other_libraries_have_another_part_of_the_users_directory(tmp_path: Path) -> None:
    library = tmp_path / "extension.so"
    library.write_bytes(b"1")
    with_library = EngineConfig(cache_dir="/cache", cpu_extension=str(library))
    first = cache_directory_of(with_library)
    assert first == cache_directory_of(with_library)
    library.unlink()
    library.write_bytes(b"2")

    assert cache_directory_of(EngineConfig(cache_dir="/cache")) == "/cache"
    assert len({"/cache", first, cache_directory_of(with_library)}) == 3
    assert first.startswith("/cache/with-")
    assert cache_directory_of(EngineConfig(cpu_extension=str(library))) == ""
    assert cache_directory_of(EngineConfig(cache_dir="/cache", plugins_xml="/nowhere.xml")) == ""


def test_what_goes_untried_keeps_nothing_unless_the_user_does(root: Path, clock: Clock) -> None:
    for cache_dir in ("", str(root / "own")):
        scene = Scene(root, clock, cache_dir=cache_dir)
        deployment = Deployment(1, "m", 1, SETTINGS, files())
        scene.trials.skip(deployment)

        assert deployment.cache_directory == cache_dir
        assert (scene.handles, list(root.iterdir())) == ({}, [])


def test_each_trial_has_a_directory_of_its_own_until_it_is_forgotten(scene: Scene) -> None:
    first, second = scene.submit(), scene.submit()
    assert first.cache_directory != second.cache_directory
    (Path(first.cache_directory) / "model.blob").write_bytes(b"x")
    assert stat_mode(Path(first.cache_directory)) == 0o700
    scene.trials.forget_cache(first)
    scene.trials.forget_cache(first)

    assert Path(second.cache_directory).is_dir()
    scene.compile_caches.close()  # Waits for the thread that removes them.
    assert list(scene.root.iterdir()) == []


def stat_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_users_directory_is_given_to_all_and_never_removed(root: Path, clock: Clock) -> None:
    own = root / "own"
    own.mkdir()
    (own / "old.blob").write_bytes(b"x")
    scene = Scene(root, clock, cache_dir=str(own))
    deployment = scene.submit()
    assert deployment.cache_directory == str(own)
    scene.trials.forget_cache(deployment)
    scene.compile_caches.close()

    assert (own / "old.blob").exists()
    assert list(root.iterdir()) == [own]


def test_no_room_for_caches_is_no_failure(
    root: Path, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(root / "absent"))
    scene = Scene(root, clock)
    deployment = scene.submit()

    assert deployment.cache_directory == ""
    assert list(scene.handles.values()) == [deployment.handle]
    assert "event=no_cache" in caplog.text
    scene.trials.forget_cache(deployment)
    scene.compile_caches.close()


def test_want_of_room_is_told_once(
    root: Path, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_directory() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", no_directory)
    scene = Scene(root, clock)
    sweep()
    deployments = [scene.submit() for _ in range(3)]
    scene.compile_caches.close()

    assert [deployment.cache_directory for deployment in deployments] == ["", "", ""]
    assert caplog.text.count("event=no_cache") == 1
    assert "--cache_dir" in caplog.text


def test_trials_that_take_long_hold_up_only_so_many_others(scene: Scene) -> None:
    hanging = [scene.submit() for _ in range(2)]
    waiting = [scene.submit() for _ in range(3)]
    assert len(scene.probes) == 2
    scene.pass_time(10.5)
    assert len(scene.probes) == 4
    scene.say(waiting[0])
    scene.end(waiting[0])
    assert len(scene.probes) == 5
    assert {scene.handles[name] for name in scene.probes} >= {entry.handle for entry in (*hanging, *waiting)}
