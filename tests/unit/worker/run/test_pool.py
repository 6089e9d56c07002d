# SPDX-License-Identifier: Apache-2.0
"""Tasks that are handed over to a thread ahead of their turn, in a real worker process."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ovms_mp.model.status import State
from ovms_mp.wire.messages import ArenaReleased, ArenaRetired, ModelStateChanged, UnloadModel
from ovms_mp.wire.tasks import InferResult
from tests.support.waiting import eventually
from tests.support.worker import WITHIN_S, WorkerUnderTest, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.models import ModelZoo

ONE = np.ones(1, np.float32)
SLOW = 1
"""The handle of a model that runs for a second, with one infer request."""


HANDLES = itertools.count(2)


@contextlib.contextmanager
def new_worker(zoo: ModelZoo, directory: Path) -> Iterator[WorkerUnderTest]:
    with WorkerUnderTest(directory / "log") as worker:
        worker.load(SLOW, zoo.base_path("slow") / "1" / "model.xml", settings(nireq=1))
        yield worker


@pytest.fixture(scope="module")
def shared_worker(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerUnderTest]:
    with new_worker(zoo, tmp_path_factory.mktemp("pool")) as worker:
        yield worker


@pytest.fixture
def worker(shared_worker: WorkerUnderTest) -> Iterator[WorkerUnderTest]:
    """One for all tests that leave it as it was; each begins when nothing runs."""
    yield shared_worker
    shared_worker.settle()


@pytest.fixture
def own_worker(zoo: ModelZoo, tmp_path: Path) -> Iterator[WorkerUnderTest]:
    with new_worker(zoo, tmp_path) as worker:
        yield worker


def load_tiny(worker: WorkerUnderTest, zoo: ModelZoo) -> int:
    """A model that runs in no time; its handle."""
    handle = next(HANDLES)
    worker.load(handle, zoo.base_path("tiny") / "1" / "model.xml", settings())
    return handle


def wait_for(worker: WorkerUnderTest, count: int) -> None:
    def are_there() -> bool:
        worker.take_mail(0.05)
        return bool(worker.beats) and worker.beats[-1].in_flight == count

    eventually(are_there, WITHIN_S, f"{count} tasks are there")


def wait_for_both(worker: WorkerUnderTest) -> None:
    wait_for(worker, 2)


def test_a_task_that_is_cancelled_ahead_of_its_turn_does_not_run(worker: WorkerUnderTest) -> None:
    first, second, third = (worker.send(SLOW, ONE) for _ in range(3))
    worker.cancel(second)

    worker.outputs(third)
    assert worker.error(second)[0] == "CallCancelled"
    worker.outputs(first)
    # Both of the others ran, in this order; the second one was answered between them or with one of them.
    assert list(worker.answers).index(first) < list(worker.answers).index(third)


def test_a_task_that_could_not_end_in_time_is_refused_at_once_beside_others(worker: WorkerUnderTest) -> None:
    # Many, as a run is as quick as the machine, and the deadline long enough for a busy one to be heard of in time.
    first, *waiting = (worker.send(SLOW, ONE) for _ in range(20))
    late = worker.send(SLOW, ONE, within_s=1.5)

    name, text = worker.error(late)
    for task in waiting:
        worker.cancel(task)
    assert name == "QueueFull"
    assert "requests wait or run already" in text
    assert "the request's deadline is in " in text
    assert waiting[-1] not in worker.answers
    assert isinstance(worker.answer(first), InferResult)
    worker.answer(waiting[-1])


def test_a_task_that_could_not_end_in_time_runs_where_it_is_alone(worker: WorkerUnderTest) -> None:
    def runs() -> bool:
        answer = worker.answer(worker.send(SLOW, ONE, within_s=0.05))
        # A machine that is busy enough may come to it too late.
        assert isinstance(answer, InferResult) or answer.error_name == "DeadlineExceeded", answer
        return isinstance(answer, InferResult)

    eventually(runs, WITHIN_S, "it runs")


def test_what_a_dead_front_handed_over_does_not_run(own_worker: WorkerUnderTest) -> None:
    first, second = own_worker.send(SLOW, ONE), own_worker.send(SLOW, ONE)
    wait_for_both(own_worker)

    own_worker.tell(ArenaRetired(0, 1))
    own_worker.expect(ArenaReleased)

    own_worker.answer(first)
    assert own_worker.drain() == 0
    assert second not in own_worker.answers


def test_tasks_ahead_are_answered_before_a_worker_goes(own_worker: WorkerUnderTest) -> None:
    tasks = [own_worker.send(SLOW, ONE) for _ in range(3)]
    own_worker.answer(tasks[0])  # Else it might be asked to go before it has read them.

    assert own_worker.drain() == 0
    assert all(isinstance(own_worker.answer(task), InferResult) for task in tasks)


def test_other_models_are_served_beside_tasks_ahead(worker: WorkerUnderTest, zoo: ModelZoo) -> None:
    tiny = load_tiny(worker, zoo)
    slow = [worker.send(SLOW, ONE) for _ in range(2)]

    worker.infer(tiny, np.zeros((1, 10), np.float32))
    assert not set(slow) & set(worker.answers)
    assert all(isinstance(worker.answer(task), InferResult) for task in slow)


# Tasks that go first.


def test_a_task_that_goes_first_passes_all_that_wait(worker: WorkerUnderTest) -> None:
    running, ahead = (worker.send(SLOW, ONE) for _ in range(2))
    wait_for_both(worker)
    waiting = worker.send(SLOW, ONE)
    first, second = (worker.send(SLOW, ONE, priority=1) for _ in range(2))

    for task in (running, ahead, waiting, first, second):
        worker.outputs(task)
    order = [task for task in worker.answers if task >= running]
    # The infer request was taken, and long runs have no place ahead of it.
    assert order == [running, first, second, ahead, waiting]


# Tasks under suspicion.


def test_a_suspect_runs_when_nothing_else_does_and_others_wait_for_it(
    worker: WorkerUnderTest, zoo: ModelZoo
) -> None:
    tiny = load_tiny(worker, zoo)
    x = np.zeros((1, 10), np.float32)
    slow = worker.send(SLOW, ONE)
    wait_for(worker, 1)  # As below.
    suspect, other = worker.send(tiny, x, is_suspect=True), worker.send(tiny, x)

    for task in (slow, suspect, other):
        worker.outputs(task)
    order = list(worker.answers)
    assert order.index(slow) < order.index(suspect) < order.index(other)


def test_a_suspect_that_nobody_wants_any_more_does_not_hold_up_others(
    worker: WorkerUnderTest, zoo: ModelZoo
) -> None:
    tiny = load_tiny(worker, zoo)
    x = np.zeros((1, 10), np.float32)
    worker.send(SLOW, ONE)
    wait_for(worker, 1)
    suspect, other = worker.send(tiny, x, within_s=0.1, is_suspect=True), worker.send(tiny, x)

    assert worker.error(suspect)[0] == "DeadlineExceeded"
    worker.outputs(other)


def test_a_suspect_of_a_dead_front_does_not_hold_its_arena(own_worker: WorkerUnderTest) -> None:
    own_worker.send(SLOW, ONE)
    own_worker.send(SLOW, ONE, is_suspect=True)
    wait_for_both(own_worker)
    own_worker.tell(ArenaRetired(0, 1))
    own_worker.expect(ArenaReleased)
    assert own_worker.drain() == 0


def test_a_version_is_not_unloaded_before_its_suspect_has_run(worker: WorkerUnderTest, zoo: ModelZoo) -> None:
    tiny = load_tiny(worker, zoo)
    worker.send(SLOW, ONE)
    wait_for(worker, 1)  # Else it would be tiny's turn, as slow has had more of the device.
    suspect = worker.send(tiny, np.zeros((1, 10), np.float32), is_suspect=True)
    wait_for_both(worker)
    worker.tell(UnloadModel(tiny))
    worker.outputs(suspect)
    worker.expect(ModelStateChanged, lambda message: message.state == State.END)
