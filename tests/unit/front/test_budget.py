# SPDX-License-Identifier: Apache-2.0
"""The memory that bodies in flight may take together, and how long one may become."""

from __future__ import annotations

import pytest

from ovms_mp.errors import BodyMemoryFull, RequestTooLarge
from ovms_mp.front.budget import BodyBudget, BodyShare, body_bound, unpacked_limit
from ovms_mp.model.dtypes import DType
from ovms_mp.model.tensors import TensorSpec

MIB = 1 << 20


def spec(*bounds: tuple[int, int], name: str = "x") -> TensorSpec:
    return TensorSpec.of(name, DType.FP32, bounds)


def _fill(share: BodyShare, other: BodyShare) -> None:
    share.grow(50)
    other.grow(51)


def test_what_one_body_holds_another_cannot_have() -> None:
    budget = BodyBudget(100)
    with budget.share() as first, budget.share() as second:
        first.grow(60)
        with pytest.raises(BodyMemoryFull, match="--max_body_memory_mb"):
            second.grow(41)
        second.grow(40)
        first.shrink(1)
        second.grow(1)
        assert budget.used_bytes == 100
    assert budget.used_bytes == 0


def test_a_body_that_could_never_fit_is_not_told_to_try_again() -> None:
    with BodyBudget(100).share() as share:
        share.grow(100)
        with pytest.raises(RequestTooLarge, match=r"needs 101 bytes .* has 100"):
            share.grow(1)


def test_a_failure_gives_everything_back() -> None:
    budget = BodyBudget(100)
    with pytest.raises(BodyMemoryFull), budget.share() as share, budget.share() as other:
        _fill(share, other)
    share.release()

    assert budget.used_bytes == 0


def test_a_body_is_as_long_as_the_largest_inputs_need() -> None:
    assert body_bound([spec((1, 1), (10, 10))]) == (64 << 10) + 10 * 64 + 22
    assert body_bound([spec((1, 8), (10, 10))]) == (64 << 10) + 80 * 64 + 8 * 22
    assert body_bound([spec(name="scalar")]) == (64 << 10) + 64 + 52
    assert body_bound([spec((1, 1)), spec((0, -1))]) is None


@pytest.mark.parametrize(
    ("packed", "bound", "setting", "limit"),
    [
        (1000, 5000, 0, 5000),
        (1000, 5000, MIB, MIB),
        (1000, 5000 * MIB, 0, 100 * MIB),
        (1000, None, 0, 4 * MIB),
        (MIB, None, 0, 16 * MIB),
        (7 * MIB, None, 0, 100 * MIB),
        (1000, None, MIB, MIB),
    ],
)
def test_unpacked_bodies_are_bounded_by_the_model_or_the_wire(
    packed: int, bound: int | None, setting: int, limit: int
) -> None:
    assert unpacked_limit(packed, bound, setting, 100 * MIB) == limit
