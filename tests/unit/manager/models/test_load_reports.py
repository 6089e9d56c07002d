# SPDX-License-Identifier: Apache-2.0
"""What is told of loads that take long: the clock is the test's, deployments and trials are real."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovms_mp.config.server import EngineConfig, ServerConfig, SupervisionConfig
from ovms_mp.manager.children.child import Child
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.manager.models import load_reports as module
from ovms_mp.manager.models.load_reports import LoadReports
from ovms_mp.manager.timers import Timers

from ..fakes import FakeTrials
from ..world import World, model, put, steady_clock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.manager.models.deployment import Deployment

    from ..fakes import Clock


class Trials(FakeTrials):
    """Trials whose processes the test starts."""

    child: Child | None = None

    def process_of(self, deployment: Deployment) -> Child | None:
        return self.child


class Workers:
    """Workers whose processes the test starts."""

    child: Child | None = None

    def find(self, worker: str) -> Child | None:
        return self.child


class Scene:
    """One model's version on its way."""

    def __init__(self, base: Path, clock: Clock, log: pytest.LogCaptureFixture, settle_s: float) -> None:
        self.base, self.clock, self.log = base, clock, log
        put(base, 1)
        self.world = World(clock, model(base), settle_s=settle_s)
        self.trials, self.workers = Trials(), Workers()
        config = ServerConfig(
            models=(),
            engine=EngineConfig(trial_memory_limit_mb=4000),
            supervision=SupervisionConfig(load_timeout_s=100),
        )
        self.reports = LoadReports(
            config,
            self.world.catalogue,
            self.trials,  # type: ignore[arg-type]  # only asked for processes
            self.workers,  # type: ignore[arg-type]  # the same
            Timers(clock),
            clock,
        )
        self.reports.open()
        self.world.turn()

    def begin(self, child_id: str, kind: Kind) -> Child:
        return Child(child_id, child_id, kind, 4711, -1, None, self.clock)

    def told(self, seconds: int) -> list[str]:
        """What people are told in the next seconds."""
        self.log.clear()
        for _ in range(seconds):
            self.reports.look()
            self.clock.now += 1
        return [text for text in self.log.messages if text.startswith("Loading ")]

    def events(self) -> list[str]:
        return [text for text in self.log.messages if text.startswith("event=loading ")]


@pytest.fixture
def clock() -> Iterator[Clock]:
    with steady_clock() as clock:
        yield clock


@pytest.fixture
def scene(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Scene:
    monkeypatch.setattr(module, "own_memory_bytes", lambda _pid: 1234 << 20)
    caplog.set_level(logging.INFO)
    return Scene(tmp_path / "m", clock, caplog, 0.0)


def test_a_trial_is_told_every_five_seconds_with_all_that_bounds_it(scene: Scene) -> None:
    child = scene.trials.child = scene.begin("probe.1", Kind.PROBE)
    assert scene.told(5) == []
    assert scene.told(1) == [
        "Loading m/1 for 5 s: trial, starting; 1234 of 4000 MiB (--trial_memory_limit_mb); time-out in 95 s "
        "(--load_timeout_s)"
    ]
    assert scene.events() == [
        "event=loading version=m/1 seconds=5 doing='trial, starting' pid=4711 memory_mb=1234 memory_limit_mb=4000 "
        "timeout_s=100 timeout_in_s=95"
    ]
    (deployment,) = scene.world.books
    scene.reports.take_stage(child, deployment.handle, "compiling")
    (line,) = scene.told(5)
    assert line.startswith("Loading m/1 for 10 s: trial, compiling; ")
    assert len(scene.told(20)) == 4


def test_a_trial_that_waits_has_no_process(scene: Scene) -> None:
    assert scene.told(6) == ["Loading m/1 for 5 s: waiting for other trials"]
    assert "pid=" not in scene.events()[0]


def test_the_time_out_counts_from_the_step_and_the_seconds_from_the_begin(scene: Scene) -> None:
    scene.trials.child = scene.begin("probe.1", Kind.PROBE)
    scene.told(6)
    scene.world.end_trial()
    scene.workers.child = scene.begin("w0", Kind.WORKER)
    (line,) = scene.told(5)

    assert (
        line
        == "Loading m/1 for 10 s: w0, waiting for other loads; 1234 MiB; time-out in 96 s (--load_timeout_s)"
    )
    (deployment,) = scene.world.books
    scene.reports.take_stage(scene.workers.child, deployment.handle, "first inference")
    assert " for 15 s: w0, first inference; " in scene.told(5)[0]


def test_what_was_loaded_is_not_told(scene: Scene) -> None:
    message = scene.world.load()
    scene.world.answer(message.handle)

    assert scene.told(20) == []


def test_what_failed_is_not_told_until_it_is_tried_again(scene: Scene) -> None:
    scene.told(4)
    scene.world.fail()
    assert scene.told(10) == []
    scene.clock.now += 100
    scene.world.turn()

    assert scene.told(5) == []
    assert len(scene.told(1)) == 1


def test_files_that_do_not_settle_are_told(scene: Scene) -> None:
    scene.world.load()
    scene.world.look_anew(0.5)
    put(scene.base, 2, content=b"some")
    scene.world.turn()

    lines = [line for line in scene.told(6) if "m/2" in line]
    assert lines == [
        "Loading m/2 for 5 s: waiting until its files have been left alone for 0.5 s (--settle_s)"
    ]


def test_nothing_is_told_of_a_server_that_stops(scene: Scene) -> None:
    scene.reports.close()

    assert scene.told(20) == []
