# SPDX-License-Identifier: Apache-2.0
"""Whose time on the device it is; runs take no time here, but are charged as if they did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from ovms_mp.wire.tasks import InferTask
from ovms_mp.worker.run.pool import InferPool
from ovms_mp.worker.run.queues import Peer, QueuedTask, VersionQueue
from ovms_mp.worker.run.served import ServedVersion
from ovms_mp.worker.run.shares import Shares

if TYPE_CHECKING:
    from ovms_mp.wire.arena import Arena
    from ovms_mp.worker.load.compiled import CompiledVersion

PEER = Peer(b"0:1", 0, 1, cast("Arena", None))
MANY = 10**6


@dataclass
class Compiled:
    """Stands for a compiled model."""

    nireq: int = 1
    slots: list[object] = field(default_factory=list)


class Device:
    """Models that share a device, on which one run at a time takes what its model's runs take."""

    def __init__(self) -> None:
        self.shares = Shares()
        self.versions: list[ServedVersion] = []
        self.now_s = 0.0
        self.had_s: dict[str, float] = {}

    def add(self, name: str, run_time_s: float, weight: int = 1, nireq: int = 1, tasks: int = MANY) -> None:
        version = ServedVersion(
            len(self.versions),
            name,
            VersionQueue(MANY, MANY),
            self.shares.of(name, weight),
            run_time_s=run_time_s,
        )
        version.pool = InferPool(version, cast("CompiledVersion", Compiled(nireq)), name)
        self.versions.append(version)
        self.had_s.setdefault(name, 0.0)
        self.ask(name, min(tasks, 3))
        version.running = tasks  # How many it still asks for.

    def ask(self, name: str, count: int) -> None:
        version = next(version for version in self.versions if version.title == name)
        for number in range(count):
            version.queue.push(QueuedTask(PEER, InferTask(number, version.handle, (), 0, 0, 0), 0, 0))

    def run_until(self, end_s: float) -> None:
        while self.now_s < end_s:
            waiting = [version for version in self.versions if version.queue.tasks]
            due = self.shares.due(waiting, self.now_s)
            assert due or not waiting
            if not due:
                return
            for version in due:
                version.queue.pop()
                version.running -= 1
                self.shares.began(version, self.now_s)
                if version.running > 0:
                    self.ask(version.title, 1)
                run_s = version.run_time_s / (1 if version.pool is None else version.pool.compiled.nireq)
                self.had_s[version.title] += run_s
                self.now_s += run_s


@pytest.mark.parametrize("weight", [1, 2, 5])
@pytest.mark.parametrize(("run_time_s", "nireq"), [(0.01, 1), (0.0001, 1), (0.3, 1), (0.08, 8)])
def test_models_that_wait_have_the_device_as_their_weights_say(
    weight: int, run_time_s: float, nireq: int
) -> None:
    device = Device()
    device.add("one", 0.01)
    device.add("other", run_time_s, weight, nireq)
    device.run_until(60.0)

    assert device.had_s["other"] / device.had_s["one"] == pytest.approx(weight, rel=0.05)


def test_who_comes_back_has_saved_nothing_up() -> None:
    device = Device()
    device.add("steady", 0.01)
    device.run_until(100.0)
    device.add("late", 0.01)
    before_s = dict(device.had_s)
    device.run_until(101.0)

    assert device.had_s["steady"] - before_s["steady"] == pytest.approx(0.5, abs=0.03)
    assert device.had_s["late"] == pytest.approx(0.5, abs=0.03)


def test_a_model_whose_waiting_requests_were_cancelled_has_not_waited_since() -> None:
    device = Device()
    device.add("left", 0.01)
    device.add("steady", 0.01)
    device.run_until(1.0)
    left = device.versions[0]
    left.queue.take_out(lambda _: True)
    left.running = 0
    device.run_until(101.0)
    before_s = dict(device.had_s)
    task = InferTask(99, left.handle, (), 0, 0, 0)
    for _ in range(3):
        left.take(QueuedTask(PEER, task, 0, 0))
    left.running = MANY
    device.run_until(102.0)

    assert device.had_s["left"] - before_s["left"] == pytest.approx(0.5, abs=0.03)


def test_who_was_alone_owes_nothing() -> None:
    device = Device()
    device.add("first", 0.01, tasks=1000)
    device.run_until(20.0)
    device.add("second", 0.01)
    device.run_until(30.0)
    device.ask("first", 1)

    waiting = [version for version in device.versions if version.queue.tasks]
    assert device.versions[0] in device.shares.due(waiting, device.now_s)


def test_versions_of_a_model_have_one_share_and_the_newest_ones_weight() -> None:
    device = Device()
    device.add("twice", 0.01)
    device.add("twice", 0.01)
    device.add("once", 0.01, weight=2)
    device.run_until(20.0)

    assert device.had_s["once"] / device.had_s["twice"] == pytest.approx(2.0, rel=0.05)
    assert device.shares.of("once", 7) is device.versions[2].share
    assert device.versions[2].share.weight == 7


def test_a_model_whose_runs_hang_holds_nobody_up_for_long() -> None:
    device = Device()
    device.add("hangs", 0.01, weight=100)
    device.add("other", 0.01)
    device.run_until(1.0)
    pool = device.versions[0].pool
    assert pool is not None
    pool.handed_over = pool.most_handed_over

    for _ in range(5):
        device.shares.began(device.versions[1], device.now_s)
    assert device.shares.due(device.versions, device.now_s) == []
    assert device.shares.due(device.versions, device.now_s + 0.11) == [device.versions[1]]


def test_a_full_model_that_is_behind_is_waited_for() -> None:
    device = Device()
    device.add("heavy", 0.01, weight=10)
    device.add("light", 0.01)
    device.run_until(1.0)
    heavy, light = device.versions
    while light.share.clock_s <= heavy.share.clock_s + 0.001:
        device.shares.began(light, device.now_s)
    assert heavy.pool is not None
    heavy.pool.handed_over = heavy.pool.most_handed_over

    assert device.shares.due([heavy, light], device.now_s) == []
    heavy.pool.handed_over = 0
    assert device.shares.due([heavy, light], device.now_s) == [heavy]
