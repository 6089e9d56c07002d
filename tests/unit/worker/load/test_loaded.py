# SPDX-License-Identifier: Apache-2.0
"""Loading and running versions in a real worker process: plans, auto shapes, blame for failures, memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ovms_mp.model.status import State
from ovms_mp.wire.messages import ModelStateChanged, UnloadModel
from ovms_mp.wire.tasks import InferFailed
from tests.support.waiting import eventually
from tests.support.worker import AUTO, WorkerUnderTest, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.model.dtypes import AnyArray
    from tests.support.models import ModelCache, ModelZoo


def zeros(*shape: int) -> AnyArray:
    return np.zeros(shape, np.float32)


def image(height: int) -> AnyArray:
    return zeros(1, 8, height, 8)


@pytest.fixture(scope="session")
def models(model_cache: ModelCache) -> Path:
    return model_cache.get("tests.support.build_worker_models")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerUnderTest]:
    with WorkerUnderTest(tmp_path_factory.mktemp("worker") / "log") as worker:
        yield worker


def model_file(root: Path, name: str) -> Path:
    return root / name / "1" / "model.xml"


def unload(worker: WorkerUnderTest, handle: int) -> None:
    worker.tell(UnloadModel(handle))
    ended = worker.expect(ModelStateChanged, lambda message: message.handle == handle)
    assert ended.state == State.END


def rss_anon_mb(pid: int) -> float:
    """Memory of its own that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no RssAnon")


def test_a_version_says_by_which_plan_it_runs(worker: WorkerUnderTest, zoo: ModelZoo) -> None:
    loaded = worker.load(1, model_file(zoo.root, "tiny"), settings(nireq=3))

    assert (loaded.state, loaded.error, loaded.nireq) == (State.AVAILABLE, None, 3)
    for piece in ("nireq=3", "streams=", "threads=", "hint=", "devices=CPU", "load_s=", "run_ms="):
        assert piece in loaded.detail
    assert "auto" not in loaded.detail
    assert worker.infer(1, zeros(1, 10))[0].tolist() == [[1.0] * 10]
    unload(worker, 1)


def test_auto_is_one_dynamic_model_where_that_works(worker: WorkerUnderTest, zoo: ModelZoo) -> None:
    loaded = worker.load(2, model_file(zoo.root, "tiny"), settings(inputs=AUTO))

    assert "auto=dynamic" in loaded.detail
    assert all(bound != (1, 1) for bound in loaded.inputs[0].bounds)
    for shape in ((1, 10), (4, 3), (2, 2), (1, 10)):
        assert worker.infer(2, zeros(*shape))[0].shape == shape
    assert "model-2 version 1 shapes" not in worker.log
    unload(worker, 2)


def test_shapes_that_a_dynamic_model_cannot_take_are_the_client_s_fault(
    worker: WorkerUnderTest, models: Path
) -> None:
    loaded = worker.load(3, model_file(models, "flat"), settings(inputs=AUTO))
    assert "auto=dynamic" in loaded.detail

    name, text = worker.error(worker.send(3, zeros(1, 5, 2)))
    assert name == "ShapeMismatch"
    assert "[1, 5, 2]" in text
    # Asked again, and beside shapes that fit.
    wrong = [worker.send(3, zeros(1, 5, 2)) for _ in range(5)]
    right = [worker.send(3, zeros(2, 4, 2) + 1) for _ in range(5)]
    assert {worker.error(task) for task in wrong} == {(name, text)}
    assert all(worker.outputs(task)[0].tolist() == [[8.0] * 3] * 2 for task in right)
    assert worker.infer(3, zeros(1, 4, 2))[0].shape == (1, 3)
    unload(worker, 3)


