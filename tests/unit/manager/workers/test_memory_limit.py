# SPDX-License-Identifier: Apache-2.0
"""Which workers have outgrown their memory. No process is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovms_mp.child.specs import CpuShare
from ovms_mp.manager.children.child import Child, ChildState
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.manager.workers import memory_limit as memory_limit_module
from ovms_mp.manager.workers.memory_limit import MemoryLimit
from ovms_mp.manager.workers.workers import Seat

from ..fakes import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20


class Scene:
    """Two seats with a limit of 100 MiB."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.limit = MemoryLimit(100, self.clock)
        self.used: dict[int, int] = {}
        self.first, self.second = self.seat("worker-0", 11), self.seat("worker-1", 12)

    def seat(self, name: str, pid: int) -> Seat:
        child = Child(name, f"{name}.1", Kind.WORKER, pid, -1, None, self.clock)
        child.to(ChildState.BOOTING)
        child.to(ChildState.READY)
        return Seat(name, "CPU", CpuShare(), child)

    def exceeded(self) -> list[str]:
        return [seat.name for seat, _ in self.limit.exceeded([self.first, self.second])]


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    made = Scene()
    monkeypatch.setattr(memory_limit_module, "own_memory_bytes", lambda pid: made.used.get(pid, 0) * MIB)
    yield made
    made.first.close()
    made.second.close()


def test_the_limit_itself_is_allowed(scene: Scene) -> None:
    scene.used = {11: 100, 12: 101}
    ((seat, reason),) = scene.limit.exceeded([scene.first, scene.second])

    assert seat is scene.second
    assert reason == "101 MiB of its own, the limit is 100 (--worker_memory_limit_mb)"


def test_one_that_is_replaced_is_not_replaced_again_for_a_while_nor_is_its_successor(scene: Scene) -> None:
    scene.used = {11: 200, 12: 200}
    assert scene.exceeded() == ["worker-0", "worker-1"]
    scene.limit.replaced(scene.first, scene.second)
    assert scene.exceeded() == []
    scene.clock.pass_time(10)
    assert scene.exceeded() == ["worker-0", "worker-1"]
    scene.limit.replaced(scene.second, scene.first)
    scene.clock.pass_time(10)

    assert scene.exceeded() == [], "the second time it takes twice as long"


def test_a_successor_that_needs_so_much_is_left_until_it_has_grown(scene: Scene) -> None:
    scene.used = {11: 200}
    assert scene.exceeded() == ["worker-0"]
    scene.limit.replaced(scene.first, scene.second)
    child = scene.second.child
    assert child is not None
    scene.used = {12: 150}
    scene.limit.succeeded(scene.second, child)
    scene.clock.pass_time(60)
    assert scene.exceeded() == []
    scene.used = {12: 166}

    assert scene.exceeded() == ["worker-1"]
