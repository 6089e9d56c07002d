# SPDX-License-Identifier: Apache-2.0
"""Requests whose deadline cannot be met beside others are refused at once, and no others are."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from ovms_mp.errors import QueueFull
from ovms_mp.wire.tasks import InferTask
from ovms_mp.worker.run.pool import InferPool, Runs
from ovms_mp.worker.run.queues import MOST_AHEAD, FirstTasks, Peer, QueuedTask, VersionQueue
from ovms_mp.worker.run.served import UNKNOWN_RUN_TIME_S, ServedVersion

if TYPE_CHECKING:
    from ovms_mp.wire.arena import Arena
    from ovms_mp.worker.load.compiled import CompiledVersion

PEER = Peer(b"0:1", 0, 1, cast("Arena", None))
RUN_S = 1.0


@dataclass
class Compiled:
    """Stands for a compiled model."""

    nireq: int = 1
    slots: list[object] = field(default_factory=list)


class Version:
    """A version whose one infer request has just begun a run."""

    def __init__(self, run_time_s: float = RUN_S) -> None:
        self.served = ServedVersion(1, "m version 1", VersionQueue(100, 1 << 20, FirstTasks()))
        self.served.equip(cast("CompiledVersion", Compiled()), run_time_s)
        self.pool: InferPool[ServedVersion] = cast("InferPool[ServedVersion]", self.served.pool)
        self.now_ns = time.monotonic_ns()
        self.pool.handed_over, self.pool.begun_ns = 1, self.now_ns
        self._task_id = 0

    def take(self, within_s: float = 0.0, flow: int = 0, priority: int = 0) -> None:
        self._task_id += 1
        deadline_ns = self.now_ns + int(1e9 * within_s) if within_s else 0
        task = InferTask(self._task_id, 1, (), 0, 0, deadline_ns, flow, False, priority)
        self.served.take(QueuedTask(PEER, task, 0, self.now_ns))

    def is_refused(self, within_s: float, flow: int = 0, priority: int = 0) -> bool:
        try:
            self.take(within_s, flow, priority)
        except QueueFull as full:
            return full.retry_after_s > 0
        return False


def test_who_could_not_be_answered_in_time_is_refused() -> None:
    version = Version()
    assert version.is_refused(1.9 * RUN_S)
    assert not version.is_refused(2.1 * RUN_S)
    assert version.is_refused(2.9 * RUN_S)


def test_who_might_be_answered_in_time_as_some_runs_are_quick_is_not() -> None:
    version = Version()
    version.served.recent_s.append(0.1 * RUN_S)
    assert not version.is_refused(0.3 * RUN_S)


def test_one_slow_run_says_nothing_of_the_next_one() -> None:
    version = Version(run_time_s=0.01)
    version.served.run_time_s = 60.0
    version.served.recent_s.append(60.0)
    assert not version.is_refused(1.0)


def test_nobody_is_refused_while_nothing_is_known_of_the_run_time() -> None:
    version = Version(run_time_s=UNKNOWN_RUN_TIME_S)
    version.served.run_time_s = 60.0
    version.served.recent_s.append(60.0)
    assert not version.is_refused(1.0)


def test_a_new_flow_that_passes_a_heavy_one_does_not_wait_for_it() -> None:
    version = Version()
    for _ in range(9):
        version.take(flow=7)
    assert not version.is_refused(2.1 * RUN_S, flow=8)
    assert version.is_refused(2.1 * RUN_S, flow=7)


def test_ordinary_requests_have_their_turns_among_those_that_go_first() -> None:
    version = Version()
    for number in range(50):
        version.take(flow=100 + number, priority=1)
    assert version.is_refused(8.9 * RUN_S, flow=7)
    assert not version.is_refused(9.1 * RUN_S, flow=7)


def test_what_goes_first_does_not_wait_for_what_waits_at_the_pool() -> None:
    version = Version()
    version.pool.handed_over = 2
    assert version.is_refused(2.1 * RUN_S)
    assert not version.is_refused(2.1 * RUN_S, priority=1)


def test_who_is_late_already_is_no_case_of_a_full_queue() -> None:
    """Its deadline has passed; it is told so when its turn comes or the queue is swept."""
    version = Version()
    assert not version.is_refused(-1.0)
    assert [queued.is_expired for queued in version.served.queue.tasks] == [True]


def test_an_ordinary_request_at_the_pool_is_passed_by_so_many_that_go_first_and_no_more() -> None:
    """While infer requests are busy: threads take the oldest."""
    version = Version()
    runs = cast("Runs[ServedVersion]", None)
    order = [0, *([1] * 20)]
    for number, priority in enumerate(order):
        version.pool.hand_over(
            (QueuedTask(PEER, InferTask(number, 1, (), 0, 0, 0, 0, False, priority), 0, 0),), runs
        )

    ids = [queued.task.task_id for queued in version.pool.ahead()]
    assert ids == [*range(1, MOST_AHEAD + 1), 0, *range(MOST_AHEAD + 1, 21)]


@pytest.mark.parametrize("within_s", [0.5, 0.0])
def test_who_is_last_is_not_refused_at_its_turn(within_s: float) -> None:
    version = Version()
    version.take()
    queued = version.served.queue.pop()
    assert queued is not None
    queued.task = InferTask(9, 1, (), 0, 0, time.monotonic_ns() + int(1e9 * within_s) if within_s else 0)
    assert not version.served.is_too_late(queued)
    version.take()
    assert version.served.is_too_late(queued) == bool(within_s)
