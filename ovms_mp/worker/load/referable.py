# SPDX-License-Identifier: Apache-2.0
"""Which inputs of a model may be memory that its owner changes while the model runs.

A client may write to its shared memory at any moment. Where a model computes with an input, it then computes with other
numbers, which is that client's own affair. But operations that take values for sizes, positions or an order read them
more than once: NonZero counts before it writes, a sort assumes that what it has compared stays so. With values that
change in between, they would write where they must not. So an input is one that can be referred to only where all
operations that read it are known to do nothing but arithmetic with it; views and conversions are followed to what reads
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ovms_mp.model.dtypes import DType

if TYPE_CHECKING:
    import openvino as ov

_TYPES: Final = frozenset(
    dtype.ov_name for dtype in (DType.FP64, DType.FP32, DType.FP16, DType.BF16, DType.INT8, DType.UINT8)
)
_VIEWS: Final = frozenset(
    (
        "Convert",
        "ConvertLike",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Split",
        "VariadicSplit",
        "Concat",
    )
)
"""What comes out may be the same memory, or the same values at once. Their other inputs are followed no further."""
_ARITHMETIC: Final = frozenset(
    (
        *("Add", "Subtract", "Multiply", "Divide", "Maximum", "Minimum", "Power", "SquaredDifference"),
        *("Abs", "Negative", "Sqrt", "Exp", "Log", "Clamp", "Relu", "PRelu", "Elu", "Sigmoid", "Tanh"),
        *("Gelu", "HardSigmoid", "HSigmoid", "HSwish", "Mish", "SoftPlus", "Swish", "Softmax", "LogSoftmax"),
        *("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData"),
        *("BinaryConvolution", "MatMul", "FakeQuantize", "BatchNormInference", "MVN", "NormalizeL2", "LRN"),
        *("MaxPool", "AvgPool", "AdaptiveAvgPool", "Interpolate", "Pad", "StridedSlice", "Slice"),
        *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"),
        *("LSTMCell", "LSTMSequence", "GRUCell", "GRUSequence", "RNNCell", "RNNSequence"),
        *("ScaledDotProductAttention", "NV12toRGB", "NV12toBGR", "I420toRGB", "I420toBGR"),
    )
)
_FIRST: Final = frozenset({0})
_ONLY_FIRST: Final = (
    *("Reshape", "Squeeze", "Unsqueeze", "Transpose", "Split", "VariadicSplit", "Convert", "ConvertLike"),
    *("Interpolate", "StridedSlice", "Slice"),
)
_DATA_INPUTS: Final = {
    **dict.fromkeys(_ONLY_FIRST, _FIRST),
    "Pad": frozenset({0, 3}),
}
"""The others are sizes and positions."""


def referable_inputs(model: ov.Model) -> tuple[bool, ...]:
    """Of each input of a model as it is compiled, whether memory that may change can be it."""
    return tuple(_is_referable(parameter.output(0)) for parameter in model.get_parameters())


def _is_referable(given: ov.Output) -> bool:
    if given.get_element_type().get_type_name() not in _TYPES:
        return False
    waiting, seen = [given], {_place(given)}
    while waiting:
        for target in waiting.pop().get_target_inputs():
            node = target.get_node()
            kind = node.get_type_name()
            data = _DATA_INPUTS.get(kind)
            if kind not in _VIEWS | _ARITHMETIC or (data is not None and target.get_index() not in data):
                return False
            if kind not in _VIEWS:
                continue
            for output in node.outputs():
                if _place(output) not in seen:
                    seen.add(_place(output))
                    waiting.append(output)
    return True


def _place(output: ov.Output) -> tuple[str, int]:
    return output.get_node().get_name(), output.get_index()
