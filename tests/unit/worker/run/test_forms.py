# SPDX-License-Identifier: Apache-2.0
"""Forms in a real worker process: changed under load, with answers that are OpenVINO's to the bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from ovms_mp.model.status import State
from ovms_mp.wire.messages import LoadModel, ModelStateChanged, PlanChanged, UnloadModel
from tests.support.worker import WorkerUnderTest, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.model.dtypes import AnyArray
    from ovms_mp.wire.records import ModelSettings
    from tests.support.models import ModelCache

MEBIBYTE = 1 << 20
TOGETHER = 16
MOST_ROUNDS = 20_000
NAMES = ("images", "open")


@pytest.fixture(scope="module")
def models(model_cache: ModelCache) -> Path:
    return model_cache.get("tests.support.build_form_models")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerUnderTest]:
    with WorkerUnderTest(tmp_path_factory.mktemp("forms") / "log") as worker:
        yield worker


def adaptive(memory_mb: int = 64, **plugin_config: str | int) -> ModelSettings:
    return msgspec.structs.replace(
        settings(), plugin_config=plugin_config, adaptive_bytes=memory_mb * MEBIBYTE
    )


class Asked:
    """A version of a worker, and what it must answer."""

    def __init__(self, worker: WorkerUnderTest, models: Path, name: str, handle: int) -> None:
        self.worker, self.handle = worker, handle
        self.model_file = models / name / "1" / "model.xml"
        with np.load(models / f"{name}.npz") as arrays:
            self._pairs: list[tuple[AnyArray, AnyArray]] = list(
                zip(arrays["inputs"], arrays["answers"], strict=True)
            )

    def load(self, model_settings: ModelSettings, cache: str = "") -> str:
        loaded = self.worker.load(self.handle, self.model_file, model_settings, cache)
        assert loaded.state == State.AVAILABLE, loaded.error
        return loaded.detail

    def ask(self, together: int) -> None:
        """So many requests at once; each must be answered as OpenVINO does."""
        pairs = self._pairs[:together]
        tasks = [self.worker.send(self.handle, x, output_nbytes=4096) for x, _ in pairs]
        for task, (_, expected) in zip(tasks, pairs, strict=True):
            assert self.worker.outputs(task)[0].tobytes() == expected.tobytes()

    def ask_until_told(self, together: int, text: str) -> PlanChanged:
        """Keep asking until the worker says so of this version."""
        for _ in range(MOST_ROUNDS):
            self.ask(together)
            self.worker.take_mail(0.001)
            for message in self.worker.mail:
                if isinstance(message, PlanChanged) and message.handle == self.handle:
                    self.worker.mail.remove(message)
                    if text in message.detail:
                        return message
        raise AssertionError(f"not told {text!r}; {self.worker.log}")

    def unload(self) -> None:
        self.worker.tell(UnloadModel(self.handle))
        is_own = lambda message: message.handle == self.handle  # noqa: E731
        assert self.worker.expect(ModelStateChanged, is_own).state == State.END


@pytest.mark.parametrize("name", NAMES)
def test_forms_change_with_the_demand_and_answers_stay_the_same_to_the_bit(
    worker: WorkerUnderTest, models: Path, name: str
) -> None:
    asked = Asked(worker, models, name, 1 + NAMES.index(name))
    detail = asked.load(adaptive(PERFORMANCE_HINT="ADAPTIVE") if name == "open" else adaptive())
    assert "hint=LATENCY" in detail
    assert "adaptive=LATENCY until requests come together" in detail
    asked.ask(1)

    for _ in range(2):
        crowded = asked.ask_until_told(TOGETHER, "adaptive=THROUGHPUT")
        assert "hint=THROUGHPUT" in crowded.detail
        assert crowded.streams >= 1
        assert crowded.nireq >= 1
        lone = asked.ask_until_told(1, "adaptive=LATENCY")
        assert (lone.streams, lone.nireq) == (1, 1)
    asked.unload()
    assert worker.log.count(f"model='model-{asked.handle} version 1' form=THROUGHPUT") == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [("PERFORMANCE_HINT", "LATENCY"), ("NUM_STREAMS", "1"), ("PERFORMANCE_HINT", "THROUGHPUT")],
)
def test_a_hint_or_streams_fix_the_form(worker: WorkerUnderTest, models: Path, key: str, value: str) -> None:
    asked = Asked(worker, models, "images", 11)

    fixed = msgspec.structs.replace(adaptive(), plugin_config={key: value})
    assert "adaptive" not in asked.load(fixed)
    for _ in range(10):
        asked.ask(TOGETHER)
    asked.unload()

    assert "model-11" not in "".join(line for line in worker.log.splitlines() if "second_form" in line)


def test_without_memory_there_is_one_form_only(worker: WorkerUnderTest, models: Path) -> None:
    asked = Asked(worker, models, "images", 12)

    assert "adaptive" not in asked.load(adaptive(memory_mb=0))
    asked.unload()


def test_a_form_that_takes_more_than_the_limit_is_not_compiled_and_the_status_says_so(
    worker: WorkerUnderTest, models: Path
) -> None:
    asked = Asked(worker, models, "images", 13)
    asked.load(msgspec.structs.replace(adaptive(), adaptive_bytes=1))

    told = asked.ask_until_told(TOGETHER, "second_form=none")

    assert "--adaptive_memory_mb allows 0" in told.detail
    assert "hint=LATENCY" in told.detail
    assert worker.log.count("event=second_form_forbidden model='model-13 version 1'") == 1
    asked.unload()


def test_files_that_have_changed_give_no_second_form(
    worker: WorkerUnderTest, models: Path, tmp_path: Path
) -> None:
    shutil.copytree(models / "images", tmp_path / "images")
    shutil.copy(models / "images.npz", tmp_path)
    asked = Asked(worker, tmp_path, "images", 14)
    asked.load(adaptive())
    with asked.model_file.open("ab") as file:
        file.write(b"\n")

    assert "its files were changed" in asked.ask_until_told(TOGETHER, "second_form=none").detail
    asked.unload()


def test_a_version_may_be_unloaded_while_its_second_form_is_compiled(
    worker: WorkerUnderTest, models: Path
) -> None:
    asked = Asked(worker, models, "images", 15)
    for _ in range(3):
        asked.load(adaptive())
        asked.ask(TOGETHER)
        asked.unload()
    asked.load(adaptive())
    asked.ask_until_told(TOGETHER, "adaptive=THROUGHPUT")
    asked.unload()


def test_both_forms_are_kept_in_the_cache(worker: WorkerUnderTest, models: Path, tmp_path: Path) -> None:
    asked = Asked(worker, models, "images", 16)
    for expected in (0, 1):
        asked.load(adaptive(), str(tmp_path))
        told = asked.ask_until_told(TOGETHER, "adaptive=THROUGHPUT")
        assert told.detail.count("cache=used") == expected
        asked.unload()


def test_a_version_whose_second_form_killed_a_worker_has_one(worker: WorkerUnderTest, models: Path) -> None:
    file = str(models / "images" / "1" / "model.xml")
    worker.tell(LoadModel(17, "model-17", 1, file, adaptive(), may_adapt=False))
    loaded = worker.expect(ModelStateChanged, lambda message: message.handle == 17)

    assert "adaptive" not in loaded.detail
    Asked(worker, models, "images", 17).unload()
