# SPDX-License-Identifier: Apache-2.0
"""Tasks that are handed over to a thread ahead of their turn, in a real worker process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ovms_mp.model.status import State
from ovms_mp.wire.messages import (
    ArenaReleased,
    ArenaRetired,
    InferResult,
    ModelStateChanged,
    UnloadModel,
)
from tests.support.waiting import eventually
from tests.support.worker import WITHIN_S, WorkerUnderTest, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.models import ModelZoo

ONE = np.ones(1, np.float32)
SLOW = 1
"""The handle of a model that runs for a second, with one infer request."""


@pytest.fixture
def worker(zoo: ModelZoo, tmp_path: Path) -> Iterator[WorkerUnderTest]:
    with WorkerUnderTest(tmp_path / "log") as worker:
        worker.load(SLOW, zoo.base_path("slow") / "1" / "model.xml", settings(nireq=1))
        yield worker


def wait_for_both(worker: WorkerUnderTest) -> None:
    def are_there() -> bool:
        worker.take_mail(0.05)
        return bool(worker.beats) and worker.beats[-1].in_flight == 2

    eventually(are_there, WITHIN_S, "both tasks are there")


def test_a_task_that_is_cancelled_ahead_of_its_turn_does_not_run(worker: WorkerUnderTest) -> None:
    first, second, third = (worker.send(SLOW, ONE) for _ in range(3))
    worker.cancel(second)

    worker.outputs(third)
    assert worker.error(second)[0] == "CallCancelled"
    worker.outputs(first)
    # Both of the others ran, in this order; the second one was answered between them or with one of them.
    assert list(worker.answers).index(first) < list(worker.answers).index(third)


def test_a_task_whose_deadline_passes_ahead_of_its_turn_does_not_run(worker: WorkerUnderTest) -> None:
    first, second = worker.send(SLOW, ONE), worker.send(SLOW, ONE, within_s=0.2)

    assert worker.error(second) == ("DeadlineExceeded", "deadline passed while waiting in the queue")
    assert isinstance(worker.answer(first), InferResult)


def test_what_a_dead_front_handed_over_does_not_run(worker: WorkerUnderTest) -> None:
    first, second = worker.send(SLOW, ONE), worker.send(SLOW, ONE)
    wait_for_both(worker)

    worker.tell(ArenaRetired(0, 1))
    worker.expect(ArenaReleased)

    worker.answer(first)
    assert worker.error(second)[0] == "CallCancelled"


def test_tasks_ahead_are_answered_before_a_worker_goes(worker: WorkerUnderTest) -> None:
    tasks = [worker.send(SLOW, ONE) for _ in range(3)]
    worker.answer(tasks[0])  # Else it might be asked to go before it has read them.

    assert worker.drain() == 0
    assert all(isinstance(worker.answer(task), InferResult) for task in tasks)


def test_other_models_are_served_beside_tasks_ahead(worker: WorkerUnderTest, zoo: ModelZoo) -> None:
    worker.load(2, zoo.base_path("tiny") / "1" / "model.xml", settings())
    slow = [worker.send(SLOW, ONE) for _ in range(2)]

    worker.infer(2, np.zeros((1, 10), np.float32))
    assert not set(slow) & set(worker.answers)
    assert all(isinstance(worker.answer(task), InferResult) for task in slow)


# Tasks under suspicion.


def test_a_suspect_runs_when_nothing_else_does_and_others_wait_for_it(
    worker: WorkerUnderTest, zoo: ModelZoo
) -> None:
    worker.load(2, zoo.base_path("tiny") / "1" / "model.xml", settings())
    x = np.zeros((1, 10), np.float32)
    slow, suspect, other = worker.send(SLOW, ONE), worker.send(2, x, is_suspect=True), worker.send(2, x)

    for task in (slow, suspect, other):
        worker.outputs(task)
    order = list(worker.answers)
    assert order.index(slow) < order.index(suspect) < order.index(other)


def test_a_suspect_that_nobody_wants_any_more_does_not_hold_up_others(
    worker: WorkerUnderTest, zoo: ModelZoo
) -> None:
    worker.load(2, zoo.base_path("tiny") / "1" / "model.xml", settings())
    x = np.zeros((1, 10), np.float32)
    worker.send(SLOW, ONE)
    suspect, other = worker.send(2, x, within_s=0.1, is_suspect=True), worker.send(2, x)

    assert worker.error(suspect)[0] == "DeadlineExceeded"
    worker.outputs(other)


def test_a_suspect_of_a_dead_front_does_not_hold_its_arena(worker: WorkerUnderTest) -> None:
    worker.send(SLOW, ONE)
    worker.send(SLOW, ONE, is_suspect=True)
    wait_for_both(worker)
    worker.tell(ArenaRetired(0, 1))
    worker.expect(ArenaReleased)
    assert worker.drain() == 0


def test_a_version_is_not_unloaded_before_its_suspect_has_run(worker: WorkerUnderTest, zoo: ModelZoo) -> None:
    worker.load(2, zoo.base_path("tiny") / "1" / "model.xml", settings())
    worker.send(SLOW, ONE)
    suspect = worker.send(2, np.zeros((1, 10), np.float32), is_suspect=True)
    wait_for_both(worker)
    worker.tell(UnloadModel(2))
    worker.outputs(suspect)
    worker.expect(ModelStateChanged, lambda message: message.state == State.END)
