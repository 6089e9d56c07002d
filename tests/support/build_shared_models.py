# SPDX-License-Identifier: Apache-2.0
"""Builds models whose outputs are inputs, constants, or one tensor; a process of its own, as it imports openvino.

Input and output have one name where an input passes through.

e: ``x`` f32 [1,3] passes. loose: ``x`` f32 [-1,3] passes. shape: ``x`` f32 [2,3] -> ``y`` [3,2].
turned: ``x`` i32 [-1,3] -> ``same``, by a conversion that is none, and ``y``, its columns backwards.
keyed_i64, keyed_i32: ``x`` f32 [1,3] -> ``y`` = x + 1, and ``key`` [1,2] passes.
fork: ``x`` f32 [1,3] passes -> ``same`` f32 [3] too, and ``y`` = 2x.
constant: ``x`` f32 [1,3] -> ``y`` = x + 1, ``four`` i64 [1,4] = 0, 1, 2, 3.
halves: ``x`` f32 [1,4] -> ``low`` [1,2], ``high`` [1,2], and passes.
computed: ``x`` f32 [1,3] -> ``y`` = x + 1.
patterns: ``x`` f32 [1,1] -> ``y`` f32 [1,512], all of it ``x``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops

Node = Any


def main() -> None:
    """Build everything below the directory of the first argument."""
    for name, model in _models().items():
        directory = Path(sys.argv[1]) / name / "1"
        directory.mkdir(parents=True)
        ov.save_model(model, directory / "model.xml", compress_to_fp16=False)


def _models() -> dict[str, ov.Model]:
    row, loose, pair, four, one = [1, 3], [-1, 3], [2, 3], [1, 4], [1, 1]
    return {
        "e": _model(row, lambda x: {"x": x}),
        "loose": _model(loose, lambda x: {"x": x}),
        "shape": _model(pair, lambda x: {"y": ops.reshape(x, np.array([3, 2]), False)}),
        "turned": _turned(),
        "keyed_i64": _keyed(ov.Type.i64),
        "keyed_i32": _keyed(ov.Type.i32),
        "fork": _model(
            row,
            lambda x: {
                "x": x,
                "same": ops.reshape(x, np.array([3]), False),
                "y": ops.multiply(x, np.float32(2)),
            },
        ),
        "constant": _model(
            row, lambda x: {"y": ops.add(x, np.float32(1)), "four": ops.constant(np.arange(4)[None])}
        ),
        "halves": _model(four, _halves),
        "computed": _model(row, lambda x: {"y": ops.add(x, np.float32(1))}),
        "patterns": _model(one, lambda x: {"y": ops.tile(x, np.array([1, 512]))}),
    }


def _parameter(name: str, shape: list[int], dtype: ov.Type = ov.Type.f32) -> Node:
    node = ops.parameter(ov.PartialShape(shape), dtype, name=name)
    node.output(0).set_names({name})
    return node


def _results(outputs: dict[str, Node]) -> list[Node]:
    results = []
    for name, value in outputs.items():
        value.output(0).set_names({name}) if isinstance(value, ov.Node) else value.set_names({name})
        results.append(ops.result(value))
    return results


def _model(shape: list[int], make: Any) -> ov.Model:
    x = _parameter("x", shape)
    return ov.Model(_results(make(x)), [x], "shared")


def _keyed(dtype: ov.Type) -> ov.Model:
    x, key = _parameter("x", [1, 3]), _parameter("key", [1, 2], dtype)
    return ov.Model(_results({"y": ops.add(x, np.float32(1)), "key": key}), [x, key], "keyed")


def _turned() -> ov.Model:
    x = _parameter("x", [-1, 3], ov.Type.i32)
    same = ops.convert(x, "i32")
    turned = ops.gather(same, np.array([2, 1, 0]), np.array(1))
    return ov.Model(_results({"y": turned, "same": same}), [x], "turned")


def _halves(x: Node) -> dict[str, Node]:
    halves = ops.split(x, np.int64(1), 2)
    return {"low": halves.output(0), "high": halves.output(1), "x": x}


if __name__ == "__main__":
    main()
