# SPDX-License-Identifier: Apache-2.0
"""Batches in a real worker process: which models have them, whose bytes are where, and one member that fails."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ovms_mp.model.batching import AUTO_BATCHING
from ovms_mp.model.input_settings import InputSettings, Layout
from ovms_mp.wire.tasks import InferFailed
from tests.support.worker import WorkerUnderTest, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


def rows(count: int) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return [RNG.standard_normal((1, 64)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize(
    ("model", "batching", "inputs", "expected"),
    [
        # Up to which size is measured, and so of this machine's moment.
        ("mlp", 8, InputSettings(), " (gain "),
        ("open_batch", 8, InputSettings(), " (gain "),
        ("mlp", AUTO_BATCHING, NO_BATCH, "the layout of input 'x' does not begin with N"),
        ("mixing", 8, InputSettings(), "depends on the others in a batch of 2"),
        ("mixing", AUTO_BATCHING, InputSettings(), "in a batch of 2"),
        ("summing", 8, InputSettings(), "output 0 does not follow the batch"),
        ("scalar", 8, InputSettings(), "output 0 has no batch dimension"),
        ("finding", 8, InputSettings(), "depends on the data"),
        ("uneven", 8, InputSettings(), "its inputs have different batch dimensions"),
    ],
)
def test_which_models_are_batched(
    worker: WorkerUnderTest, models: Path, model: str, batching: int, inputs: InputSettings, expected: str
) -> None:
    state = worker.load(
        next(HANDLES), models / model / "1" / "model.xml", settings(batching=batching, inputs=inputs)
    )
    assert state is not None
    assert expected in state.detail


@pytest.mark.parametrize("model", ["mlp", "open_batch"])
def test_each_member_gets_what_it_would_get_alone(worker: WorkerUnderTest, models: Path, model: str) -> None:
    alone, together = next(HANDLES), next(HANDLES)
    file = models / model / "1" / "model.xml"
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
    worker.load(handle, models / "pick" / "1" / "model.xml", settings(batching=8))
    given = rows(24)
    good, bad = np.array([[2]], np.int32), np.array([[1 << 30]], np.int32)
    expected = [worker.infer(handle, array, good)[0] for array in given]

    tasks = [worker.send(handle, array, bad if number == 5 else good) for number, array in enumerate(given)]

    answers = [worker.answer(task) for task in tasks]
    failed = [number for number, answer in enumerate(answers) if isinstance(answer, InferFailed)]
    assert failed in ([], [5])
    for number, task in enumerate(tasks):
        if number != 5:
            assert worker.outputs(task)[0].tobytes() == expected[number].tobytes()
