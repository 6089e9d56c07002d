# SPDX-License-Identifier: Apache-2.0
"""Which values of an input the engine keeps, where it computes in fewer bits than the model says.

The CPU plugin has no kernels for 64-bit integers, UINT32 and FP64. It converts such inputs to 32 bits before the first
operation (2147483648 becomes -2147483648, 1e300 becomes 3.4e38), and some kernels for integers compute in FP32
(16777217 modulo 10 is 6). What passes through, or is converted by the model itself at once, stays exact.

This is found in the model, not by a trial: values beyond the range may be indices, which an engine is not to be given,
and there is no second engine to hold the answers against. The compiled model's runtime precisions do not tell either:
they show the conversions, but call a Mod or ReduceSum ``i32`` that computes in FP32. So each input's values are
followed through the model as far as they stay integers, and the table below says what each operation does to them. It
was measured with OpenVINO 2026.4 on CPU, and tests/unit/worker/test_exactness.py measures it again. An operation that
is not in the table is taken for one that computes in FP32.

FP64 is served as FP32, and is treated as an FP64 tensor for an FP32 model is (:mod:`ovms_mp.front.convert`): rounding
is what every conversion of floats does, also to a subnormal or to 0, and integers above 2^24 are rounded as fractions
are; who serves such a model wants its answers to seven digits. A value beyond FP32's range is refused, as what the
engine makes of it (3.4e38, also of an infinity) has nothing to do with it.

Not seen here: results, of the whole model or on the way, that leave the range which their inputs are in. The notices
say so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import openvino as ov

from ovms_mp.model.dtypes import DType, Kind
from ovms_mp.model.tensors import exact_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.model.tensors import ExactRange, TensorSpec

_INT32: Final = (-(2.0**31), 2.0**31 - 1)
_WHOLE_FP32: Final = (-(2.0**24), 2.0**24)
"""Where FP32 has every integer."""
_FP32: Final = (-float(np.finfo(np.float32).max), float(np.finfo(np.float32).max))

_SIZES: Final = {
    dtype.ov_name: 8 * dtype.itemsize for dtype in DType if dtype.kind is Kind.INTEGER and dtype.itemsize >= 4
}
"""Integer types that 32 bits, or the 24 of a float, may not hold."""
_FLOATS: Final = frozenset(dtype.ov_name for dtype in (DType.FP32, DType.FP16, DType.BF16))
_NO_VALUES: Final = frozenset({"Result", "ShapeOf"})


@dataclass(frozen=True, slots=True)
class _Rule:
    """What an operation does to 32-bit integers.

    Attributes:
        values: The inputs whose values come out again; others are indices, shapes and the like. None for all.
        outputs: Where they come out.
        has_sign: The operation takes them for signed ones, so that UINT32 is exact in half of its range only.
    """

    values: frozenset[int] | None = None
    outputs: frozenset[int] = frozenset({0})
    has_sign: bool = False


_FIRST: Final = _Rule(frozenset({0}))
_ALL: Final = _Rule()
_SPLIT: Final = _Rule(frozenset({0}), frozenset(range(1 << 10)))
_SCATTER: Final = _Rule(frozenset({0, 2}))
_SIGNED: Final = _Rule(has_sign=True)
_INDEX: Final = _Rule(frozenset(), frozenset())

_RULES: Final = {
    **dict.fromkeys(
        (
            *("Reshape", "Squeeze", "Unsqueeze", "Transpose", "Slice", "StridedSlice", "Tile", "Broadcast"),
            *("Gather", "GatherElements", "GatherND", "Pad", "Roll", "SpaceToDepth", "DepthToSpace"),
            *("ShuffleChannels", "BatchToSpace", "SpaceToBatch"),
        ),
        _FIRST,
    ),
    **dict.fromkeys(("Split", "VariadicSplit"), _SPLIT),
    **dict.fromkeys(("ScatterElementsUpdate", "ScatterNDUpdate", "ScatterUpdate"), _SCATTER),
    **dict.fromkeys(
        (
            *("Concat", "Select", "Add", "Subtract", "Multiply", "Equal", "NotEqual"),
            *("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "CumSum", "ReadValue", "Assign"),
        ),
        _ALL,
    ),
    **dict.fromkeys(
        (
            *("Abs", "Negative", "Sign", "Maximum", "Minimum"),
            *("Less", "LessEqual", "Greater", "GreaterEqual", "Range"),
        ),
        _SIGNED,
    ),
    **dict.fromkeys(("TopK", "Unique"), _Rule(frozenset({0}), has_sign=True)),
    "OneHot": _Rule(frozenset({2, 3})),
    "NonZero": _Rule(outputs=frozenset()),
    **dict.fromkeys(
        ("Bucketize", "EmbeddingBagOffsetsSum", "EmbeddingBagPackedSum", "EmbeddingSegmentsSum"), _INDEX
    ),
}


def with_exact_ranges(specs: tuple[TensorSpec, ...], model: ov.Model) -> tuple[TensorSpec, ...]:
    """The specs of a model's inputs, with the range in which the engine is exact where it is not everywhere.

    Args:
        specs: In the order of the model's inputs.
        model: As it is compiled.
    """
    return tuple(
        replace(spec, exact=_exact_range(parameter.output(0), spec.dtype))
        for spec, parameter in zip(specs, model.get_parameters(), strict=True)
    )


def exactness_notices(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], model: ov.Model, *, is_refused: bool
) -> Iterator[str]:
    """What people should know of the model's exactness.

    Args:
        inputs: With their exact ranges.
        outputs: In the order of the model's outputs.
        model: As it is compiled.
        is_refused: Whether values out of the range are refused.
    """
    fate = (
        "others are refused (--lossy_integers allow computes with them)"
        if is_refused
        else "others are computed with as well and give wrong results (--lossy_integers allow)"
    )
    for spec in inputs:
        if spec.exact is not None:
            rounding = "is rounded to FP32, and is in range" if spec.dtype.kind is Kind.FLOAT else "is exact"
            yield f"input {spec.name!r} ({spec.dtype.name}) {rounding} from {exact_text(spec)}; {fate}"
    for spec, result in zip(outputs, model.get_results(), strict=True):
        is_wide = spec.dtype in (DType.INT64, DType.UINT64, DType.FP64)
        if is_wide and result.input_value(0).get_node().get_type_name() not in ("Parameter", "Constant"):
            yield (
                f"output {spec.name!r} ({spec.dtype.name}) is computed in 32 bits: results beyond these wrap, "
                "are rounded or end at the limits"
            )


def _exact_range(given: ov.Output, dtype: DType) -> ExactRange | None:
    if dtype is DType.FP64:
        users = {target.get_node().get_type_name() for target in given.get_target_inputs()}
        return None if users <= _NO_VALUES else _FP32
    low, high = (0.0 if dtype in (DType.UINT32, DType.UINT64) else -float("inf")), float("inf")
    ranges = list(_ranges(given))
    if not ranges:
        return None
    return max(low, *(entry[0] for entry in ranges)), min(high, *(entry[1] for entry in ranges))


def _ranges(given: ov.Output) -> Iterator[ExactRange]:
    """The ranges that an input's values must be in, one for each place where bits are lost."""
    waiting, seen = [given], {_place(given)}
    while waiting:
        source = waiting.pop()
        if _type_of(source) not in _SIZES:
            continue
        for target in source.get_target_inputs():
            node = target.get_node()
            kind = node.get_type_name()
            if kind in _NO_VALUES:
                continue
            if kind in ("Convert", "ConvertLike"):
                yield from _converted(_type_of(source), _type_of(node.output(0)), is_given=source == given)
                carried = [node.output(0)] if target.get_index() == 0 else []
            else:
                needed, carried = _used(node, target.get_index(), _type_of(source))
                yield from needed
            for output in carried:
                if _place(output) not in seen:
                    seen.add(_place(output))
                    waiting.append(output)


