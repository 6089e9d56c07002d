# SPDX-License-Identifier: Apache-2.0
"""Builds models that take strings, or images; a process of its own, as it imports openvino.

What has no other output passes, under one name.

words: ``x`` string [-1]. table: ``x`` string [-1,-1]. word: ``x`` string []. three: ``x`` string [3].
named: ``x`` string [-1] -> ``words``, and the same as ``octets_bytes``, both by way of an operation.
mixed: ``x`` string [-1] passes, ``n`` f32 [-1] -> ``twice``.
lengths: ``x`` string [-1] -> ``ends`` i32 [-1].
matrix: ``x`` u8 [-1,-1]. fixed_matrix: ``x`` u8 [2,5]. rows: ``x`` u8 [-1,-1] -> ``y_string``.
vector: ``x`` u8 [-1].
image_DTYPE: ``x`` [1,24,32,3]. any_image: ``x`` u8 [-1,-1,-1,-1]. some_images: ``x`` u8 [-1,24,32,3].
ranged_image: ``x`` u8 [1..3,10..40,10..40,3]. deep_image: ``x`` u8 [1,1,24,32,3].
planes: ``x`` u8 [1,3,24,32], declared as NCHW. grey_image: ``x`` u8 [1,24,32,1].
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset15 as ops

Node = Any

IMAGE_TYPES = ("u8", "i8", "u16", "i16", "i32", "f16", "f32", "f64")


def main() -> None:
    """Build everything below the directory of the first argument."""
    image = [1, 24, 32, 3]
    models = {
        "words": _passing(ov.Type.string, [-1]),
        "table": _passing(ov.Type.string, [-1, -1]),
        "word": _passing(ov.Type.string, []),
        "three": _passing(ov.Type.string, [3]),
        "named": _named(),
        "mixed": _mixed(),
        "lengths": _lengths(),
        "matrix": _passing(ov.Type.u8, [-1, -1]),
        "fixed_matrix": _passing(ov.Type.u8, [2, 5]),
        "rows": _rows(),
        "vector": _passing(ov.Type.u8, [-1]),
        **{f"image_{name}": _passing(getattr(ov.Type, name), image) for name in IMAGE_TYPES},
        "any_image": _passing(ov.Type.u8, [-1, -1, -1, -1]),
        "some_images": _passing(ov.Type.u8, [-1, *image[1:]]),
        "ranged_image": _passing(ov.Type.u8, [(1, 3), (10, 40), (10, 40), 3]),
        "deep_image": _passing(ov.Type.u8, [1, *image]),
        "planes": _passing(ov.Type.u8, [1, 3, 24, 32], "NCHW"),
        "grey_image": _passing(ov.Type.u8, [1, 24, 32, 1]),
    }
    for name, model in models.items():
        directory = Path(sys.argv[1]) / name / "1"
        directory.mkdir(parents=True)
        ov.save_model(model, directory / "model.xml", compress_to_fp16=False)


def _parameter(name: str, dtype: ov.Type, shape: list[Any]) -> Node:
    node = ops.parameter(ov.PartialShape(shape), dtype, name=name)
    node.output(0).set_names({name})
    return node


def _result(node: Node, name: str) -> Node:
    result = ops.result(node)
    result.output(0).set_names({name})
    return result


def _passing(dtype: ov.Type, shape: list[Any], layout: str = "") -> ov.Model:
    x = _parameter("x", dtype, shape)
    if layout:
        x.set_layout(ov.Layout(layout))
    return ov.Model([ops.result(x)], [x], "passing")


def _repacked(x: Node) -> Node:
    """The same strings from another operation."""
    parts = ops.string_tensor_unpack(x)
    return ops.string_tensor_pack(parts.output(0), parts.output(1), parts.output(2))


def _named() -> ov.Model:
    x = _parameter("x", ov.Type.string, [-1])
    return ov.Model([_result(_repacked(x), "words"), _result(_repacked(x), "octets_bytes")], [x], "named")


def _mixed() -> ov.Model:
    x, n = _parameter("x", ov.Type.string, [-1]), _parameter("n", ov.Type.f32, [-1])
    return ov.Model([ops.result(x), _result(ops.multiply(n, np.float32(2)), "twice")], [x, n], "mixed")


def _lengths() -> ov.Model:
    x = _parameter("x", ov.Type.string, [-1])
    return ov.Model([_result(ops.string_tensor_unpack(x).output(1), "ends")], [x], "lengths")


def _rows() -> ov.Model:
    x = _parameter("x", ov.Type.u8, [-1, -1])
    return ov.Model([_result(ops.add(x, np.uint8(0)), "y_string")], [x], "rows")


if __name__ == "__main__":
    main()
