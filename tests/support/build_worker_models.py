# SPDX-License-Identifier: Apache-2.0
"""Builds models whose shapes or sizes matter to the worker; a process of its own, as it imports openvino.

binary: ``x`` f32 [1,8,8,8] -> ``y`` f32 [1,4,6,6], a convolution that the CPU device has for static shapes only.
binary_and_input: the same, and ``x`` passes.
flat: ``x`` f32 [1,4,2] -> ``y`` f32 [1,3], rows of 8 elements.
grouped: ``x`` f32 [-1,-1,-1,-1] -> ``y``, a convolution over 4 channels, each by itself; a run with other channels
breaks the CPU device's node for good.
heavy: ``x`` f32 [1,64] -> ``y``, with 100 MB of weights.
patterns: ``x`` u8 [1] -> ``y`` u8 [262144], all of it ``x``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import openvino.opset13 as ops

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Build everything below the directory of the first argument."""
    root = Path(sys.argv[1])
    for model in (_binary(), _binary_and_input(), _flat(), _heavy(), _grouped(), _patterns()):
        directory = root / model.get_friendly_name() / "1"
        directory.mkdir(parents=True)
        ov.save_model(model, directory / "model.xml", compress_to_fp16=False)


def _model(name: str, shape: list[int], make: Callable[[ov.Node], ov.Node]) -> ov.Model:
    node = ops.parameter(ov.PartialShape(shape), ov.Type.f32, name="x")
    node.output(0).set_names({"x"})
    result = ops.result(make(node))
    result.output(0).set_names({"y"})
    return ov.Model([result], [node], name)


def _binary() -> ov.Model:
    return _model("binary", [1, 8, 8, 8], _binary_convolution)


def _binary_and_input() -> ov.Model:
    model = _binary()
    model.set_friendly_name("binary_and_input")
    model.add_results([ops.result(model.input(0))])
    return model


def _binary_convolution(x: ov.Node) -> ov.Node:
    bits = (np.arange(4 * 8 * 3 * 3) % 3 == 0).astype(np.uint8)
    weights = ov.op.Constant(ov.Type.u1, ov.Shape([4, 8, 3, 3]), bits.tolist())
    ones, none = [1, 1], [0, 0]
    return ops.binary_convolution(x, weights, ones, none, none, ones, "xnor-popcount", 0.0)


def _flat() -> ov.Model:
    ones = np.ones((8, 3), np.float32)
    return _model(
        "flat", [1, 4, 2], lambda x: ops.matmul(ops.reshape(x, np.array([1, 8]), False), ones, False, False)
    )


def _heavy() -> ov.Model:
    random = np.random.default_rng(2)

    def make(x: ov.Node) -> ov.Node:
        node = ops.matmul(x, random.standard_normal((64, 4096), np.float32), False, False)
        node = ops.matmul(node, random.standard_normal((4096, 6080), np.float32), False, False)
        return ops.reduce_mean(node, np.array([1]), False)

    return _model("heavy", [1, 64], make)


def _grouped() -> ov.Model:
    weights, ones, none = np.ones((4, 1, 1, 3, 3), np.float32), [1, 1], [0, 0]
    return _model(
        "grouped", [-1, -1, -1, -1], lambda x: ops.group_convolution(x, weights, ones, none, none, ones)
    )


def _patterns() -> ov.Model:
    node = ops.parameter(ov.PartialShape([1]), ov.Type.u8, name="x")
    node.output(0).set_names({"x"})
    result = ops.result(ops.broadcast(node, np.array([256 << 10])))
    result.output(0).set_names({"y"})
    return ov.Model([result], [node], "patterns")


if __name__ == "__main__":
    main()
