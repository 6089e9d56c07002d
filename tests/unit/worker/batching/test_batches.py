# SPDX-License-Identifier: Apache-2.0
"""Batches in a real worker process: which models have them, whose bytes are where, and one member that fails."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ovms_mp.model.batching import AUTO_BATCHING
from ovms_mp.model.input_settings import InputSettings, InputShape, Layout
from ovms_mp.wire.records import TensorRef
from ovms_mp.wire.tasks import InferFailed
from tests.support.waiting import eventually
from tests.support.worker import WorkerUnderTest, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ovms_mp.model.dtypes import AnyArray
    from tests.support.models import ModelCache

HANDLES = itertools.count(1)
RNG = np.random.default_rng(7)
NO_BATCH = InputSettings(layouts=(Layout("", "?C", ""),))


@pytest.fixture(scope="module")
def models(model_cache: ModelCache) -> Path:
    return model_cache.get("tests.support.build_batch_models")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerUnderTest]:
    with WorkerUnderTest(tmp_path_factory.mktemp("batches") / "log") as worker:
        yield worker


def model_file(models: Path, name: str) -> Path:
    return models / name / "1" / "model.xml"


def rows(count: int) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return [RNG.standard_normal((1, 64)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize(
    ("model", "batching", "inputs", "expected"),
    [
        # Up to which size is measured, and so of this machine's moment.
        ("mlp", 8, InputSettings(), " (gain "),
        ("open_batch", 8, InputSettings(), " (gain "),
        ("passing", 8, InputSettings(), " (gain "),
        ("pick", 8, InputSettings(), " (gain "),
        # With a gain that no other work on the machine hides.
        ("wide", AUTO_BATCHING, InputSettings(), " (gain "),
        ("mlp", AUTO_BATCHING, NO_BATCH, "the layout of input 'x' does not begin with N"),
        ("mixing", 8, InputSettings(), "would look at each other in operation"),
        ("mixing", AUTO_BATCHING, InputSettings(), "would look at each other in operation"),
        ("alarming", 8, InputSettings(), "would look at each other in operation"),
        ("causal", 8, InputSettings(), "would look at each other in operation"),
        ("summing", 8, InputSettings(), "output 0 does not follow the batch"),
        ("scalar", 8, InputSettings(), "output 0 has no batch dimension"),
        ("finding", 8, InputSettings(), "depends on the data"),
        ("uneven", 8, InputSettings(), "its inputs have different batch dimensions"),
    ],
)
def test_which_models_are_batched(
    worker: WorkerUnderTest, models: Path, model: str, batching: int, inputs: InputSettings, expected: str
) -> None:
    # A run on several threads takes as long as the one that has to wait for its core.
    given = settings(batching=batching, inputs=inputs, INFERENCE_NUM_THREADS=1)

    def is_as_expected() -> bool:
        return expected in worker.load(next(HANDLES), model_file(models, model), given).detail

    # Runs are timed at the load, which says nothing while others have both cores.
    eventually(is_as_expected, 60.0, expected, 5.0)


@pytest.mark.parametrize("model", ["mlp", "open_batch"])
def test_each_member_gets_what_it_would_get_alone(worker: WorkerUnderTest, models: Path, model: str) -> None:
    alone, together = next(HANDLES), next(HANDLES)
    file = model_file(models, model)
    worker.load(alone, file, settings())
    worker.load(together, file, settings(batching=8))
    given = rows(40)
    expected = [worker.infer(alone, array)[0] for array in given]

    tasks = [worker.send(together, array) for array in given]

    for task, right in zip(tasks, expected, strict=True):
        (found,) = worker.outputs(task)
        assert found.shape == right.shape
        assert found.tobytes() == right.tobytes()


def test_a_member_that_makes_a_batch_fail_is_the_only_victim(worker: WorkerUnderTest, models: Path) -> None:
    handle = next(HANDLES)
    assert " (gain " in worker.load(handle, model_file(models, "pick"), settings(batching=8)).detail
    given = rows(24)
    good, bad = np.array([[2]], np.int32), np.array([[1 << 30]], np.int32)
    expected = [worker.infer(handle, array, good)[0] for array in given]

    tasks = [worker.send(handle, array, bad if number == 5 else good) for number, array in enumerate(given)]

    answers = [worker.answer(task) for task in tasks]
    assert [number for number, answer in enumerate(answers) if isinstance(answer, InferFailed)] == [5]
    assert "event=batch_failed" in worker.log
    for number, task in enumerate(tasks):
        if number != 5:
            assert worker.outputs(task)[0].tobytes() == expected[number].tobytes()


@dataclass(frozen=True)
class Member:
    """One of a batch that is not as the others.

    Attributes:
        what: For people.
        send: Sends it; its task.
        expected: Names of failures that it may have; empty where it is answered, bit by bit as alone.
    """

    what: str
    send: Callable[[WorkerUnderTest, int, int], int]
    expected: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.what


def sends(array: AnyArray, **how: Any) -> Callable[[WorkerUnderTest, int, int], int]:
    return lambda worker, handle, _: worker.send(handle, array, **how)


def refers(*ref: Any) -> Callable[[WorkerUnderTest, int, int], int]:
    return lambda worker, handle, _: worker.send_refs(handle, TensorRef(*ref))


def cancelled(worker: WorkerUnderTest, handle: int, _: int) -> int:
    task = worker.send(handle, rows(1)[0])
    worker.cancel(task)
    return task


def same_memory(worker: WorkerUnderTest, handle: int, before: int) -> int:
    """The input of the one before it, once more."""
    return worker.send_refs(handle, worker.sent_refs[before][0])


REFUSED = ("InferenceFailed", "ShapeMismatch", "ProtocolError")
PLAIN = np.full((1, 64), 0.5, np.float32)
HOSTILE = [
    Member("no number", sends(np.full((1, 64), np.nan, np.float32))),
    Member("infinite", sends(np.full((1, 64), np.inf, np.float32))),
    Member("huge", sends(np.full((1, 64), 3e38, np.float32))),
    Member("subnormal", sends(np.full((1, 64), 1e-42, np.float32))),
    Member("several samples", sends(np.full((3, 64), 0.5, np.float32)), REFUSED),
    Member("no samples", sends(np.zeros((0, 64), np.float32)), REFUSED),
    Member(
        "another length",
        sends(np.zeros((1, 63), np.float32)),
        REFUSED,
    ),
    Member("another rank", sends(np.zeros(64, np.float32)), REFUSED),
    Member("fewer bytes than its shape says", refers(0, 128, (1, 64)), REFUSED),
    Member("beyond the arena", refers(1 << 40, 256, (1, 64)), REFUSED),
    Member("in a region that nobody has attached", refers(0, 256, (1, 64), 77), ("RegionUnusable",)),
    Member("no inputs", lambda worker, handle, _: worker.send_refs(handle), REFUSED),
    Member("too little room for its outputs", sends(PLAIN, output_nbytes=64), ("",)),
    Member("no room at all for its outputs", sends(PLAIN, output_nbytes=0), ("",)),
    Member("under suspicion", sends(PLAIN, is_suspect=True)),
    Member("going first", sends(PLAIN, priority=1)),
    Member("late", sends(PLAIN, within_s=1e-9), ("DeadlineExceeded",)),
    Member("cancelled", cancelled, ("CallCancelled", "")),
    Member("the same memory", same_memory),
]


@pytest.fixture(scope="module", params=["mlp", "open_batch", "passing"])
def batched(request: pytest.FixtureRequest, worker: WorkerUnderTest, models: Path) -> tuple[int, int]:
    """A version that is served one by one, and the same with batches."""
    alone, together = next(HANDLES), next(HANDLES)
    worker.load(alone, model_file(models, request.param), settings())
    assert " (gain " in worker.load(together, model_file(models, request.param), settings(batching=8)).detail
    return alone, together


@pytest.mark.parametrize("member", HOSTILE, ids=str)
def test_an_odd_member_has_its_own_answer_and_the_others_theirs(
    worker: WorkerUnderTest, batched: tuple[int, int], member: Member
) -> None:
    alone, together = batched
    given = rows(16)
    expected = [answer_of(worker, worker.send(alone, array)) for array in given]
    first = worker.send(alone, given[7])
    own = answer_of(worker, member.send(worker, alone, first))

    tasks: list[int] = []
    for number, array in enumerate(given):
        tasks.append(worker.send(together, array))
        if number == 7:
            odd = member.send(worker, together, tasks[-1])

    for task, right in zip(tasks, expected, strict=True):
        assert answer_of(worker, task) == right
    found = answer_of(worker, odd)
    if member.expected:
        assert isinstance(found, list) or found in member.expected
    else:
        assert isinstance(found, list)
    if member.what != "cancelled":
        assert found == own


def answer_of(worker: WorkerUnderTest, task: int) -> list[tuple[tuple[int, ...], bytes]] | str:
    """Shapes and octets of a task's outputs, or the name of its failure."""
    answer = worker.answer(task)
    if isinstance(answer, InferFailed):
        return answer.error_name
    return [(ref.shape, bytes(worker.arena.view(ref))) for ref in answer.outputs]


