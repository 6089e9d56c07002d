# SPDX-License-Identifier: Apache-2.0
"""How long what a trial has found is believed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from ovms_mp.child.specs import CpuShare, EngineSpec
from ovms_mp.wire.messages import LoadModel
from ovms_mp.worker.batching.loading import Verdict, _read, _write, load_with_batches
from ovms_mp.worker.engine.engine import create_core
from ovms_mp.worker.load.batches import FirstForm
from tests.support.worker import settings

if TYPE_CHECKING:
    from pathlib import Path

    from ovms_mp.worker.load.loaded import LoadedVersion
    from tests.support.models import ModelCache

HOUR_S = 3600.0


@pytest.mark.parametrize(("from_now_s", "is_believed"), [(None, True), (HOUR_S, True), (-HOUR_S, False)])
def test_a_verdict_by_times_of_a_busy_machine_ends(
    tmp_path: Path, from_now_s: float | None, is_believed: bool
) -> None:
    until_s = 0.0 if from_now_s is None else time.time() + from_now_s
    verdict = Verdict("", ((1, 4),), (((1, 4),),), 0.1, {2: 0.1}, until_s)
    path = tmp_path / "verdict.json"
    _write(path, verdict)

    assert _read(path) == (verdict if is_believed else None)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"reason": 1}', b"{" * 70_000])
def test_what_is_no_verdict_is_not_known(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "verdict.json"
    path.write_bytes(content)

    assert _read(path) is None
    assert _read(tmp_path / "nothing") is None


def test_another_form_is_batched_as_the_first_one(model_cache: ModelCache) -> None:
    """Whatever is timed while requests have the machine."""
    file = model_cache.get("tests.support.build_batch_models") / "mlp" / "1" / "model.xml"
    core = create_core(EngineSpec())

    def load(hint: str, first: FirstForm | None) -> LoadedVersion:
        request = LoadModel(1, "m", 1, str(file), settings(batching=8, PERFORMANCE_HINT=hint), "")
        return load_with_batches(core, request, CpuShare(), first=first)

    loaded = load("LATENCY", None)
    assert loaded.compiled.batches is not None
    same = load("THROUGHPUT", FirstForm(loaded.compiled.batches.verdict))
    lone = load("THROUGHPUT", FirstForm(None))

    assert batching_of(same) == batching_of(loaded)
    assert same.compiled.batches is not None
    assert same.compiled.batches.verdict == loaded.compiled.batches.verdict
    assert batching_of(lone) == "off (as the form that the version was loaded with)"


def batching_of(loaded: LoadedVersion) -> str:
    return loaded.detail.partition("batching=")[2]
