# SPDX-License-Identifier: Apache-2.0
"""What a trial finds where the batch form is another model than the version."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import openvino.opset13 as ops
import pytest

from ovms_mp.child.specs import EngineSpec
from ovms_mp.wire.arena import Arena, create_arena_file
from ovms_mp.wire.records import ArenaHandle, TensorRef
from ovms_mp.wire.tasks import InferTask
from ovms_mp.worker.batching import trial
from ovms_mp.worker.batching.eligibility import takes_any_number
from ovms_mp.worker.batching.form import BatchForm
from ovms_mp.worker.batching.plan import BatchPlan
from ovms_mp.worker.batching.rows import NotBatched
from ovms_mp.worker.batching.trial import TrialBounds, binds_rows, try_batches
from ovms_mp.worker.engine.engine import create_core
from ovms_mp.worker.load.compiled import CompiledVersion, OutputPath

if TYPE_CHECKING:
    from collections.abc import Callable

UNIT = ((1, 8),)


@pytest.fixture(scope="module")
def core() -> ov.Core:
    return create_core(EngineSpec())


def model(make: Callable[[ov.Node], ov.Node], batch: int = -1) -> ov.Model:
    x = ops.parameter(ov.PartialShape([batch, 8]), ov.Type.f32, name="x")
    return ov.Model([ops.result(make(x))], [x], "model")


def compiled(core: ov.Core, make: Callable[[ov.Node], ov.Node], batch: int = -1) -> ov.CompiledModel:
    return core.compile_model(model(make, batch), "CPU", {"INFERENCE_NUM_THREADS": 1})


def test_a_batch_is_not_copied_over_the_input_of_who_ran_alone_before(core: ov.Core) -> None:
    """On the version's own compiled model; that memory may be another client's by now."""
    version = CompiledVersion(compiled(core, ops.tanh), ("x",), ("y",), 1)
    version.take(OutputPath.COPIED)
    form = BatchForm(
        version.compiled, UNIT, BatchPlan(1.0, {2: 1.0}), is_bound=binds_rows(version, version.compiled)
    )
    descriptor = create_arena_file(0, 4096)
    arena = Arena(ArenaHandle(descriptor, 4096))
    os.close(descriptor)
    places = np.frombuffer(arena.memory, np.float32).reshape(-1, 8)
    places[:4], places[4], places[6] = 5, 6, 7
    alone = InferTask(1, 0, (TensorRef(0, 128, (4, 8)),), 1024, 128, 0)
    slot = version.slots[0]
    version.bind(slot, alone, arena, 0)
    version.infer(slot, alone, arena)

    members = [
        InferTask(place, 0, (TensorRef(32 * place, 32, (1, 8)),), 1024 + 32 * place, 64, 0)
        for place in (4, 6)
    ]
    form.infer(slot, [(task, arena) for task in members])

    assert [set(places[place]) for place in (0, 1, 2, 3, 4, 6)] == [*[{5.0}] * 4, {6.0}, {7.0}]


@pytest.mark.parametrize("is_wide", [False, True])
def test_values_of_either_sign_show_what_others_do_not(core: ov.Core, is_wide: bool) -> None:
    version = CompiledVersion(compiled(core, ops.relu, 1), ("x",), ("y",), 1)
    bounds = TrialBounds((2, 4), is_exact=True, has_timing=False, is_wide=is_wide)
    form = compiled(core, ops.abs)

    if is_wide:
        with pytest.raises(NotBatched, match="has other values in a batch of 2"):
            try_batches(version, form, UNIT, (UNIT,), bounds)
    else:
        try_batches(version, form, UNIT, (UNIT,), bounds)


def test_a_result_that_is_no_number_is_the_same_as_any_other(core: ov.Core) -> None:
    version = CompiledVersion(compiled(core, ops.log, 1), ("x",), ("y",), 1)
    form = compiled(core, lambda x: ops.negative(ops.log(x)))
    bounds = TrialBounds((2,), is_exact=True, has_timing=False, is_wide=True)

    with pytest.raises(NotBatched, match="has other values"):
        try_batches(version, form, UNIT, (UNIT,), bounds)
    try_batches(version, compiled(core, lambda x: ops.log(x)), UNIT, (UNIT,), bounds)


def test_a_slow_model_is_tried_at_as_many_sizes_as_there_is_time_for(
    core: ov.Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_MOST_COMPARISON_S", 0.0)
    version = CompiledVersion(compiled(core, ops.relu, 1), ("x",), ("y",), 1)
    bounds = TrialBounds((2, 4, 1024), is_exact=False, has_timing=True, is_wide=False)

    timing = try_batches(version, compiled(core, ops.relu), UNIT, (UNIT,), bounds)

    assert list(timing.costs_s) == [2]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda x: ops.softmax(ops.matmul(x, ops.constant(np.eye(8, dtype=np.float32)), False, False), 1),
            True,
        ),
        (lambda x: ops.reshape(x, ops.shape_of(x), False), True),
        (lambda x: ops.gather(x, ops.convert(ops.constant(np.float32(1)), "i32"), ops.constant(1)), False),
        (lambda x: ops.gather(ops.constant(np.eye(8)), ops.convert(x, "i32"), ops.constant(0)), False),
        (lambda x: ops.roll(x, ops.constant([1]), ops.constant([1])), False),
    ],
)
def test_fractions_that_do_not_become_indices(make: Callable[[ov.Node], ov.Node], expected: bool) -> None:
    assert takes_any_number(model(make)) is expected
