# SPDX-License-Identifier: Apache-2.0
"""Builds models whose input values crash the engine or choose the output's size; a process of its own.

pick: ``i`` i32 [-1,1] -> ``y`` f32 [-1], elements 10, 11, 12, 13 by their index; an index far out is SIGSEGV.
place: ``i`` i32 [1,2] -> ``y`` f32 [1], the same of a 2x2 table, with a static shape.
spread: ``n`` i32 [1] -> ``y`` f32 [-1], that many ones. tile: ``n`` -> ``y`` f32 [-1], 0 to 3 so often.
count: ``n`` i32 [] -> ``y`` i32 [-1], 0 to n. tiny and slow are the zoo's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset13 as ops

_OUTSIDE = np.arange(4, dtype=np.float32) + 10


def main() -> None:
    """Build everything below the directory of the first argument."""
    root = Path(sys.argv[1])
    indices, place = _parameter("i", [-1, 1]), _parameter("i", [1, 2])
    spread, tile, count = _parameter("n", [1]), _parameter("n", [1]), _parameter("n", [])
    table = _OUTSIDE.reshape(2, 2)
    for name, node, parameter in (
        ("pick", ops.gather_nd(ops.constant(_OUTSIDE), indices), indices),
        ("place", ops.gather_nd(ops.constant(table), place), place),
        ("spread", ops.broadcast(ops.constant(np.float32(1)), spread), spread),
        ("tile", ops.tile(ops.constant(_OUTSIDE - 10), tile), tile),
        ("count", ops.range(ops.constant(np.int32(0)), count, ops.constant(np.int32(1)), "i32"), count),
    ):
        result = ops.result(node)
        result.output(0).set_names({"y"})
        directory = root / name / "1"
        directory.mkdir(parents=True)
        ov.save_model(ov.Model([result], [parameter], name), directory / "model.xml", compress_to_fp16=False)


def _parameter(name: str, shape: list[int]) -> ov.Node:
    node = ops.parameter(ov.PartialShape(shape), ov.Type.i32, name=name)
    node.output(0).set_names({name})
    return node


if __name__ == "__main__":
    main()
