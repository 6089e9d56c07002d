# SPDX-License-Identifier: Apache-2.0
"""Holds what :mod:`ovms_mp.worker.load.exactness` says of operations against what the engine does.

For every operation and dtype it writes one JSON object: the range that is said to be exact, whether the engine is right
at the range's ends, and whether it is wrong just beyond them.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import openvino.opset15 as ops

from ovms_mp.model.dtypes import DType
from ovms_mp.model.tensors import TensorSpec
from ovms_mp.worker.load.exactness import with_exact_ranges

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Build: TypeAlias = Callable[[ov.Node], ov.Node]
    Reference: TypeAlias = Callable[[Any], Any]  # Of arrays; what operators give depends on their dtype.

DTYPES = (DType.INT32, DType.UINT32, DType.INT64, DType.UINT64)
_MARGIN = 7
"""So far from a range's ends that one more or less stays in 32 bits."""


def _at(values: object) -> ov.Node:
    return ops.constant(np.array(values, np.int64))


def _like(x: ov.Node, values: object) -> ov.Node:
    return ops.constant(np.array(values, x.output(0).get_element_type().to_dtype()))


def _four(x: ov.Node, shape: list[int], repeats: list[int]) -> ov.Node:
    return ops.tile(ops.reshape(x, _at(shape), False), _at(repeats))


def _one(x: ov.Node, index: int) -> ov.Node:
    return ops.squeeze(ops.gather(x, _at([index]), _at(1)))


