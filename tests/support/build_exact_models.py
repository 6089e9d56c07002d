# SPDX-License-Identifier: Apache-2.0
"""Builds models that an engine of 32 bits, shared requests and equal names can get wrong; a process of its own.

wide: ``x`` i64 [-1] -> ``y`` = x + 1.
unsigned: ``x`` u64 [1,3] -> ``y`` = x, reshaped.
remainder: ``x`` i32 [1,3] -> ``y`` = x modulo 10.
double: ``x`` f64 [-1] -> ``y`` = 2x.
rounded: ``x`` i64 [-1] -> ``y`` = x as f32.
beside: ``small`` f32 [2], ``keys`` i64 [2] -> ``sum`` f32 = small + (keys > 0).

counter: ``x`` f32 [1,2] -> ``y`` = x + what y was before.
resized: the same for [-1,2].
halfway: the same as counter for [-1], beside ``sum`` = x + ``z``, which fails where their lengths differ.
started: ``x`` f32 [1,2] -> ``y`` = 2x + what y was before, x at first.

twice: ``x`` f32 [1,2] -> ``y`` = x + 1, twice.
mapped: the same, with aliases for both.
named: ``x`` f32 [1,2] -> x + 1 called ``a`` and ``b``, twice.
clash: ``x`` f32 [1,2] -> x + 1 and x + 2, both called ``y``, and x + 3, called ``y_1``.

listed: ``image`` f32 [1,4,5,7] -> ``found`` [1,1,20,7].
free: ``x`` f32 [-1,-1] -> ``y`` = 2x.
greatest: ``x`` f32 [-1,-1] -> ``y`` [-1,1], the greatest of each row.
variants: ``x`` f32 [1,4,8,8] -> ``y``, not to be compiled as a dynamic model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset13 as ops
from openvino.op.util import Variable, VariableInfo

_F32 = np.float32


def main() -> None:
    """Build everything below the directory of the first argument."""
    root = Path(sys.argv[1])
    for name, model in {
        "wide": _through("i64", [-1], lambda x: ops.add(x, np.int64(1))),
        "unsigned": _through("u64", [1, 3], lambda x: ops.reshape(x, np.array([3]), False)),
        "remainder": _through("i32", [1, 3], lambda x: ops.mod(x, np.array([10], np.int32))),
        "double": _through("f64", [-1], lambda x: ops.multiply(x, np.float64(2))),
        "rounded": _through("i64", [-1], lambda x: ops.convert(x, "f32")),
        "beside": _beside(),
        "counter": _stateful([1, 2]),
        "resized": _stateful([-1, 2]),
        "halfway": _halfway(),
        "started": _started(),
        "twice": _twice("y"),
        "mapped": _twice("y"),
        "named": _twice("a", "b"),
        "clash": _clash(),
        "listed": _listed(),
        "free": _through("f32", [-1, -1], lambda x: ops.multiply(x, _F32(2))),
        "greatest": _through(
            "f32", [-1, -1], lambda x: ops.topk(x, np.int32(1), 1, "max", "none").output(0).get_node()
        ),
        "variants": _through(
            "f32",
            [1, 4, 8, 8],
            lambda x: ops.psroi_pooling(x, np.array([[0, 0, 0, 4, 4]], _F32), 1, 2, 1.0, 2, 2, "average"),
        ),
    }.items():
        directory = root / name / "1"
        directory.mkdir(parents=True)
        ov.save_model(model, directory / "model.xml", compress_to_fp16=False)
    aliases = {"outputs": {"y": "first", "y_1": "second"}}
    (root / "mapped" / "1" / "mapping_config.json").write_text(json.dumps(aliases))


def _parameter(name: str, dtype: str, shape: list[int]) -> ov.Node:
    node = ops.parameter(ov.PartialShape(shape), getattr(ov.Type, dtype), name=name)
    node.output(0).set_names({name})
    return node


def _named(node: ov.Node, *names: str) -> ov.Node:
    node.output(0).set_names(set(names))
    return node


def _through(dtype: str, shape: list[int], build: object) -> ov.Model:
    x = _parameter("x", dtype, shape)
    return ov.Model([ops.result(_named(build(x), "y"))], [x], "through")  # type: ignore[operator]  # a lambda


def _beside() -> ov.Model:
    small, keys = _parameter("small", "f32", [2]), _parameter("keys", "i64", [2])
    is_positive = ops.convert(ops.greater(keys, np.array([0], np.int64)), "f32")
    total = _named(ops.add(small, is_positive), "sum")
    return ov.Model([ops.result(total)], [small, keys], "beside")


def _variable(name: str, shape: list[int]) -> Variable:
    info = VariableInfo()
    info.data_shape, info.data_type, info.variable_id = ov.PartialShape(shape), ov.Type.f32, name
    return Variable(info)


def _stateful(shape: list[int]) -> ov.Model:
    x = _parameter("x", "f32", shape)
    variable = _variable("sum", shape)
    before = ops.read_value(ops.multiply(x, _F32(0)), variable)
    y = _named(ops.add(x, before), "y")
    return ov.Model([ops.result(y)], [ops.assign(y, variable)], [x], "stateful")


def _halfway() -> ov.Model:
    x, z = _parameter("x", "f32", [-1]), _parameter("z", "f32", [-1])
    variable = _variable("sum", [-1])
    y = _named(ops.add(x, ops.read_value(ops.multiply(x, _F32(0)), variable)), "y")
    total = _named(ops.add(y, z), "sum")
    return ov.Model([ops.result(y), ops.result(total)], [ops.assign(y, variable)], [x, z], "halfway")


def _started() -> ov.Model:
    x = _parameter("x", "f32", [1, 2])
    variable = _variable("sum", [1, 2])
    y = _named(ops.add(ops.multiply(x, _F32(2)), ops.read_value(ops.relu(x), variable)), "y")
    return ov.Model([ops.result(y)], [ops.assign(y, variable)], [x], "started")


def _twice(*names: str) -> ov.Model:
    x = _parameter("x", "f32", [1, 2])
    y = _named(ops.add(x, _F32(1)), *names)
    return ov.Model([ops.result(y), ops.result(y)], [x], "twice")


def _clash() -> ov.Model:
    x = _parameter("x", "f32", [1, 2])
    nodes = [_named(ops.add(x, _F32(number)), name) for number, name in ((1, "y"), (2, "y"), (3, "y_1"))]
    return ov.Model([ops.result(node) for node in nodes], [x], "clash")


def _listed() -> ov.Model:
    x = _parameter("image", "f32", [1, 4, 5, 7])
    found = _named(ops.reshape(ops.relu(x), np.array([1, 1, -1, 7]), False), "found")
    return ov.Model([ops.result(found)], [x], "listed")


if __name__ == "__main__":
    main()
