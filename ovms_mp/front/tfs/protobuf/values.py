# SPDX-License-Identifier: Apache-2.0
"""One parsed ``tensorflow.TensorProto`` to a tensor: where its values are, and what is refused.

The rules are TensorFlow's (``Tensor::FromProto`` in tensorflow/core/framework/tensor.cc, ``make_ndarray`` in
tensorflow/python/framework/tensor_util.py), with two exceptions: values in a field that belongs to another
dtype are an error here, where TensorFlow ignores them and computes with zeros; and so are integers that do
not fit the dtype, where TensorFlow's kernel keeps their low bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.errors import DtypeMismatch, MalformedPayload
from ovms_mp.front.protobuf.packed import narrowed
from ovms_mp.front.strings import Strings
from ovms_mp.front.tensors import BytesTensor, NumberTensor, RawTensor, bytes_tensor, checked_shape
from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import DataType
from ovms_mp.model.dtypes import DType, dtype_of_tf, element_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import TensorProto, TensorShapeProto
    from ovms_mp.model.dtypes import AnyArray

_INT32 = np.dtype(np.int32)

VALUE_FIELD = {
    DType.BOOL: "bool_val",
    DType.UINT8: "int_val",
    DType.UINT16: "int_val",
    DType.UINT32: "uint32_val",
    DType.UINT64: "uint64_val",
    DType.INT8: "int_val",
    DType.INT16: "int_val",
    DType.INT32: "int_val",
    DType.INT64: "int64_val",
    DType.FP16: "half_val",
    DType.BF16: "half_val",
    DType.FP32: "float_val",
    DType.FP64: "double_val",
    DType.FP8_E5M2: "float8_val",
    DType.FP8_E4M3: "float8_val",
    DType.BYTES: "string_val",
}
"""The field of ``tensorflow.TensorProto`` that holds a dtype's values one by one."""
_VALUE_FIELDS = sorted({*VALUE_FIELD.values(), "scomplex_val", "dcomplex_val"})
_MOST_DIMENSIONS = 64
"""No model has so many; the product of many large ones takes time, and Python refuses to print it."""
_FIRST_REF_TYPE = 100
"""TensorFlow's reference types are numbered 100 above the type that they refer to."""


def given_tensor(name: str, proto: TensorProto) -> RawTensor | NumberTensor | BytesTensor:
    """Take the tensor out of its message.

    Args:
        name: The input's name, for messages.
        proto: The client's tensor.

    Raises:
        DtypeMismatch: No tensor of ours has this dtype.
        MalformedPayload: The shape is not static, or the values are not the dtype's or do not fit the shape.
    """
    dtype = known_dtype(name, proto.dtype)
    shape = static_shape(name, proto.tensor_shape)
    content = proto.tensor_content
    if dtype is DType.BYTES:
        if content:
            raise misplaced_values(name, dtype, ["tensor_content"])
        refuse_misplaced(name, dtype, proto, element_count(shape))
        return bytes_tensor(shape, Strings.of(proto.string_val))
    if not content:
        return NumberTensor(dtype, shape, _typed_values(name, proto, dtype, element_count(shape)))
    if len(content) != dtype.nbytes(shape):
        raise wrong_content(name, len(content), shape, dtype)
    return RawTensor(dtype, shape, memoryview(content))


def known_dtype(name: str, number: int) -> DType:
    """The dtype of a number in TensorFlow's enumeration.

    Raises:
        DtypeMismatch: No tensor of ours has this dtype.
    """
    dtype = dtype_of_tf(number)
    if dtype is None:
        supported = ", ".join(known.tf_name for known in DType)
        raise DtypeMismatch(f"Input {name!r} is {type_name(number)}; supported: {supported}")
    return dtype


def static_shape(name: str, proto: TensorShapeProto) -> tuple[int, ...]:
    """The shape of a tensor that has values; a message without dimensions is a scalar's.

    Raises:
        MalformedPayload: The rank is unknown or absurd, or a dimension is negative.
    """
    if proto.unknown_rank:
        raise MalformedPayload(f"Input {name!r}: a tensor of unknown rank has no values")
    if len(proto.dim) > _MOST_DIMENSIONS:
        raise MalformedPayload(
            f"Input {name!r}: a shape of {len(proto.dim)} dimensions; at most {_MOST_DIMENSIONS} are read"
        )
    return checked_shape([dimension.size for dimension in proto.dim], f"Input {name!r}")


def type_name(number: int) -> str:
    """TensorFlow's name of a dtype number, for messages."""
    known = DataType.values()
    if number > _FIRST_REF_TYPE and number not in known and number - _FIRST_REF_TYPE in known:
        return f"{DataType.Name(number - _FIRST_REF_TYPE)}_REF"
    return DataType.Name(number) if number in known else f"of unknown dtype {number}"


def _typed_values(name: str, proto: TensorProto, dtype: DType, count: int) -> AnyArray:
    """The values of the dtype's own field, as a 1-D array of the dtype with at most ``count`` elements."""
    field = VALUE_FIELD[dtype]
    given = getattr(proto, field)
    refuse_misplaced(name, dtype, proto, count)
    if not given:
        return np.empty(0, dtype.numpy)
    if field == "float8_val":
        return np.frombuffer(given, dtype.numpy)
    what = f"Input {name!r}: {field}"
    if field == "half_val":
        bits = np.dtype(np.uint16)
        return narrowed(what, np.fromiter(given, _INT32, len(given)), bits).view(dtype.numpy)
    if field == "int_val":
        return narrowed(what, np.fromiter(given, _INT32, len(given)), dtype.numpy)
    return np.fromiter(given, dtype.numpy, len(given))


def refuse_misplaced(name: str, dtype: DType, proto: TensorProto, count: int) -> None:
    """Hold the fields of values against the dtype and the number of elements.

    Raises:
        MalformedPayload: The dtype's own field has too many, or has none where another one has some.
    """
    given = getattr(proto, VALUE_FIELD[dtype])
    if len(given) > count:
        raise too_many_values(name, VALUE_FIELD[dtype], len(given), count)
    if not given:
        strangers = [other for other in _VALUE_FIELDS if count and getattr(proto, other)]
        if strangers:
            raise misplaced_values(name, dtype, strangers)


def wrong_content(name: str, nbytes: int, shape: tuple[int, ...], dtype: DType) -> MalformedPayload:
    """Raw bytes that are not the shape's."""
    return MalformedPayload(
        f"Input {name!r}: tensor_content has {nbytes} bytes, "
        f"but shape {list(shape)} of {dtype.tf_name} takes {dtype.nbytes(shape)}"
    )


def too_many_values(name: str, field: str, given: int, count: int) -> MalformedPayload:
    """More values than the shape has elements."""
    return MalformedPayload(f"Input {name!r}: {field} has {given} values for {count} elements")


def misplaced_values(name: str, dtype: DType, strangers: Sequence[str]) -> MalformedPayload:
    """Values in fields that belong to other dtypes."""
    places = VALUE_FIELD[dtype] if dtype is DType.BYTES else f"tensor_content or {VALUE_FIELD[dtype]}"
    return MalformedPayload(
        f"Input {name!r}: the values of {dtype.tf_name} belong in {places}, not in {', '.join(strangers)}"
    )