CASES: dict[str, tuple[Build, Reference]] = {
    "Result": (lambda x: x, lambda a: a),
    "Reshape": (lambda x: ops.reshape(x, _at([3, 1]), False), lambda a: a.reshape(3, 1)),
    "Squeeze": (lambda x: ops.squeeze(x, _at([0])), lambda a: a[0]),
    "Unsqueeze": (lambda x: ops.unsqueeze(x, _at([0])), lambda a: a[None]),
    "Transpose": (lambda x: ops.transpose(x, _at([1, 0])), lambda a: a.T),
    "Concat": (lambda x: ops.concat([x, x], 1), lambda a: np.concatenate([a, a], 1)),
    "Split": (lambda x: ops.split(x, _at(1), 3).output(0), lambda a: a[:, :1]),
    "Split second": (lambda x: ops.split(x, _at(1), 3).output(2), lambda a: a[:, 2:]),
    "VariadicSplit": (
        lambda x: ops.variadic_split(x, _at(1), _at([2, 1])).output(0),
        lambda a: a[:, :2],
    ),
    "Slice": (lambda x: ops.slice(x, _at([0]), _at([2]), _at([1]), _at([1])), lambda a: a[:, :2]),
    "StridedSlice": (
        lambda x: ops.strided_slice(x, _at([0, 0]), _at([1, 2]), _at([1, 1]), [0, 0], [0, 0]),
        lambda a: a[:, :2],
    ),
    "Tile": (lambda x: ops.tile(x, _at([2, 1])), lambda a: np.tile(a, (2, 1))),
    "Broadcast": (lambda x: ops.broadcast(x, _at([2, 3])), lambda a: np.tile(a, (2, 1))),
    "Gather": (lambda x: ops.gather(x, _at([2, 0]), _at(1)), lambda a: a[:, [2, 0]]),
    "GatherElements": (lambda x: ops.gather_elements(x, _at([[2, 1, 0]]), 1), lambda a: a[:, ::-1]),
    "GatherND": (lambda x: ops.gather_nd(x, _at([[0, 2], [0, 0]])), lambda a: a[0, [2, 0]]),
    "ScatterElementsUpdate": (
        lambda x: ops.scatter_elements_update(x, _at([[1]]), _like(x, [[7]]), _at(1)),
        lambda a: np.where([[False, True, False]], 7, a),
    ),
    "ScatterElementsUpdate updates": (
        lambda x: ops.scatter_elements_update(_like(x, [[1, 2, 3]]), _at([[2, 1, 0]]), x, _at(1)),
        lambda a: a[:, ::-1],
    ),
    "ScatterNDUpdate": (
        lambda x: ops.scatter_nd_update(x, _at([[0, 1]]), _like(x, [7])),
        lambda a: np.where([[False, True, False]], 7, a),
    ),
    "ScatterUpdate": (
        lambda x: ops.scatter_update(x, _at([1]), _like(x, [[7]]), _at(1)),
        lambda a: np.where([[False, True, False]], 7, a),
    ),
    "Pad": (lambda x: ops.pad(x, _at([0, 1]), _at([0, 1]), "constant"), lambda a: np.pad(a, ((0, 0), (1, 1)))),
    "Pad edge": (lambda x: ops.pad(x, _at([0, 1]), _at([0, 1]), "edge"), lambda a: a[:, [0, 0, 1, 2, 2]]),
    "Roll": (lambda x: ops.roll(x, _at([1]), _at([1])), lambda a: np.roll(a, 1, 1)),
    "SpaceToDepth": (
        lambda x: ops.space_to_depth(_four(x, [1, 1, 1, 3], [1, 1, 2, 2]), "blocks_first", 2),
        lambda a: np.stack([np.tile(a[0], 2)[0::2], np.tile(a[0], 2)[1::2]] * 2).reshape(1, 4, 1, 3),
    ),
    "DepthToSpace": (
        lambda x: ops.depth_to_space(_four(x, [1, 1, 1, 3], [1, 4, 1, 1]), "blocks_first", 2),
        lambda a: np.tile(np.repeat(a, 2, 1), (2, 1)).reshape(1, 1, 2, 6),
    ),
    "ShuffleChannels": (
        lambda x: ops.shuffle_channels(ops.reshape(ops.concat([x, x], 1), _at([1, 6, 1, 1]), False), 1, 2),
        lambda a: np.repeat(a, 2, 1).reshape(1, 6, 1, 1),
    ),
    "Select": (
        lambda x: ops.select(ops.constant(np.array([[True, False, True]])), x, _like(x, [0])),
        lambda a: np.where([[True, False, True]], a, 0),
    ),
    "Add": (lambda x: ops.add(x, _like(x, [1])), lambda a: a + 1),
    "Subtract": (lambda x: ops.subtract(x, _like(x, [1])), lambda a: a - 1),
    "Multiply": (lambda x: ops.multiply(x, _like(x, [1])), lambda a: a),
    "Equal": (lambda x: ops.equal(x, ops.gather(x, _at([1, 1, 1]), _at(1))), lambda a: a == a[:, 1:2]),
    "Equal to a number": (lambda x: ops.equal(x, _like(x, [5])), lambda a: a == 5),
    "NotEqual": (lambda x: ops.not_equal(x, _like(x, [0])), lambda a: a != 0),
    "BitwiseAnd": (lambda x: ops.bitwise_and(x, ops.bitwise_not(_like(x, [1]))), lambda a: a & ~a.dtype.type(1)),
    "BitwiseOr": (lambda x: ops.bitwise_or(x, _like(x, [1])), lambda a: a | 1),
    "BitwiseXor": (lambda x: ops.bitwise_xor(x, _like(x, [1])), lambda a: a ^ 1),
    "BitwiseNot": (lambda x: ops.bitwise_not(ops.bitwise_not(x)), lambda a: a),
    "Abs": (lambda x: ops.abs(x), lambda a: np.abs(a)),
    "Negative": (lambda x: ops.negative(ops.negative(x)), lambda a: a),
    "Sign": (lambda x: ops.sign(x), lambda a: np.sign(a)),
    "Maximum": (lambda x: ops.maximum(x, _like(x, [3])), lambda a: np.maximum(a, 3)),
    "Minimum": (lambda x: ops.minimum(x, _like(x, [3])), lambda a: np.minimum(a, 3)),
    "CumSum": (lambda x: ops.cum_sum(x, _at(0)), lambda a: a),
    "Less": (lambda x: ops.less(x, _like(x, [100])), lambda a: a < 100),
    "LessEqual": (lambda x: ops.less_equal(x, _like(x, [100])), lambda a: a <= 100),
    "Greater": (lambda x: ops.greater(x, _like(x, [100])), lambda a: a > 100),
    "GreaterEqual": (lambda x: ops.greater_equal(x, _like(x, [100])), lambda a: a >= 100),
    "Range": (
        lambda x: ops.range(_one(x, 2), ops.add(_one(x, 2), _like(x, 3)), _like(x, 1), x.output(0).get_element_type()),
        lambda a: a[0, 2] + np.arange(3).astype(a.dtype),
    ),
    "TopK": (lambda x: ops.topk(x, _at(3), 1, "max", "value").output(0), lambda a: -np.sort(-a.astype(object))),
    "TopK places": (
        lambda x: ops.topk(x, _at(3), 1, "max", "value").output(1),
        lambda a: np.argsort(-a.astype(object)),
    ),
    "Unique": (lambda x: ops.unique(x, sorted=True).output(0), lambda a: np.unique(a)),
    "NonZero": (lambda x: ops.non_zero(x), lambda a: np.array(np.nonzero(a))),
    "Bucketize": (
        lambda x: ops.bucketize(x, _like(x, [1, 1000]), "i64"),
        lambda a: np.searchsorted([1, 1000], a[0].astype(object))[None],
    ),
    "OneHot": (
        lambda x: ops.one_hot(_at([1, 0]), _at(2), _one(x, 0), _one(x, 2), 1),
        lambda a: np.array([[a[0, 2], a[0, 0]], [a[0, 0], a[0, 2]]]),
    ),
    "OneHot places": (
        lambda x: ops.one_hot(x, _at(8), ops.constant(np.float32(1)), ops.constant(np.float32(0)), 1),
        lambda a: (a[:, None, :] == np.arange(8)[None, :, None]).astype(np.float32),
    ),
    "Convert to FP32": (lambda x: ops.convert(x, "f32"), lambda a: a.astype(np.float32)),
    "Convert to FP32 and used": (
        lambda x: ops.add(ops.convert(x, "f32"), ops.constant(np.float32(0))),
        lambda a: a.astype(np.float32),
    ),
    "Convert to INT32": (lambda x: ops.convert(x, "i32"), lambda a: a.astype(np.int32)),
    "Convert to UINT8": (lambda x: ops.convert(x, "u8"), lambda a: a.astype(np.uint8)),
    "Convert to INT64": (lambda x: ops.convert(x, "i64"), lambda a: a.astype(np.int64)),
    "Convert to FP64": (lambda x: ops.convert(x, "f64"), lambda a: a.astype(np.float64)),
    "Convert late": (lambda x: ops.convert(ops.squeeze(x, _at([0])), "f32"), lambda a: a[0].astype(np.float32)),
    "Convert, modulo": (
        lambda x: ops.mod(ops.convert(x, "i32"), ops.constant(np.array([10], np.int32))),
        lambda a: np.fmod(a.astype(np.int32), 10),
    ),
    "Divide": (lambda x: ops.divide(x, _like(x, [1])), lambda a: a),
    "Mod": (lambda x: ops.mod(x, _like(x, [10])), lambda a: np.fmod(a, 10)),
    "FloorMod": (lambda x: ops.floor_mod(x, _like(x, [10])), lambda a: np.mod(a, 10)),
    "Add, modulo": (lambda x: ops.floor_mod(ops.add(x, _like(x, [2])), _like(x, [10])), lambda a: np.mod(a + 2, 10)),
    "MatMul": (lambda x: ops.matmul(x, _like(x, np.eye(3)), False, False), lambda a: a),
    "ReduceSum": (lambda x: ops.reduce_sum(x, _at([0]), True), lambda a: a),
    "ReduceMax": (lambda x: ops.reduce_max(x, _at([0]), True), lambda a: a),
    "ReverseSequence": (lambda x: ops.reverse_sequence(x, _at([3]), 0, 1), lambda a: a[:, ::-1]),
    "ShapeOf": (lambda x: ops.shape_of(x), lambda a: np.array(a.shape)),
    "two uses": (
        lambda x: ops.concat([ops.convert(x, "f32"), ops.convert(ops.add(x, _like(x, [1])), "f32")], 0),
        lambda a: np.concatenate([a, a + 1]).astype(np.float32),
    ),
}  # fmt: skip


