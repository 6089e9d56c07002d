# SPDX-License-Identifier: Apache-2.0
"""The worker's queue: order, both bounds, and the bytes it counts."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_mp.errors import QueueFull
from ovms_mp.wire.arena import Arena, create_arena_file
from ovms_mp.wire.records import ArenaHandle
from ovms_mp.wire.tasks import InferTask
from ovms_mp.worker.run.queues import (
    MOST_AHEAD,
    FirstTasks,
    Peer,
    QueuedTask,
    SharedBounds,
    VariantQueue,
    VersionQueue,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    descriptor = create_arena_file(0, 4096)
    yield Peer(b"0:1", 0, 1, Arena(ArenaHandle(descriptor, 4096)))
    os.close(descriptor)


def queued(peer: Peer, task_id: int, nbytes: int, flow: int = 0, priority: int = 0) -> QueuedTask:
    return QueuedTask(peer, InferTask(task_id, 1, (), 0, 0, 0, flow, False, priority), nbytes, 0)


def drained(queue: VersionQueue) -> list[int]:
    """Task ids in the order in which they are taken."""
    ids = []
    while (entry := queue.pop()) is not None:
        ids.append(entry.task.task_id)
    return ids


def test_first_in_first_out(peer: Peer) -> None:
    queue = VersionQueue(10, 1000)
    for task_id in (3, 1, 2):
        queue.push(queued(peer, task_id, 100))

    assert queue.nbytes == 300
    assert [entry.task.task_id for entry in (queue.pop(), queue.pop(), queue.pop()) if entry] == [3, 1, 2]
    assert queue.pop() is None
    assert queue.nbytes == 0


@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=30),
    st.integers(0, 4),
    st.booleans(),
    st.integers(0, 30),
)
def test_how_many_are_ahead_is_what_is_taken_before(
    peer: Peer, waiting: list[tuple[int, bool]], flow: int, is_first: bool, taken: int
) -> None:
    """Never more, as who is told that it is too late must be; ordinary tasks have turns among those that go first."""
    queue = VersionQueue(100, 1000)
    for number, (other, goes_first) in enumerate(waiting):
        queue.push(queued(peer, number, 1, other, int(goes_first)))
    for _ in range(taken):
        queue.pop()
    newcomer = queued(peer, 99, 1, flow, int(is_first))
    expected = queue.tasks.ahead_of(newcomer)
    queue.push(newcomer)

    before = drained(queue).index(99)
    assert expected <= before <= expected + (expected + 1 if is_first else 0)


def test_in_a_full_queue_who_has_few_tasks_takes_the_last_place_of_who_has_most(peer: Peer) -> None:
    queue = VersionQueue(6, 1000)
    for task_id, flow in ((1, 7), (2, 7), (3, 7), (4, 7), (5, 8), (6, 8)):
        queue.push(queued(peer, task_id, 1, flow))

    evicted = queue.evict_for(queued(peer, 7, 1, 9))
    assert evicted is not None
    assert evicted.task.task_id == 4
    queue.push(queued(peer, 7, 1, 9))
    assert queue.evict_for(queued(peer, 8, 1, 8)) is None
    assert queue.evict_for(queued(peer, 8, 1, 7)) is None
    assert queue.nbytes == len(queue.tasks) == 6
    assert drained(queue) == [5, 1, 7, 6, 2, 3]


def test_what_goes_first_takes_an_ordinary_tasks_place(peer: Peer) -> None:
    queue = VersionQueue(2, 1000)
    queue.push(queued(peer, 1, 1, 7))
    queue.push(queued(peer, 2, 1, 8, priority=1))

    evicted = queue.evict_for(queued(peer, 3, 1, 8, priority=1))
    assert evicted is not None
    assert evicted.task.task_id == 1
    assert queue.evict_for(queued(peer, 4, 1, 9, priority=1)) is None
    assert drained(queue) == [2]


def test_nobody_loses_a_place_where_that_would_not_be_enough_as_one_was_put_back(peer: Peer) -> None:
    bounds = SharedBounds(2, 1000)
    for queue in (VersionQueue(2, 1000), VariantQueue(bounds, FirstTasks())):
        back = queued(peer, 1, 1, 7)
        queue.push(queued(peer, 2, 1, 7))
        queue.push(queued(peer, 3, 1, 7))
        queue.put_back(back)

        assert queue.evict_for(queued(peer, 4, 1, 8)) is None
        assert drained(queue) == [1, 2, 3]


def test_nobody_loses_a_place_that_is_too_small_for_the_newcomer(peer: Peer) -> None:
    queue = VersionQueue(100, 100)
    for task_id in (1, 2, 3):
        queue.push(queued(peer, task_id, 30, 7))

    assert queue.evict_for(queued(peer, 4, 50, 8)) is None
    assert queue.evict_for(queued(peer, 4, 40, 8)) is not None
    queue.push(queued(peer, 4, 40, 8))
    assert queue.nbytes == 100


def test_connections_take_turns(peer: Peer) -> None:
    queue = VersionQueue(100, 1000)
    for task_id, flow in ((1, 7), (2, 7), (3, 7), (4, 7), (5, 8), (6, 8), (7, 0), (8, 0)):
        queue.push(queued(peer, task_id, 1, flow))

    assert len(queue.tasks) == 8
    assert drained(queue) == [5, 1, 7, 8, 6, 2, 3, 4]
    assert queue.nbytes == len(queue.tasks) == 0


def test_new_connections_pass_one_with_many_tasks_but_only_one_a_turn(peer: Peer) -> None:
    queue = VersionQueue(1000, 1000)
    for task_id in range(10):
        queue.push(queued(peer, task_id, 1, 7))
    taken = []
    for newcomer in range(100, 120, 2):
        for task_id in (newcomer, newcomer + 1):
            queue.push(queued(peer, task_id, 1))
        entry = queue.pop()
        assert entry is not None
        taken.append(entry.task.task_id)

    assert taken[:4] == [100, 0, 101, 102]
    assert sum(task_id < 10 for task_id in taken) >= 2


def test_who_comes_late_is_not_behind_all_of_who_came_first(peer: Peer) -> None:
    queue = VersionQueue(100, 1000)
    for task_id in range(1, 21):
        queue.push(queued(peer, task_id, 1, 7))
    queue.pop()
    queue.push(queued(peer, 99, 1, 8))

    assert drained(queue)[:3] == [99, 2, 3]


def test_the_same_number_of_another_front_is_another_connection(peer: Peer) -> None:
    other = Peer(b"1:1", 1, 1, peer.arena)
    queue = VersionQueue(100, 1000)
    for task_id in (1, 2):
        queue.push(queued(peer, task_id, 1, 7))
    queue.push(queued(other, 3, 1, 7))

    assert drained(queue) == [1, 3, 2]


def test_what_is_put_back_is_next(peer: Peer) -> None:
    queue = VersionQueue(100, 1000)
    for task_id, flow in ((1, 7), (2, 7), (3, 8)):
        queue.push(queued(peer, task_id, 1, flow))
    first = queue.pop()
    assert first is not None
    queue.put_back(first)

    assert drained(queue) == [1, 3, 2]


def test_what_nobody_wants_is_taken_out_and_the_others_keep_their_turns(peer: Peer) -> None:
    queue = VersionQueue(100, 1000)
    for task_id, flow in ((1, 7), (2, 7), (3, 8), (4, 8), (5, 0)):
        queue.push(queued(peer, task_id, 10, flow))
    taken = queue.take_out(lambda entry: entry.task.task_id in (1, 4))

    assert sorted(entry.task.task_id for entry in taken) == [1, 4]
    assert queue.nbytes == 30
    assert drained(queue) == [2, 3, 5]


def test_the_bound_of_tasks_is_told_with_its_setting(peer: Peer) -> None:
    queue = VersionQueue(2, 1000)
    queue.push(queued(peer, 1, 0))
    queue.push(queued(peer, 2, 0))
    with pytest.raises(QueueFull) as caught:
        queue.push(queued(peer, 3, 0))

    assert caught.value.message == "2 requests wait already, the limit (--max_queue_tasks); try again later"
    assert len(queue.tasks) == 2


def test_the_bound_of_bytes_is_told_with_its_setting(peer: Peer) -> None:
    queue = VersionQueue(10, 1000)
    queue.push(queued(peer, 1, 600))
    queue.push(queued(peer, 2, 400))
    queue.pop()
    with pytest.raises(QueueFull) as caught:
        queue.push(queued(peer, 3, 601))

    for piece in ("400 bytes", "601 more", "1000", "--max_queue_mb"):
        assert piece in caught.value.message
    assert queue.nbytes == 400
    queue.push(queued(peer, 4, 600))
    assert queue.nbytes == 1000


def test_an_empty_queue_takes_one_task_of_any_size(peer: Peer) -> None:
    queue = VersionQueue(10, 1000)
    queue.push(queued(peer, 1, 5000))
    with pytest.raises(QueueFull):
        queue.push(queued(peer, 2, 1))

    assert queue.nbytes == 5000


def test_what_goes_first_passes_ordinary_tasks_and_keeps_its_own_order_and_turns(peer: Peer) -> None:
    queue = VersionQueue(100, 1000)
    for task_id, flow, priority in ((1, 7, 0), (2, 7, 1), (3, 0, 0), (4, 7, 1), (5, 8, 1), (6, 0, 1)):
        queue.push(queued(peer, task_id, 1, flow, priority))

    assert [entry.task.task_id for entry in queue.tasks] == [2, 4, 5, 6, 1, 3]
    assert queue.all_first.waiting == 4
    assert drained(queue) == [2, 5, 6, 4, 1, 3]
    assert queue.all_first.waiting == queue.nbytes == 0


def test_every_eighth_turn_is_that_of_ordinary_tasks(peer: Peer) -> None:
    queue = VersionQueue(100, 1000)
    for task_id in range(30):
        queue.push(queued(peer, task_id, 1, priority=1))
    for task_id in (101, 102):
        queue.push(queued(peer, task_id, 1))

    order = drained(queue)
    assert [order.index(101), order.index(102)] == [MOST_AHEAD, 2 * MOST_AHEAD + 1] == [7, 15]
    assert [task_id for task_id in order if task_id < 100] == list(range(30))


def test_ordinary_tasks_have_their_turns_whatever_is_taken_out_meanwhile(peer: Peer) -> None:
    queue = VersionQueue(1000, 1000)
    for task_id in range(100):
        queue.push(queued(peer, task_id, 1, priority=1))
    queue.push(queued(peer, 101, 1))
    order: list[int] = []
    while (entry := queue.pop()) is not None:
        order.append(entry.task.task_id)
        oldest = order[-1] + 50
        queue.take_out(lambda entry, oldest=oldest: entry.task.task_id == oldest)  # type: ignore[misc]

    assert order.index(101) == MOST_AHEAD


def test_turns_of_what_goes_first_are_not_counted_while_nothing_else_waits(peer: Peer) -> None:
    queue = VersionQueue(100, 1000)
    for task_id in range(10):
        queue.push(queued(peer, task_id, 1, priority=1))
    for _ in range(9):
        queue.pop()
    queue.push(queued(peer, 101, 1))

    assert drained(queue) == [9, 101]


def test_the_count_of_what_goes_first_follows_whatever_happens_to_tasks(peer: Peer) -> None:
    all_first = FirstTasks()
    queue, other = VersionQueue(3, 1000, all_first), VersionQueue(3, 1000, all_first)
    for task_id, priority in ((1, 1), (2, 0), (3, 1)):
        queue.push(queued(peer, task_id, 1, priority=priority))
    other.push(queued(peer, 4, 1, priority=1))
    with pytest.raises(QueueFull):
        queue.push(queued(peer, 5, 1, priority=1))
    assert (all_first.waiting, queue.tasks.has_first) == (3, True)

    taken = queue.take_out(lambda entry: entry.task.task_id in (1, 2))
    assert [entry.task.task_id for entry in taken] == [1, 2]
    assert all_first.waiting == 2

    last = queue.pop()
    assert last is not None
    queue.put_back(last)
    assert (all_first.waiting, drained(queue), all_first.waiting, queue.tasks.has_first) == (2, [3], 1, False)
    assert (drained(other), all_first.waiting) == ([4], 0)


@given(
    steps=st.lists(st.one_of(st.none(), st.integers(0, 50))),
    bound=st.integers(1, 5),
    limit=st.integers(0, 120),
)
def test_the_queue_is_the_model_of_itself(
    peer: Peer, steps: list[int | None], bound: int, limit: int
) -> None:
    queue, model = VersionQueue(bound, limit), deque[tuple[int, int]]()
    for task_id, nbytes in enumerate(steps):
        if nbytes is None:
            popped = queue.pop()
            expected = model.popleft() if model else None
            assert (None if popped is None else (popped.task.task_id, popped.nbytes)) == expected
            continue
        has_room = len(model) < bound and (not model or sum(size for _, size in model) + nbytes <= limit)
        if has_room:
            queue.push(queued(peer, task_id, nbytes))
            model.append((task_id, nbytes))
        else:
            with pytest.raises(QueueFull):
                queue.push(queued(peer, task_id, nbytes))
        assert queue.nbytes == sum(size for _, size in model)
