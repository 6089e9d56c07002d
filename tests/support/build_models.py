# SPDX-License-Identifier: Apache-2.0
"""Builds the test models; a process of its own, see :mod:`tests.support.models`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import openvino as ov
import openvino.opset13 as ops

from tests.support.models import DTYPES, DTYPES_OF_64_BITS

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Build everything below the directory of the first argument."""
    root = Path(sys.argv[1])
    for name, model in {
        "tiny": _tiny(),
        "pair": _pair(),
        "batch": _batch(),
        "range": _range(),
        "nonzero": _nonzero(),
        "scalar": _scalar(),
        "slow": _slow(),
        "steps": _steps(),
        "plus_two": _plus_two(),
        "labelled": _labelled(),
        "sum": _sum(),
        **{f"id_{dtype}": _identity(dtype) for dtype in DTYPES},
    }.items():
        directory = root / name / "1"
        directory.mkdir(parents=True)
        ov.save_model(model, directory / "model.xml", compress_to_fp16=False)
    _onnx_tiny(root / "onnx_tiny" / "1")


def _parameter(name: str, shape: list[object], dtype: ov.Type = ov.Type.f32) -> ov.Node:
    node = ops.parameter(ov.PartialShape(shape), dtype, name=name)
    node.output(0).set_names({name})
    return node


def _result(name: str, node: ov.Node) -> ov.Node:
    result = ops.result(node)
    result.output(0).set_names({name})
    return result


def _tiny() -> ov.Model:
    x = _parameter("x", [1, 10])
    return ov.Model([_result("y", ops.add(x, np.float32(1)))], [x], "tiny")


def _labelled() -> ov.Model:
    model = _tiny()
    model.set_rt_info("Classification", ["model_info", "model_type"])
    model.set_rt_info("cat dog", ["model_info", "labels"])
    return model


def _plus_two() -> ov.Model:
    x = _parameter("x", [1, 10])
    return ov.Model([_result("y", ops.add(x, np.float32(2)))], [x], "plus_two")


def _sum() -> ov.Model:
    a, b = _parameter("a", [-1]), _parameter("b", [-1])
    return ov.Model([_result("sum", ops.add(a, b))], [a, b], "sum")


def _identity(dtype: str) -> ov.Model:
    x = _parameter("x", [-1], getattr(ov.Type, dtype))
    if dtype in DTYPES_OF_64_BITS:
        # The CPU device computes these in 32 bits as soon as there is a node. Without one, input and output are
        # one tensor with one name.
        return ov.Model([_result("x", x)], [x], f"id_{dtype}")
    return ov.Model([_result("y", ops.reshape(x, np.array([0]), True))], [x], f"id_{dtype}")


def _pair() -> ov.Model:
    a, b = _parameter("a", [2, 3]), _parameter("b", [2, 3], ov.Type.i64)
    as_float = ops.convert(b, "f32")
    results = [_result("sum", ops.add(a, as_float)), _result("product", ops.multiply(a, as_float))]
    return ov.Model(results, [a, b], "pair")


def _batch() -> ov.Model:
    x = _parameter("x", [-1, 4])
    return ov.Model([_result("y", ops.multiply(x, np.float32(2)))], [x], "batch")


def _range() -> ov.Model:
    x = _parameter("x", [ov.Dimension(2, 4), 3])
    return ov.Model([_result("y", ops.multiply(x, np.float32(1)))], [x], "range")


def _nonzero() -> ov.Model:
    x = _parameter("x", [-1])
    return ov.Model([_result("places", ops.non_zero(x, "i64"))], [x], "nonzero")


def _scalar() -> ov.Model:
    x = _parameter("x", [])
    return ov.Model([_result("y", ops.add(x, np.float32(1)))], [x], "scalar")


def _slow() -> ov.Model:
    """Sines of sines, on one core however many there are, so that it takes as long on every machine."""
    x = _parameter("x", [1])
    many = _repeat(ops.constant(np.int32(250_000)), ops.broadcast(x, np.array([64])), ops.sin)
    return ov.Model([_result("y", ops.reduce_mean(many, np.array([0]), True))], [x], "slow")


def _steps() -> ov.Model:
    """Adds 1 as often as the request says, one after the other."""
    count = _parameter("count", [1], ov.Type.i32)
    start = ops.constant(np.zeros(1, np.float32))
    total = _repeat(ops.squeeze(count, np.array(0)), start, lambda before: ops.add(before, np.float32(1)))
    return ov.Model([_result("y", ops.add(total, np.float32(0)))], [count], "steps")


def _repeat(count: ov.Node, start: ov.Node, step: Callable[[ov.Node], ov.Node]) -> ov.Output:
    """A step so many times, each from what the one before it gave."""
    before = ops.parameter(start.get_output_partial_shape(0), np.float32)
    after = step(before)
    loop = ops.loop(count, ops.constant(np.array(True)))
    loop.set_function(ov.Model([ops.result(ops.constant(np.array([True]))), ops.result(after)], [before]))
    loop.set_special_body_ports([-1, 0])
    loop.set_merged_input(before, start.output(0), after.output(0))
    return loop.get_iter_value(after.output(0), -1)


def _onnx_tiny(directory: Path) -> None:
    helper, tensor = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "one"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", tensor.FLOAT, [1, 10])],
        [helper.make_tensor_value_info("y", tensor.FLOAT, [1, 10])],
        [helper.make_tensor("one", tensor.FLOAT, [1], [1.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    directory.mkdir(parents=True)
    onnx.save(model, directory / "model.onnx")


if __name__ == "__main__":
    main()