def main() -> None:
    """Write all findings."""
    core = ov.Core()
    for name in CASES:
        for dtype in DTYPES:
            sys.stdout.write(
                json.dumps({"operation": name, "dtype": dtype.name, **_measured(core, name, dtype)}) + "\n"
            )


def _measured(core: ov.Core, name: str, dtype: DType) -> dict[str, object]:
    build, reference = CASES[name]
    x = ops.parameter([1, 3], getattr(ov.Type, dtype.ov_name), name="x")
    model = ov.Model([ops.result(build(x))], [x], name)
    exact = with_exact_ranges((TensorSpec.of("x", dtype, ((1, 1), (3, 3))),), model)[0].exact
    limits = np.iinfo(dtype.numpy.name)
    low, high = (int(limits.min), int(limits.max)) if exact is None else (int(exact[0]), int(exact[1]))
    try:
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError:
        return {"is_refused_by_the_engine": True}
    request = compiled.create_infer_request()
    beyond = high + 3 if high < limits.max else high
    outside = [[max(low - 3, int(limits.min)), 5, beyond], [beyond, beyond, 5]]
    if dtype.itemsize == 8:
        outside.append([2**32 + 5, 5, 2**32])  # 5 and 0 in 32 bits.
    return {
        "exact": exact,
        "is_right_inside": _is_right(request, dtype, [low + _MARGIN, 5, high - _MARGIN], reference),
        "is_right_outside": exact is None
        or all(_is_right(request, dtype, values, reference) for values in outside),
    }


def _is_right(request: ov.InferRequest, dtype: DType, values: list[int], reference: Reference) -> bool:
    given = np.array([values], dtype.numpy)
    request.infer({0: ov.Tensor(given)})
    with np.errstate(all="ignore"):
        expected = np.asarray(reference(given))
    return bool(np.array_equal(request.get_output_tensor(0).data, expected))


if __name__ == "__main__":
    main()