def _used(node: ov.Node, index: int, source: str) -> tuple[list[ExactRange], list[ov.Output]]:
    """What an operation needs its input to be within, and the outputs where the values come out again."""
    rule = _RULES.get(node.get_type_name())
    if rule is None or _reduces(node):
        return [_WHOLE_FP32], []
    is_value = rule.values is None or index in rule.values
    needs_sign = source == "u32" and (rule.has_sign or not is_value)
    needed = [_INT32] if _SIZES[source] == 64 or needs_sign else []
    if not is_value:
        return needed, []
    return needed, [output for output in node.outputs() if output.get_index() in rule.outputs]


def _reduces(node: ov.Node) -> bool:
    """Whether a scatter operation computes something of old and new values."""
    return bool(node.get_attributes().get("reduction", "none") != "none")


def _converted(source: str, target: str, *, is_given: bool) -> Iterator[ExactRange]:
    """What a conversion by the model needs its input to be within.

    An input that the model converts at once is converted by one kernel, from what it is to what the model wants;
    also to fewer bits, where wrapping is the model's own wish. Any later one finds 32 signed bits.
    """
    if target == "f64":
        yield _WHOLE_FP32
    elif source != "i32" and (target in ("boolean", "i64", "u64") or (target in _FLOATS and not is_given)):
        yield _INT32


def _type_of(output: ov.Output) -> str:
    return str(output.get_element_type().get_type_name())


def _place(output: ov.Output) -> tuple[str, int]:
    return output.get_node().get_name(), output.get_index()
