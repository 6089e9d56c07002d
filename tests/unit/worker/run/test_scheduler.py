# SPDX-License-Identifier: Apache-2.0
"""Which task runs next where several versions have some; the engine is a list of what it has run."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from ovms_mp.child.specs import CpuShare
from ovms_mp.wire.arena import Arena, create_arena_file
from ovms_mp.wire.channels import Router, Wakeup, new_endpoint
from ovms_mp.wire.records import ArenaHandle
from ovms_mp.wire.run_page import RunPage
from ovms_mp.wire.tasks import InferFailed, InferTask
from ovms_mp.worker.run.answers import Answers
from ovms_mp.worker.run.examinations import Examinations
from ovms_mp.worker.run.outbox import Outbox
from ovms_mp.worker.run.peers import Peers
from ovms_mp.worker.run.pool import InferPool, Runs
from ovms_mp.worker.run.queues import FirstTasks, Peer, QueuedTask, VersionQueue
from ovms_mp.worker.run.scheduler import Scheduler
from ovms_mp.worker.run.served import ServedVersion
from ovms_mp.worker.run.shares import Shares

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ovms_mp.wire.records import TensorRef
    from ovms_mp.worker.load.batches import Batches
    from ovms_mp.worker.load.compiled import CompiledVersion

ARENA_BYTES = 4096
QUICK_S = 0.00001


@dataclass
class Engine:
    """Stands for a compiled model."""

    ran: list[int]
    nireq: int = 1
    batches: Together | None = None
    compiled: object = None
    slots: list[object] = field(default_factory=lambda: [object()])

    def bind(self, slot: object, task: InferTask, arena: Arena, arena_index: int) -> None:
        """Nothing to bind."""

    def infer(self, slot: object, task: InferTask, arena: Arena) -> tuple[()]:
        """Note the task."""
        self.ran.append(task.task_id)
        return ()


class Together:
    """Runs all that there is together."""

    def __init__(self, ran: list[tuple[int, ...]]) -> None:
        self._ran = ran
        self.alone: list[int] = []

    def ran_alone(self, task: InferTask, outputs: Sequence[TensorRef]) -> None:
        """Note it."""
        self.alone.append(task.task_id)

    def most(self, waiting: int) -> int:
        """All."""
        return waiting

    def shapes_of(self, task: InferTask) -> tuple[tuple[int, ...], ...]:
        """Those of all."""
        return ()

    def infer(self, slot: object, members: Sequence[tuple[InferTask, Arena]]) -> list[tuple[()]]:
        """Note them."""
        self._ran.append(tuple(task.task_id for task, _ in members))
        return [()] * len(members)

    def pause(self) -> None:
        """Nothing to stop."""

    def again(self, old: object, new: object, slots: object) -> Together:
        """The same."""
        return self


class BreakingQueue(VersionQueue):
    """A queue of which one turn raises."""

    left = 3

    def pop(self) -> QueuedTask | None:
        """The next task, but for one time."""
        self.left -= 1
        if not self.left:
            raise RuntimeError("broken")
        return super().pop()


class Versions:
    """Some versions with a scheduler, and the tasks that have run."""

    def __init__(self, peer: Peer, router: Router, handle: ArenaHandle) -> None:
        self._peer = peer
        self.ran: list[int] = []
        self.first = FirstTasks()
        self.table: dict[int, ServedVersion] = {}
        peers, wakeup = Peers((handle,)), Wakeup()
        self.page = page = RunPage()
        self.answers = answers = Answers(Outbox(router), peers)
        self.runs: Runs[ServedVersion] = Runs(wakeup, page)
        examinations = Examinations(answers, wakeup, CpuShare(), page)
        self.shares = Shares()
        self.scheduler = Scheduler(
            self.table, peers, answers, self.runs, examinations, self.first, self.shares
        )

    def add(self, handle: int, ordinary: int, first: int = 0) -> ServedVersion:
        """A version with so many tasks; ids are the handle's hundred, those that go first from its fiftieth."""
        version = ServedVersion(
            handle, f"m version {handle}", VersionQueue(100, 1 << 20, self.first), run_time_s=QUICK_S
        )
        version.pool = InferPool(version, cast("CompiledVersion", Engine(self.ran)), f"infer-{handle}")
        for number, priority in [(n, 0) for n in range(ordinary)] + [(50 + n, 1) for n in range(first)]:
            task = InferTask(100 * handle + number, handle, (), 0, 0, 0, 0, False, priority)
            version.queue.push(QueuedTask(self._peer, task, 0, 0))
        self.table[handle] = version
        return version

    def run_all(self) -> list[int]:
        """Run what can be run; the ids in their order."""
        while self.scheduler.can_start():
            self.scheduler.start_tasks()
        return self.ran


@pytest.fixture
def versions() -> Iterator[Versions]:
    descriptor = create_arena_file(0, ARENA_BYTES)
    handle = ArenaHandle(descriptor, ARENA_BYTES)
    with Router(new_endpoint()) as router:
        yield Versions(Peer(b"0:1", 0, 1, Arena(handle)), router, handle)
    os.close(descriptor)


def test_versions_take_turns(versions: Versions) -> None:
    versions.add(1, 3)
    versions.add(2, 2)

    ran = versions.run_all()
    assert ran[:2] == [100, 200]
    assert [task_id for task_id in ran if task_id < 200] == [100, 101, 102]
    assert [task_id for task_id in ran if task_id >= 200] == [200, 201]