def test_shapes_that_only_the_run_refuses_are_told_from_a_failure_of_the_engine(
    worker: WorkerUnderTest, zoo: ModelZoo
) -> None:
    worker.load(4, model_file(zoo.root, "sum"), settings())

    name, text = worker.error(worker.send(4, zeros(3), zeros(2)))
    assert name == "ShapeMismatch", text
    assert worker.infer(4, zeros(3), zeros(3) + 1)[0].tolist() == [1.0, 1.0, 1.0]
    unload(worker, 4)


def test_a_client_s_wrong_shapes_do_not_break_the_model_for_others(
    worker: WorkerUnderTest, models: Path
) -> None:
    worker.load(5, model_file(models, "grouped"), settings())
    good, bad = zeros(1, 4, 8, 8) + 1, zeros(2, 5, 9, 9)
    for _ in range(3):
        assert worker.infer(5, good)[0].tolist() == np.full((1, 4, 6, 6), 9.0).tolist()
        wrong = [worker.send(5, bad) for _ in range(2)]
        right = [worker.send(5, good) for _ in range(3)]

        assert {worker.error(task)[0] for task in wrong} == {"ShapeMismatch"}
        assert all(worker.outputs(task)[0].shape == (1, 4, 6, 6) for task in right)
    unload(worker, 5)


@pytest.fixture(scope="module")
def served(worker: WorkerUnderTest, models: Path) -> Iterator[ModelStateChanged]:
    yield worker.load(10, model_file(models, "binary"), settings(inputs=AUTO))
    unload(worker, 10)


class TestVariants:
    """``auto`` for a model that cannot be compiled as a dynamic one."""

    def test_its_metadata_says_what_may_vary(self, served: ModelStateChanged) -> None:
        assert "auto=compiled for each shape" in served.detail
        assert served.error is None
        assert [low == high for low, high in served.inputs[0].bounds] == [False, True, False, False]
        assert [low == high for low, high in served.outputs[0].bounds] == [False, True, False, False]

    @pytest.mark.usefixtures("served")
    def test_new_shapes_are_compiled_once(self, worker: WorkerUnderTest) -> None:
        heights = [8, 90, 91, 92]
        for _ in range(6):
            tasks = [(height, worker.send(10, image(height))) for height in heights]
            for height, task in tasks:
                assert worker.outputs(task)[0].shape == (1, 4, height - 2, 6)

        counts = [worker.log.count(f"model-10 version 1 shapes [1, 8, {height}, 8]") for height in heights]
        # The first is the model's own.
        assert counts[1:] == [1, 1, 1]

    @pytest.mark.usefixtures("served")
    def test_answers_equal_those_of_a_model_of_that_shape(self, worker: WorkerUnderTest) -> None:
        x = np.random.default_rng(5).standard_normal((1, 8, 9, 8)).astype(np.float32)
        whole = worker.infer(10, x)[0]

        # What a convolution says of the upper half is the upper half of what it says.
        assert np.array_equal(worker.infer(10, x[:, :, :5])[0], whole[:, :, :3])
        assert len(np.unique(whole)) > 4

    @pytest.mark.usefixtures("served")
    def test_shapes_that_it_cannot_take_are_refused_and_remembered(self, worker: WorkerUnderTest) -> None:
        name, text = worker.error(worker.send(10, image(2)))
        failures = worker.log.count("event=variant_failed model='model-10")
        again = {worker.error(worker.send(10, image(2))) for _ in range(5)}

        assert name == "ShapeMismatch"
        assert again == {(name, text)}
        assert worker.log.count("event=variant_failed model='model-10") == failures == 1
        assert worker.infer(10, image(8))[0].shape == (1, 4, 6, 6)

    @pytest.mark.usefixtures("served")
    def test_more_shapes_than_are_kept_are_all_answered(self, worker: WorkerUnderTest) -> None:
        heights = range(20, 44)
        tasks = [(height, worker.send(10, image(height))) for height in (*heights, *heights)]
        for height, task in tasks:
            assert worker.outputs(task)[0].shape == (1, 4, height - 2, 6)

    @pytest.mark.usefixtures("served")
    def test_waiting_tasks_can_expire_and_be_cancelled(self, worker: WorkerUnderTest) -> None:
        # Twelve compilations, one after another, are before the last two.
        first = [worker.send(10, image(height)) for height in range(60, 72)]
        late = worker.send(10, image(72), within_s=1e-6)
        cancelled = worker.send(10, image(73))
        worker.cancel(cancelled)

        assert worker.error(late)[0] == "DeadlineExceeded"
        assert worker.error(cancelled)[0] == "CallCancelled"
        assert all(worker.outputs(task) for task in first)


