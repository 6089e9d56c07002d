# SPDX-License-Identifier: Apache-2.0
"""The table of variants and the memory of refusals, against time and turns that the test chooses."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_mp.errors import ModelLoadFailed, QueueFull, ShapeMismatch
from ovms_mp.wire.arena import Arena
from ovms_mp.wire.tasks import InferTask
from ovms_mp.worker.load.variants import Refusals, Shapes, VariantTable
from ovms_mp.worker.run.queues import FirstTasks, Peer, QueuedTask, SharedBounds, VariantQueue


@dataclass
class Variant:
    """A variant as the table sees it."""

    name: str
    is_idle: bool = True


def is_idle(variant: Variant) -> bool:
    return variant.is_idle


def shapes(size: int) -> Shapes:
    return ((size, 3), ())


def table_with(capacity: int, *sizes: int) -> tuple[VariantTable[Variant], dict[int, Variant]]:
    table = VariantTable[Variant](capacity)
    variants = {size: Variant(str(size)) for size in sizes}
    for size, variant in variants.items():
        table.hold(shapes(size), variant)
    return table, variants


def test_variants_are_found_by_the_shapes_of_all_inputs() -> None:
    table, variants = table_with(4, 1, 2)

    assert table.find(shapes(2)) is variants[2]
    assert table.find(((2, 3), (1,))) is None
    assert table.find(((2, 3),)) is None


def test_one_that_waits_is_found_too_and_has_its_turn_in_order() -> None:
    table, _ = table_with(4)
    first, second = Variant("first"), Variant("second")
    table.queue(shapes(1), first, 0.0)
    table.queue(shapes(2), second, 0.0)

    assert table.find(shapes(1)) is first
    turn = table.next_turn(is_idle, 0.0)
    assert turn is not None
    assert (turn.variant, turn.shapes, turn.let_go) == (first, shapes(1), None)
    assert table.shapes() == ((shapes(1),), (shapes(2),))
    assert table.find(shapes(1)) is first


def test_without_anyone_waiting_there_is_no_turn() -> None:
    table, _ = table_with(1, 1)

    assert table.next_turn(is_idle, 1e9) is None


def test_the_least_recently_used_idle_one_makes_room() -> None:
    table, variants = table_with(3, 1, 2, 3)
    table.find(shapes(1))
    variants[2].is_idle = False
    table.queue(shapes(4), Variant("4"), 0.0)
    turn = table.next_turn(is_idle, 0.0)

    assert turn is not None
    assert turn.let_go is variants[3]
    assert table.find(shapes(3)) is None
    assert table.shapes()[0] == (shapes(2), shapes(1), shapes(4))


def test_where_all_are_busy_new_shapes_wait_but_not_for_ever() -> None:
    table, variants = table_with(2, 1, 2)
    for variant in variants.values():
        variant.is_idle = False
    table.find(shapes(1))
    table.queue(shapes(3), Variant("3"), 100.0)

    assert table.next_turn(is_idle, 100.9) is None
    turn = table.next_turn(is_idle, 101.0)
    assert turn is not None
    assert turn.let_go is variants[2]


def test_a_dropped_one_makes_room() -> None:
    table, variants = table_with(1, 1)
    variants[1].is_idle = False
    table.queue(shapes(2), Variant("2"), 0.0)
    table.drop(shapes(1))
    turn = table.next_turn(is_idle, 0.0)

    assert turn is not None
    assert turn.let_go is None
    table.drop(shapes(2))
    assert table.shapes() == ((), ())


@given(
    steps=st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=60),
    capacity=st.integers(1, 4),
)
def test_no_more_than_the_capacity_is_ever_held(steps: list[tuple[int, bool]], capacity: int) -> None:
    table = VariantTable[Variant](capacity)
    for now_s, (size, is_busy) in enumerate(steps):
        variant = table.find(shapes(size))
        if variant is None:
            table.queue(shapes(size), Variant(str(size)), float(now_s))
        else:
            variant.is_idle = not is_busy
        turn = table.next_turn(is_idle, float(now_s))
        held, waiting = table.shapes()
        assert len(held) <= capacity
        assert not set(held) & set(waiting)
        was_let_go = turn is not None and turn.let_go is not None and turn.let_go.name == str(size)
        assert was_let_go != (shapes(size) in held or shapes(size) in waiting)
        assert turn is None or turn.shapes == held[-1]


def test_alternating_shapes_within_the_capacity_are_made_once() -> None:
    table, made = VariantTable[Variant](8), 0
    for number in range(80):
        size = number % 8
        if table.find(shapes(size)) is None:
            table.queue(shapes(size), Variant(str(size)), 0.0)
        made += table.next_turn(is_idle, 0.0) is not None

    assert made == 8


def test_a_client_s_mistake_is_remembered_for_good_and_each_asker_gets_its_own_error() -> None:
    refusals = Refusals()
    refusals.add(shapes(1), ShapeMismatch("no"), 0.0)
    first, second = refusals.find(shapes(1), 1e9), refusals.find(shapes(1), 1e9)

    assert isinstance(first, ShapeMismatch)
    assert first.message == "no"
    assert first is not second
    assert refusals.find(shapes(2), 0.0) is None


def test_what_may_pass_is_believed_for_a_while() -> None:
    refusals = Refusals()
    refusals.add(shapes(1), ModelLoadFailed("out of memory"), 100.0)

    assert isinstance(refusals.find(shapes(1), 129.0), ModelLoadFailed)
    assert refusals.find(shapes(1), 130.0) is None


def test_only_so_many_refusals_are_kept_the_latest_used() -> None:
    refusals = Refusals()
    for size in range(64):
        refusals.add(shapes(size), ShapeMismatch("no"), 0.0)
    refusals.find(shapes(0), 0.0)
    refusals.add(shapes(64), ShapeMismatch("no"), 0.0)

    assert refusals.find(shapes(0), 0.0) is not None
    assert refusals.find(shapes(1), 0.0) is None


def queued(nbytes: int) -> QueuedTask:
    peer = Peer(b"0:1", 0, 1, Arena.__new__(Arena))
    return QueuedTask(peer, InferTask(1, 1, (), 0, 0, 0), nbytes, 0)


def test_variants_share_the_version_s_bounds() -> None:
    bounds = SharedBounds(3, 100)
    first, second = VariantQueue(bounds, FirstTasks()), VariantQueue(bounds, FirstTasks())
    first.push(queued(40))
    second.push(queued(40))
    with pytest.raises(QueueFull, match="80 bytes of tensors wait already and 30 more"):
        second.push(queued(30))
    first.push(queued(20))
    with pytest.raises(QueueFull, match="3 requests wait already"):
        second.push(queued(0))
    assert first.pop() is not None
    second.push(queued(40))

    assert (bounds.tasks, bounds.nbytes) == (3, 100)
    assert (first.nbytes, second.nbytes) == (20, 80)
    assert [VariantQueue(bounds, FirstTasks()).pop(), first.pop() is None, first.pop()] == [None, False, None]


def test_tasks_that_nobody_wants_leave_from_the_middle() -> None:
    bounds = SharedBounds(10, 100)
    queue, other = VariantQueue(bounds, FirstTasks()), VariantQueue(bounds, FirstTasks())
    other.push(queued(7))
    tasks = [queued(nbytes) for nbytes in (1, 2, 3)]
    for task in tasks:
        queue.push(task)
    asked: list[int] = []

    def is_unwanted(task: QueuedTask) -> bool:
        asked.append(task.nbytes)
        return task.nbytes == 2

    assert queue.take_out(is_unwanted) == [tasks[1]]
    assert asked == [1, 2, 3]
    assert (bounds.tasks, bounds.nbytes, queue.nbytes) == (3, 11, 4)
    assert [queue.pop(), queue.pop(), queue.pop()] == [tasks[0], tasks[2], None]
    assert (bounds.tasks, bounds.nbytes) == (1, 7)
