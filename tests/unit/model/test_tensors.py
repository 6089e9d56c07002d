# SPDX-License-Identifier: Apache-2.0
"""Tensor specs: which shapes they accept and how they show themselves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_mp.model.dtypes import DType
from ovms_mp.model.input_settings import Bound
from ovms_mp.model.tensors import TensorSpec

SIZES = st.integers(0, 6)
BOUNDS: st.SearchStrategy[Bound] = st.one_of(
    SIZES.map(lambda size: (size, size)),
    SIZES.map(lambda low: (low, -1)),
    st.tuples(SIZES, SIZES).map(lambda pair: (min(pair), max(pair))),
)


@given(bounds=st.lists(BOUNDS, max_size=4).map(tuple), shape=st.lists(SIZES, max_size=4).map(tuple))
def test_accepts_exactly_what_is_within_the_bounds(bounds: tuple[Bound, ...], shape: tuple[int, ...]) -> None:
    inside = len(bounds) == len(shape)
    for size, (low, high) in zip(shape, bounds, strict=False):
        inside = inside and size in range(low, 100 if high == -1 else high + 1)

    assert TensorSpec.of("x", DType.FP32, bounds).accepts(shape) == inside


@pytest.mark.parametrize(
    ("bounds", "dims", "nbytes", "text"),
    [
        ((), (), 8, "[]"),
        (((1, 1), (10, 10)), (1, 10), 80, "[1, 10]"),
        (((0, 0), (10, 10)), (0, 10), 0, "[0, 10]"),
        (((0, -1), (3, 3)), (-1, 3), None, "[-1, 3]"),
        (((1, -1), (3, 3)), (-1, 3), None, "[1.., 3]"),
        (((1, 4), (3, 3)), (-1, 3), None, "[1..4, 3]"),
        (((0, -1), (3, 3), (224, 224), (100, 300)), (-1, 3, 224, -1), None, "[-1, 3, 224, 100..300]"),
    ],
)
def test_views_of_the_bounds(
    bounds: tuple[Bound, ...], dims: tuple[int, ...], nbytes: int | None, text: str
) -> None:
    spec = TensorSpec.of("x", DType.FP64, bounds)

    assert (spec.dims, spec.static_nbytes, spec.shape_text()) == (dims, nbytes, text)


def test_no_shape_with_minus_one_is_accepted_by_a_bounded_dimension() -> None:
    assert not TensorSpec.of("x", DType.FP32, ((2, 4), (3, 3))).accepts((-2, 3))
    assert not TensorSpec.of("x", DType.FP32, ((2, 4), (3, 3))).accepts((5, 3))


@pytest.mark.parametrize(
    ("bounds", "most_nbytes"),
    [((), 4), (((2, 2), (3, 3)), 24), (((1, 5), (3, 3)), 60), (((1, -1), (3, 3)), None)],
)
def test_the_largest_that_fits(bounds: tuple[Bound, ...], most_nbytes: int | None) -> None:
    assert TensorSpec.of("x", DType.FP32, bounds).most_nbytes == most_nbytes
