# SPDX-License-Identifier: Apache-2.0
"""Models that do with one thread: which may, what is compared, what a load makes of it, and runs that fail."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import openvino.opset13 as ops
import pytest

from ovms_mp.wire.messages import UnloadModel
from ovms_mp.worker.load.compiled import CompiledVersion
from ovms_mp.worker.load.one_thread import does_with_one, may_do_with_one
from ovms_mp.worker.load.proof import Attempt, Proof, prove
from tests.support.worker import WorkerUnderTest, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ovms_mp.wire.records import ModelSettings
    from tests.support.models import ModelZoo

HANDLES = count(1)
X = np.arange(10, dtype=np.float32)[None]


def proven(threads: int, added: float = 1.0, rows: int = 1) -> tuple[CompiledVersion, Proof]:
    """Of a model that adds a number; with -1 rows, to any number of them."""
    x = ops.parameter([rows, 10], np.float32, name="x")
    model = ov.Model([ops.result(ops.add(x, ops.constant(np.float32(added))))], [x], "model")
    made = ov.Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads})
    version = CompiledVersion(made, ["x"], ["y"], 1)
    return version, prove(version, Attempt(), must_run=True)


def test_small_models_may() -> None:
    assert may_do_with_one(settings(), *proven(2))
    assert may_do_with_one(settings(PERFORMANCE_HINT="ADAPTIVE"), *proven(2))


def test_what_differs_from_request_to_request_keeps_its_threads() -> None:
    assert not may_do_with_one(settings(), *proven(2, rows=-1))


@pytest.mark.parametrize(
    "given",
    [
        settings(INFERENCE_NUM_THREADS=2),
        settings(CPU_THREADS_NUM="2"),
        settings(NUM_STREAMS=1),
        settings(CPU_THROUGHPUT_STREAMS="1"),
        settings(PERFORMANCE_HINT="LATENCY"),
        settings(CPU_BIND_THREAD="YES"),
        settings(DEVICE_PROPERTIES='{"CPU": {"NUM_STREAMS": 1}}'),
    ],
    ids=lambda given: next(iter(given.plugin_config)),
)
def test_the_user_s_word_goes_before(given: ModelSettings) -> None:
    assert not may_do_with_one(given, *proven(2))


@pytest.mark.parametrize("device", ["AUTO", "MULTI:CPU", "BATCH:CPU(2)", "HETERO:CPU"])
def test_the_cpu_alone(device: str) -> None:
    assert not may_do_with_one(settings(device=device), *proven(2))


def test_other_answers_are_not_taken() -> None:
    assert not does_with_one(proven(2)[0], proven(1, added=2.0)[0])


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerUnderTest]:
    with WorkerUnderTest(tmp_path_factory.mktemp("worker") / "log") as worker:
        yield worker


def threads_of(worker: WorkerUnderTest, model_file: Path, cache: Path, given: ModelSettings) -> str:
    """Load it, ask it, let it go; what its plan says of threads and the cache."""
    handle = next(HANDLES)
    loaded = worker.load(handle, model_file, given, str(cache))
    assert loaded.error is None, loaded.error
    assert worker.infer(handle, X)[0].tolist() == (X + 1).tolist()
    worker.tell(UnloadModel(handle))
    return " ".join(
        part
        for part in loaded.detail.split(" outputs=")[0].split()
        if part.startswith(("streams", "threads", "cache"))
    )


def test_a_load_compiles_for_one_and_the_cache_remembers_it(
    worker: WorkerUnderTest, zoo: ModelZoo, tmp_path: Path
) -> None:
    model_file, cache = zoo.base_path("tiny") / "1" / "model.xml", tmp_path / "cache"

    assert threads_of(worker, model_file, cache, settings()) == "streams=0 threads=0"
    assert threads_of(worker, model_file, cache, settings()) == "streams=0 threads=0 cache=used"
    assert threads_of(worker, model_file, cache, settings(INFERENCE_NUM_THREADS=2)) == "streams=1 threads=2"


def picking() -> ov.Model:
    """Sets a row of a table to zeros; a run fails where there is no such row."""
    row = ops.parameter([1], np.int32, name="row")
    table = ops.constant(np.ones((4, 16), np.float32))
    return ov.Model(
        [
            ops.result(
                ops.scatter_update(table, row, ops.constant(np.zeros((1, 16), np.float32)), ops.constant(0))
            )
        ],
        [row],
        "picking",
    )


@pytest.mark.parametrize(
    "given",
    [
        settings(),
        settings(INFERENCE_NUM_THREADS=1),
        settings(NUM_STREAMS=1, INFERENCE_NUM_THREADS=1),
        settings(NUM_STREAMS=0),
        settings(PERFORMANCE_HINT="THROUGHPUT"),
        settings(device="HETERO:CPU", INFERENCE_NUM_THREADS=1),
        settings(device="AUTO:CPU", INFERENCE_NUM_THREADS=1),
        settings(device="MULTI:CPU", INFERENCE_NUM_THREADS=1),
    ],
    ids=lambda given: f"{given.device} {given.plugin_config}",
)
def test_a_run_that_fails_is_never_an_answer(
    worker: WorkerUnderTest, tmp_path: Path, given: ModelSettings
) -> None:
    """OpenVINO loses the failure where one stream has one thread; the answer would be what the memory held before."""
    ov.save_model(picking(), tmp_path / "model.xml")
    handle = next(HANDLES)
    loaded = worker.load(handle, tmp_path / "model.xml", given)
    assert loaded.error is None, loaded.error
    for row in (7, 2, 1000, -9, 7, 1):
        task = worker.send(handle, np.array([row], np.int32))
        if row in (1, 2):
            (found,) = worker.outputs(task)
            assert [float(values.sum()) for values in found] == [
                0.0 if index == row else 16.0 for index in range(4)
            ]
        else:
            name, text = worker.error(task)
            assert (name, "non-existing output tensor element" in text) == ("InferenceFailed", True), text
    worker.tell(UnloadModel(handle))
