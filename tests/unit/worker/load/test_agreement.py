# SPDX-License-Identifier: Apache-2.0
"""Whether two compiled models of a version are found to answer the same."""

from __future__ import annotations

import numpy as np
import openvino as ov
import openvino.opset13 as ops
import pytest

from ovms_mp.model.dtypes import DType, Kind
from ovms_mp.model.tensors import TensorSpec
from ovms_mp.worker.load.agreement import agree, random_input, sampled_answers
from ovms_mp.worker.load.compiled import CompiledVersion, OutputPath
from ovms_mp.worker.load.proof import Attempt, prove


def compiled(first: int, then: int) -> CompiledVersion:
    """Of a model that adds three numbers, two of them before the third."""
    x = ops.parameter([1, 24], np.float32, name="x")
    parts = list(ops.split(x, ops.constant(1), 3).outputs())
    third = parts.pop(3 - first - then)
    model = ov.Model([ops.result(ops.add(ops.add(*parts), third))], [x], "model")
    made = ov.Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1})
    version = CompiledVersion(made, ["x"], ["y"], 1)
    prove(version, Attempt(), must_run=True)
    return version


@pytest.mark.parametrize(("other", "expected"), [((0, 1), True), ((1, 2), False)])
def test_sums_in_another_order(other: tuple[int, int], expected: bool) -> None:
    assert agree(compiled(0, 1).compiled, compiled(*other)) is expected


@pytest.mark.parametrize(("other", "expected"), [((0, 1), True), ((1, 2), False)])
def test_sums_in_another_order_give_other_digests(other: tuple[int, int], expected: bool) -> None:
    found = sampled_answers(compiled(0, 1))

    assert len(set(found)) == 4
    assert (found == sampled_answers(compiled(*other))) is expected


def test_a_request_that_was_bound_keeps_its_input() -> None:
    """It may be another client's by now."""
    x = ops.parameter(ov.PartialShape([1, -1]), ov.Type.f32, name="x")
    made = ov.Core().compile_model(ov.Model([ops.result(ops.tanh(x))], [x], "model"), "CPU")
    version = CompiledVersion(made, ["x"], ["y"], 1)
    version.take(OutputPath.COPIED)
    mine = np.full((1, 8), 5, np.float32)
    request = version.slots[0].request
    request.set_input_tensor(0, ov.Tensor(mine, shared_memory=True))
    request.infer()

    assert sampled_answers(version)
    assert (mine == 5).all()


def test_made_up_values_have_the_same_sum_in_every_order() -> None:
    """Why the proof's digests alone do not tell."""
    proofs = [prove(compiled(*order), Attempt(), must_run=True) for order in ((0, 1), (1, 2))]
    assert proofs[0].answers == proofs[1].answers


def test_fractions_that_become_integers_are_no_places_beyond_the_first() -> None:
    random = np.random.default_rng(2)
    for dtype in DType:
        if dtype is DType.BYTES:
            continue
        values = random_input(TensorSpec.of("x", dtype, ((100, 100),)), (100,), random).view(dtype.numpy)
        numbers = values.astype(np.float64)
        assert numbers.min() >= 0
        assert numbers.max() < 1 if dtype.kind is Kind.FLOAT else numbers.max() <= 1