def test_variants_are_proved_like_versions(worker: WorkerUnderTest, models: Path) -> None:
    loaded = worker.load(13, model_file(models, "binary_and_input"), settings(inputs=AUTO))
    assert "auto=compiled for each shape" in loaded.detail
    assert "outputs=copied (when bound, output 'x' has other values)" in loaded.detail

    random = np.random.default_rng(3)
    for height in (8, 9, 10, 9, 8):
        for _ in range(3):
            x = random.standard_normal((1, 8, height, 8)).astype(np.float32)
            assert np.array_equal(worker.infer(13, x)[1], x)
    assert worker.log.count("event=outputs_not_bound model='model-13 version 1'") == 3
    unload(worker, 13)


def test_the_queue_s_bound_holds_for_all_variants_together(worker: WorkerUnderTest, models: Path) -> None:
    worker.load(11, model_file(models, "binary"), settings(inputs=AUTO, max_queue_tasks=4))
    tasks = [worker.send(11, image(height)) for height in range(100, 120)]
    answers = [worker.answer(task) for task in tasks]
    refused = [answer for answer in answers if getattr(answer, "error_name", "") == "QueueFull"]

    assert len(refused) >= 10
    assert len(refused) < len(tasks)
    unload(worker, 11)


def test_an_unload_waits_for_tasks_whose_variant_is_being_compiled(
    worker: WorkerUnderTest, models: Path
) -> None:
    worker.load(12, model_file(models, "binary"), settings(inputs=AUTO))
    tasks = [worker.send(12, image(height)) for height in range(50, 55)]
    last = worker.send(12, image(8))
    worker.outputs(last)  # So all of them have arrived.
    unload(worker, 12)

    assert [worker.outputs(task)[0].shape[2] for task in tasks] == list(range(48, 53))


def test_unloading_gives_the_memory_back(models: Path, tmp_path: Path) -> None:
    with WorkerUnderTest(tmp_path / "log") as worker:
        pid = worker.process.pid

        def cycle(handle: int) -> None:
            assert worker.load(handle, model_file(models, "heavy"), settings()).error is None
            worker.infer(handle, zeros(1, 64))
            unload(worker, handle)

        cycle(1)
        eventually(lambda: rss_anon_mb(pid) < 150, within_s=10, what="the first unload")
        first = rss_anon_mb(pid)
        for handle in range(2, 8):
            cycle(handle)

        eventually(lambda: rss_anon_mb(pid) < first + 20, within_s=10, what="memory as after the first")
        assert worker.drain() == 0


def test_a_model_is_not_blamed_for_a_task_that_was_cancelled_ahead_of_its_turn(
    worker: WorkerUnderTest, models: Path
) -> None:
    worker.load(40, model_file(models, "grouped"), settings(nireq=1))
    large = zeros(1, 4, 768, 768)  # Milliseconds a run, so that tasks soon run in a thread.
    before, cancelled = worker.log.count("event=compiled_again"), 0
    for _ in range(40):
        first, second = (worker.send(40, large, output_nbytes=large.nbytes) for _ in range(2))
        worker.cancel(second)
        cancelled += isinstance(worker.answer(second), InferFailed)
        worker.outputs(first)

    assert cancelled > 0
    assert worker.log.count("event=compiled_again") == before
    unload(worker, 40)