def test_tasks_of_several_lengths_by_turns(worker: WorkerUnderTest, models: Path) -> None:
    """Rows of a form are used for other shapes and sizes each time."""
    alone, together = next(HANDLES), next(HANDLES)
    inputs = InputSettings(shapes=(InputShape("", ((1, 1), (1, 2000))),))
    file = model_file(models, "lengths")
    worker.load(alone, file, settings(inputs=inputs))
    assert " (gain " in worker.load(together, file, settings(batching=4, inputs=inputs)).detail
    given = [
        RNG.standard_normal((1, length)).astype(np.float32) for length in (5, 5, 900, 900, 900, 7, 7, 64) * 12
    ]
    expected = [answer_of(worker, worker.send(alone, array)) for array in given]

    tasks = [worker.send(together, array) for array in given]

    assert [answer_of(worker, task) for task in tasks] == expected


def test_what_a_model_refuses_of_one_it_does_not_get_of_two(worker: WorkerUnderTest, models: Path) -> None:
    """Two requests of 8 values fit a model of rows of 16, in one row: each would get what is of the other one, too."""
    handle = next(HANDLES)
    inputs = InputSettings(shapes=(InputShape("", ((1, 1), (1, 2000))),))
    state = worker.load(handle, model_file(models, "sixteens"), settings(batching=4, inputs=inputs))
    assert " (gain " in state.detail
    good, bad = RNG.standard_normal((1, 32)).astype(np.float32), np.full((1, 8), 7, np.float32)
    right = answer_of(worker, worker.send(handle, good))
    assert answer_of(worker, worker.send(handle, bad)) in REFUSED

    tasks = [worker.send(handle, bad if number % 6 in (2, 3, 4) else good) for number in range(48)]

    for number, task in enumerate(tasks):
        found = answer_of(worker, task)
        if number % 6 in (2, 3, 4):
            assert found in REFUSED
        else:
            assert found == right
