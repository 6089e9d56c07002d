# SPDX-License-Identifier: Apache-2.0
"""What operations do to samples that lie apart in a tensor (:mod:`ovms_mp.worker.batching.rows`).

An operation that is not here is taken for one that may mix them. Names are those of OpenVINO's operation sets; an
attribute or a form of an operation that its rule does not know makes it unknown, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ovms_mp.model.dtypes import element_count
from ovms_mp.worker.batching.row_moves import (
    concatenated,
    cut,
    gathered,
    gathered_elements,
    mask_of,
    one_hot,
    padded,
    reshaped,
    sliced,
    spread,
    strided,
    transposed,
    uniform_axes,
    unsqueezed,
)
from ovms_mp.worker.batching.rows import Doubt, Free, Mixes, Placed, Rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ovms_mp.worker.batching.rows import Rule, Shape, State, Step


def _broadcast(step: Step, indices: Iterable[int], out: Shape) -> State:
    """What an operation on each element makes of these inputs, which are aligned at their last dimensions.

    Raises:
        Doubt: Samples of several inputs would meet others, or differ by their places.
    """
    placed: Placed | None = None
    for index in indices:
        state, shape = step.states[index], step.shapes[index]
        if isinstance(state, Placed):
            here = Placed(state.axis + len(out) - len(shape), state.post)
            if placed not in (None, here) or out[here.axis] != shape[state.axis]:
                raise Doubt
            placed = here
    uniform = set(range(len(out)))
    for index in indices:
        state, shape = step.states[index], step.shapes[index]
        if isinstance(state, Placed):
            continue
        offset = len(out) - len(shape)
        uniform -= {
            axis
            for axis in range(offset, len(out))
            if shape[axis - offset] != 1 and axis - offset not in state.uniform
        }
    if placed is None:
        return Free(frozenset(uniform), any(state.counts for state in step.states if isinstance(state, Free)))
    if placed.axis not in uniform:
        raise Doubt
    return placed


def _elementwise(step: Step) -> tuple[State, ...]:
    rule = step.attribute("auto_broadcast", "numpy")
    if rule != "numpy" and len(set(step.shapes)) > 1:
        raise Doubt
    return (_broadcast(step, range(len(step.shapes)), step.outputs[0]),)


def _first_only(step: Step) -> tuple[State, ...]:
    """Elements of the first input, by what is the same for all samples."""
    step.all_free(range(1, len(step.shapes)))
    return tuple(step.placed(0) for _ in step.outputs)


def _fake_quantize(step: Step) -> tuple[State, ...]:
    """By bounds that are the same for all, or those of channels.

    Seen with OpenVINO 2026.4 on CPU: others are right where shapes are static, and wrong where they are dynamic.
    """
    rank = len(step.shapes[0])
    for shape in step.shapes[1:]:
        if any(size != 1 and axis + rank - len(shape) != 1 for axis, size in enumerate(shape)):
            raise Doubt
    return _elementwise(step)


def _prelu(step: Step) -> tuple[State, ...]:
    """Slopes are those of the second dimension, or one for all."""
    state, (shape, slopes) = step.placed(0), step.shapes
    step.all_free((1,))
    if element_count(slopes) != 1 and (state.axis == 1 or slopes != shape[1:2]):
        raise Doubt
    return (state,)


def _by_batch(*leading: int) -> Rule:
    """Operations whose inputs with these numbers have samples first, and whose others are the same for all."""

    def rule(step: Step) -> tuple[State, ...]:
        found: set[Placed] = set()
        for index, (state, shape) in enumerate(zip(step.states, step.shapes, strict=True)):
            if index not in leading:
                step.all_free((index,))
            elif isinstance(state, Placed):
                found.add(state)
            elif shape and shape[0] != 1 and 0 not in state.uniform:
                raise Doubt
        state = found.pop()
        if found or state.axis:
            raise Doubt
        return tuple(state for _ in step.outputs)

    return rule


def _max_pool(step: Step) -> tuple[State, ...]:
    """The second output says where in the whole batch a value was."""
    if len(step.outputs) > 1 and step.node.output(1).get_target_inputs():
        raise Doubt
    return _by_batch(0)(step)


def _over_axis(step: Step) -> tuple[State, ...]:
    """Along the axis that the attribute names, elements look at each other."""
    return _along(step, {int(str(step.attribute("axis", 1))) % len(step.shapes[0])})


def _over_input_axes(step: Step) -> tuple[State, ...]:
    """The same where the second input names them."""
    return _along(step, step.axes(1, len(step.shapes[0])))


def _along(step: Step, axes: Iterable[int]) -> tuple[State, ...]:
    state = step.placed(0)
    step.all_free(range(1, len(step.shapes)))
    if state.axis in axes:
        raise Mixes
    return tuple(state for _ in step.outputs)


def _reduce(step: Step) -> tuple[State, ...]:
    state, axes = step.placed(0), step.axes(1, len(step.shapes[0]))
    if state.axis in axes:
        raise Mixes
    if len(step.outputs[0]) == len(step.shapes[0]):
        return (state,)
    return (Placed(state.axis - sum(1 for axis in axes if axis < state.axis), state.post),)


def _matmul(step: Step) -> tuple[State, ...]:
    if min(len(shape) for shape in step.shapes) < 2:
        raise Doubt
    out = step.outputs[0]
    found = [
        Placed(len(out) - _from_end(step, index, attribute, kept), state.post)
        for index, attribute, kept in ((0, "transpose_a", 2), (1, "transpose_b", 1))
        if isinstance(state := step.states[index], Placed)
    ]
    place = found[0]
    if len(found) == 2:
        if max(each.axis for each in found) >= len(out) - 2:
            raise Mixes  # Each sample with each other one.
        if found[1] != place:
            raise Doubt
    for state, shape in zip(step.states, step.shapes, strict=True):
        # A free one has a matrix for all samples, not one for each.
        axis = place.axis - (len(out) - len(shape))
        if isinstance(state, Free) and 0 <= axis < len(shape) - 2 and axis not in uniform_axes(state, shape):
            raise Doubt
    return (place,)


def _from_end(step: Step, index: int, attribute: str, kept: int) -> int:
    """Which dimension of the product, from its end, the samples of a factor are in.

    Args:
        step: The product.
        index: Of the factor.
        attribute: Says whether it is transposed.
        kept: Which of its last two dimensions is one of the product's; over the other one is summed.

    Raises:
        Mixes: The samples are summed over.
    """
    from_end = len(step.shapes[index]) - step.placed(index).axis
    if from_end > 2:
        return from_end
    if step.attribute(attribute, default=False):
        from_end = 3 - from_end
    if from_end != kept:
        raise Mixes
    return from_end


def _attention(step: Step) -> tuple[State, ...]:
    """Query, key, value; mask, and a scale. Only the last two dimensions of each are looked at together."""
    query = step.placed(0)
    if (
        len(step.shapes) > 5
        or query.axis >= len(step.shapes[0]) - 2
        or step.placed(1) != query
        or step.placed(2) != query
    ):
        raise Doubt
    if len({len(shape) for shape in step.shapes[:3]}) > 1:
        raise Doubt
    step.all_free(range(4, len(step.shapes)))
    if len(step.shapes) > 3 and step.shapes[3]:
        mask = step.states[3]
        offset = len(step.shapes[0]) - len(step.shapes[3])
        axis = query.axis - offset
        if isinstance(mask, Placed):
            if Placed(mask.axis + offset, mask.post) != query:
                raise Doubt
        elif axis >= 0 and axis not in uniform_axes(mask, step.shapes[3]):
            raise Doubt
    return (query,)


def _interpolate(step: Step) -> tuple[State, ...]:
    """Along the other dimensions only."""
    state, rank = step.placed(0), len(step.shapes[0])
    step.all_free(range(1, len(step.shapes)))
    axes = step.constant(3) if len(step.shapes) > 3 else None
    pads = (*mask_of(step, "pads_begin"), *mask_of(step, "pads_end"))
    if axes is None or any(pads) or state.axis in {axis % rank for axis in axes}:
        raise Doubt
    return (state,)


def _group(rule: Callable[[Step], tuple[State, ...]], *kinds: str) -> dict[str, Rule]:
    return dict.fromkeys(kinds, rule)


_EACH: Final = _group(
    _elementwise,
    *(
        "Abs",
        "Acos",
        "Acosh",
        "Add",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
    ),
    *("BitwiseXor", "Ceiling", "Clamp", "Convert", "Cos", "Cosh", "Divide", "Elu", "Equal", "Erf", "Exp"),
    *(
        "Floor",
        "FloorMod",
        "Gelu",
        "Greater",
        "GreaterEqual",
        "HSigmoid",
        "HSwish",
        "HardSigmoid",
    ),
    *("IsFinite", "IsInf", "IsNaN", "Less", "LessEqual", "Log", "LogicalAnd", "LogicalNot", "LogicalOr"),
    *("LogicalXor", "Maximum", "Minimum", "Mish", "Mod", "Multiply", "Negative", "NotEqual", "Power", "Relu"),
    *("ReLU", "Round", "Select", "Selu", "Sigmoid", "Sign", "Sin", "Sinh", "SoftPlus", "SoftSign", "Sqrt"),
    *("SquaredDifference", "Subtract", "Swish", "Tan", "Tanh"),
)

RULES: Final = Rules(
    placed={
        **_EACH,
        **_group(reshaped, "Reshape", "Squeeze", "Unsqueeze"),
        **_group(_over_axis, "Softmax", "LogSoftmax", "ShuffleChannels", "TopK"),
        **_group(_over_input_axes, "CumSum", "Split", "VariadicSplit", "MVN", "NormalizeL2", "LRN"),
        **_group(
            _reduce,
            *("ReduceL1", "ReduceL2", "ReduceLogicalAnd", "ReduceLogicalOr", "ReduceMax", "ReduceMean"),
            *("ReduceMin", "ReduceProd", "ReduceSum"),
        ),
        **_group(
            _by_batch(0),
            *("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData"),
            *("AvgPool", "AdaptiveAvgPool", "BatchNormInference", "GroupNormalization"),
            *("DepthToSpace", "SpaceToDepth"),
        ),
        **_group(_by_batch(1, 2), "EmbeddingBagPacked", "EmbeddingBagPackedSum"),
        **_group(_max_pool, "MaxPool", "AdaptiveMaxPool"),
        **_group(_by_batch(0, 1, 2, 3), "LSTMSequence"),
        **_group(_by_batch(0, 1, 2), "GRUSequence", "RNNSequence", "LSTMCell"),
        **_group(_by_batch(0, 1), "GRUCell", "RNNCell"),
        **_group(spread, "Broadcast", "Tile"),
        "Concat": concatenated,
        "ConvertLike": _first_only,
        "FakeQuantize": _fake_quantize,
        "Gather": gathered,
        "GatherElements": gathered_elements,
        "Interpolate": _interpolate,
        "MatMul": _matmul,
        "OneHot": one_hot,
        "PRelu": _prelu,
        "PReLU": _prelu,
        "Pad": padded,
        "ScaledDotProductAttention": _attention,
        "Slice": sliced,
        "StridedSlice": strided,
        "Transpose": transposed,
    },
    free={
        **_EACH,
        **_group(spread, "Broadcast", "Tile"),
        **_group(cut, "Slice", "StridedSlice"),
        "Convert": lambda step: (step.states[0],),
        "Gather": gathered,
        "Unsqueeze": unsqueezed,
    },
    targets={"Reshape": (1,), "Broadcast": (1,), "Tile": (1,), "Slice": (2,), "StridedSlice": (2,)},
)
