# SPDX-License-Identifier: Apache-2.0
"""Which inputs may change while a model reads them: those that it computes with and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from ovms_mp.worker.load.referable import referable_inputs

if TYPE_CHECKING:
    from collections.abc import Callable

AXES = np.array([0], np.int64)
REFERABLE: dict[str, Callable[[ov.Node], ov.Node]] = {
    "arithmetic": lambda x: ops.add(x, np.float32(1)),
    "means": lambda x: ops.reduce_mean(x, AXES),
    "views before": lambda x: ops.relu(
        ops.transpose(ops.reshape(x, np.array([2, 2]), False), np.array([1, 0]))
    ),
    "decided later": lambda x: ops.non_zero(ops.add(x, np.float32(1))),
}
NOT_REFERABLE: dict[str, Callable[[ov.Node], ov.Node]] = {
    "counted": ops.non_zero,
    "counted behind a view": lambda x: ops.non_zero(ops.reshape(x, np.array([2, 2]), False)),
    "counted beside": lambda x: ops.concat(
        [ops.add(x, np.float32(1)), ops.squeeze(ops.convert(ops.non_zero(x), "f32"), AXES)], 0
    ),
    "sorted": lambda x: ops.relu(ops.topk(x, np.int64(2), 0, "max", "value").output(0)),
    "positions": lambda x: ops.gather(np.arange(9, dtype=np.float32), ops.convert(x, "i32"), np.int64(0)),
    "passed through": lambda x: ops.reshape(x, np.array([4]), False),
}


def is_referable(step: Callable[[ov.Node], ov.Node], dtype: ov.Type = ov.Type.f32) -> bool:
    x = ops.parameter([4], dtype)
    (found,) = referable_inputs(ov.Model([step(x)], [x], "m"))
    return found


@pytest.mark.parametrize("kind", REFERABLE)
def test_what_is_computed_with_can_be(kind: str) -> None:
    assert is_referable(REFERABLE[kind])


@pytest.mark.parametrize("kind", NOT_REFERABLE)
def test_what_decides_about_sizes_positions_or_an_order_cannot(kind: str) -> None:
    assert not is_referable(NOT_REFERABLE[kind])


def test_integers_that_may_be_positions_cannot() -> None:
    assert is_referable(lambda x: ops.add(x, np.uint8(1)), ov.Type.u8)
    assert not is_referable(lambda x: ops.add(x, np.int32(1)), ov.Type.i32)