@pytest.mark.parametrize(
    ("nireq", "run_time_s", "tasks", "in_threads"),
    [
        (2, 0.0005, 2, True),
        (2, 0.0005, 1, False),  # A hand-over would delay a lone one for nothing,
        (1, 0.0005, 2, False),  # and where there is one infer request.
        (2, 0.0001, 2, False),
        (1, 0.005, 1, True),
    ],
)
def test_what_waits_runs_beside_where_that_pays(
    versions: Versions, nireq: int, run_time_s: float, tasks: int, in_threads: bool
) -> None:
    version = versions.add(1, tasks)
    version.run_time_s = run_time_s
    assert version.pool is not None
    cast("Engine", version.pool.compiled).nireq = nireq

    assert version.free_pool() is version.pool
    assert version.runs_in_threads is in_threads


def test_a_task_that_expires_ahead_of_its_turn_does_not_run(versions: Versions) -> None:
    version = versions.add(1, 1)
    queued = version.queue.pop()
    assert queued is not None
    assert version.pool is not None
    late = msgspec.structs.replace(queued.task, task_id=1, deadline_ns=1)
    cancelled = msgspec.structs.replace(queued.task, task_id=2)
    queued.peer.unwanted.ids.add(2)
    for task in (late, cancelled):
        version.pool.hand_over((replace(queued, task=task),), versions.runs)
    version.pool._threads.shutdown()

    assert [type(run.answer).__name__ for run in versions.runs.ended] == ["InferFailed"] * 2
    assert [run.answer.error_name for run in versions.runs.ended if isinstance(run.answer, InferFailed)] == [
        "DeadlineExceeded",
        "CallCancelled",
    ]
    assert versions.ran == []


def test_tasks_that_nobody_wants_leave_the_queue_from_behind_others(versions: Versions) -> None:
    version = versions.add(1, 4)
    version.run_time_s = 1.0
    assert version.pool is not None
    version.pool.handed_over = version.pool.most_handed_over
    late, cancelled = list(version.queue.tasks)[1:3]
    late.task = msgspec.structs.replace(late.task, deadline_ns=1)
    cancelled.peer.unwanted.ids.add(cancelled.task.task_id)

    assert versions.scheduler.has_waiting
    versions.scheduler.sweep()

    assert [queued.task.task_id for queued in version.queue.tasks] == [100, 103]
    assert not versions.scheduler.can_start()


def test_who_would_end_too_late_makes_room_for_who_does_not(versions: Versions) -> None:
    version = versions.add(1, 2)
    version.run_time_s = 60.0
    version.recent_s.append(60.0)
    first, second = version.queue.tasks
    for queued in (first, second):
        queued.task = msgspec.structs.replace(queued.task, deadline_ns=time.monotonic_ns() + 10**9)

    versions.scheduler.start_tasks()
    assert version.pool is not None
    version.pool._threads.shutdown()

    assert versions.ran == [101]


def test_what_goes_first_passes_the_ordinary_tasks_of_other_versions(versions: Versions) -> None:
    versions.add(1, 3)
    versions.add(2, 1, first=3)

    assert versions.run_all() == [250, 251, 252, 100, 200, 101, 102]


def test_every_eighth_turn_is_every_versions_own(versions: Versions) -> None:
    versions.add(1, 3)
    versions.add(2, 0, first=20)

    ran = versions.run_all()
    assert [ran.index(task_id) for task_id in (100, 101, 102)] == [7, 16, 22]
    assert [task_id for task_id in ran if task_id >= 200] == list(range(250, 270))


def test_what_goes_first_and_cannot_run_yet_holds_nobody_up(versions: Versions) -> None:
    busy = versions.add(1, 0, first=2)
    assert busy.pool is not None
    busy.pool.handed_over = busy.pool.most_handed_over
    versions.add(2, 3)

    assert versions.run_all() == [200, 201, 202]
    busy.pool.handed_over = 0
    assert versions.run_all()[3:] == [150, 151]


def batching(versions: Versions, ordinary: int) -> tuple[ServedVersion, list[tuple[int, ...]]]:
    """A version whose tasks run together, and which have."""
    version, together = versions.add(1, ordinary), list[tuple[int, ...]]()
    assert version.pool is not None
    version.pool.compiled.batches = cast("Batches", Together(together))
    return version, together


def test_what_waits_runs_together(versions: Versions) -> None:
    _, together = batching(versions, 4)

    assert versions.run_all() == []
    assert together == [(100, 101, 102, 103)]


def test_a_step_that_raises_while_tasks_are_put_together_has_one_victim(versions: Versions) -> None:
    version, together = batching(versions, 4)
    queue = BreakingQueue(100, 1 << 20, versions.first)
    for queued in list(version.queue.tasks):
        queue.push(queued)
    version.queue = queue

    versions.run_all()

    assert together == [(101, 102, 103)]
    assert versions.answers.answered == 4


def test_tasks_that_cannot_all_be_marked_run_one_by_one(versions: Versions) -> None:
    """One without a mark would be held innocent of the death of its process."""
    version, together = batching(versions, 2)
    while versions.page.begin((0, 0), 1, 1) >= 0:
        pass
    versions.page.end(0)

    assert versions.run_all() == [100, 101]
    assert together == []
    assert version.pool is not None
    assert cast("Together", version.pool.compiled.batches).alone == [100, 101]


def test_a_version_that_is_compiled_again_is_batched_as_before(versions: Versions) -> None:
    version, together = batching(versions, 0)
    version.replace(cast("CompiledVersion", Engine(versions.ran)))
    versions.table.clear()
    again = versions.add(2, 3)
    again.pool = version.pool

    assert versions.run_all() == []
    assert together == [(200, 201, 202)]
