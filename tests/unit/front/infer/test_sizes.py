# SPDX-License-Identifier: Apache-2.0
"""Shapes of sizes that no tensor has, and answers computed of nothing."""

from __future__ import annotations

import pytest

from ovms_mp.errors import ShapeMismatch
from ovms_mp.front.infer.sizes import refuse_impossible, refuse_results_of_nothing
from ovms_mp.model.dtypes import DType
from ovms_mp.model.tensors import TensorSpec
from ovms_mp.wire.records import TensorRef

ARENA = 1 << 20
FULL, EMPTY = TensorRef(0, 8, (2,)), TensorRef(0, 0, (0, 2))


def refuse(shape: tuple[int, ...], dtype: DType = DType.FP32) -> None:
    refuse_impossible(TensorSpec.of("x", dtype, ((0, -1),) * len(shape)), shape, ARENA)


@pytest.mark.parametrize("shape", [(), (3,), (0,), (0, 3), (0, 0), (0, 1 << 18), (1 << 18, 0), (1 << 38,)])
def test_shapes_of_tensors_pass(shape: tuple[int, ...]) -> None:
    """One with elements that does not fit the arena is refused where memory is leased, as too large."""
    refuse(shape)


@pytest.mark.parametrize(
    "shape",
    [(0, 2**62), (2**62, 0), (2**63 - 1, 0), (2**62,), (2**32, 2**32), (2**32, 2**32, 0), (0, (1 << 18) + 1)],
)
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeMismatch) as caught:
        refuse(shape)

    for piece in (str(list(shape)), "no tensor can have", "--arena_size_mb", "input 'x'"):
        assert piece in caught.value.message


def test_bytes_count_not_elements() -> None:
    refuse((0, 1 << 20), DType.UINT8)
    with pytest.raises(ShapeMismatch):
        refuse((0, 1 << 18), DType.FP64)


@pytest.mark.parametrize(
    ("shapes", "results"),
    [
        (((0, 3),), [EMPTY]),
        (((0, 3), (2,)), [FULL]),
        (((1,),), [FULL, EMPTY]),
        (((0,), (0,)), [EMPTY, EMPTY]),
    ],
)
def test_answers_to_something_pass(shapes: tuple[tuple[int, ...], ...], results: list[TensorRef]) -> None:
    refuse_results_of_nothing(shapes, results)


@pytest.mark.parametrize(("shapes"), [((3, 0),), ((0,), (2, 0)), ((0, 0),)])
def test_answers_to_nothing_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ShapeMismatch, match="has no elements to compute an output of"):
        refuse_results_of_nothing(shapes, [EMPTY, FULL])
