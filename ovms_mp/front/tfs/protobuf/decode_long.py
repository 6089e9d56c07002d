# SPDX-License-Identifier: Apache-2.0
"""A long ``tensorflow.serving.PredictRequest`` in whatever form, read within bounds and in steps.

The generated classes build an object of some hundred bytes for a submessage of two, and eight bytes for a packed number
of one, before anybody can say whether the request makes sense; and they hold up everybody else meanwhile. Here fields
are walked over where they are: names are counted, shapes are held against the model, and only then are values made.
Small parts, a model spec and a shape, are left to the generated classes.

Fields that the message does not know are checked for their form and skipped, as protobuf does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.front.protobuf.packed import Numbers
from ovms_mp.front.protobuf.parts import (
    FIELDS_A_STEP,
    append_part,
    int32_of,
    parsed,
    refuse_too_many,
    text_of,
)
from ovms_mp.front.protobuf.plain import field_number
from ovms_mp.front.protobuf.records import BYTES, FIXED32, FIXED64, VARINT, FieldReader
from ovms_mp.front.protobuf.value_fields import ValueField, Values
from ovms_mp.front.tensors import NumberTensor, RawTensor, bytes_tensor
from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import TensorProto, TensorShapeProto
from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import ModelSpec, PredictRequest
from ovms_mp.front.tfs.protobuf.tags import (
    CONTENT_FIELD,
    DTYPE_FIELD,
    ENTRY_KEY_FIELD,
    ENTRY_VALUE_FIELD,
    INPUTS_FIELD,
    MODEL_SPEC_FIELD,
    OUTPUT_FILTER_FIELD,
    SHAPE_FIELD,
)
from ovms_mp.front.tfs.protobuf.values import (
    VALUE_FIELD,
    known_dtype,
    misplaced_values,
    static_shape,
    too_many_values,
    wrong_content,
)
from ovms_mp.model.dtypes import DType, element_count

if TYPE_CHECKING:
    from collections.abc import Generator

    from ovms_mp.front.protobuf.parts import Check
    from ovms_mp.front.tensors import GivenTensor

_FIELDS = (
    ValueField("half_val", VARINT, Numbers.INT32),
    ValueField("float_val", FIXED32),
    ValueField("double_val", FIXED64),
    ValueField("int_val", VARINT, Numbers.INT32),
    ValueField("string_val", BYTES),
    ValueField("scomplex_val", FIXED32),
    ValueField("int64_val", VARINT, Numbers.INT64),
    ValueField("bool_val", VARINT, Numbers.BOOL),
    ValueField("dcomplex_val", FIXED64),
    ValueField("uint32_val", VARINT, Numbers.UINT32),
    ValueField("uint64_val", VARINT, Numbers.UINT64),
)
_BY_NAME = {entry.name: entry for entry in _FIELDS}
_BY_NUMBER = {field_number(TensorProto, entry.name): entry for entry in _FIELDS}
_FLOAT8 = "float8_val"
_FLOAT8_FIELD = field_number(TensorProto, _FLOAT8)
_NOTHING = memoryview(b"")
_NO_VALUES = np.empty(0, np.float32)


@dataclass(slots=True)
class LongRequest:
    """What a request consists of; the same as a ``PredictCall``, from which it is made."""

    spec: ModelSpec
    inputs: dict[str, GivenTensor]
    output_filter: tuple[str, ...]


@dataclass(slots=True)
class _Tensor:
    """The fields of a tensor that matter: small ones as they are, values where they are in the request."""

    values: Values
    dtype: int = 0
    shape_bytes: bytearray = field(default_factory=bytearray)
    shape: TensorShapeProto = field(default_factory=TensorShapeProto)
    content: memoryview = _NOTHING
    float8: memoryview = _NOTHING


def read_long(body: bytes | bytearray, check: Check | None = None) -> Generator[None, None, LongRequest]:
    """Read a request; yields every millisecond or so, and returns it.

    Args:
        body: The serialized message. The result may borrow from it.
        check: Asked before any values are read.

    Raises:
        MalformedPayload: The bytes are no such message or more of it than is read, or a tensor's values do not fit its
            shape and dtype.
        DtypeMismatch: An input has a dtype that no numeric tensor has.
        OvmsError: What the check raises.
    """
    reader, view = FieldReader(body, PredictRequest.DESCRIPTOR.full_name), memoryview(body)
    spec = bytearray()
    entries: dict[str, _Tensor] = {}
    names: list[str] = []
    inputs_seen = 0
    for number, kind, start, stop in reader.fields(0, len(body)):
        if not reader.left % FIELDS_A_STEP:
            yield
        if kind != BYTES:
            continue
        if number == MODEL_SPEC_FIELD:
            append_part(spec, view[start:stop], "the model spec")
        elif number == INPUTS_FIELD:
            inputs_seen += 1
            refuse_too_many(inputs_seen, "inputs")
            name, tensor = yield from _read_entry(reader, view, start, stop)
            if tensor is not None:
                entries[name] = tensor
        elif number == OUTPUT_FILTER_FIELD:
            names.append(text_of(view[start:stop]))
            refuse_too_many(len(names), "names in its output filter")
    model = parsed(ModelSpec, spec)
    inputs: dict[str, GivenTensor] = {name: _without_values(name, tensor) for name, tensor in entries.items()}
    if check is not None:
        check(model.name, model.version.value, inputs)
    for name, given in inputs.items():
        inputs[name] = yield from _valued(name, entries[name], given)
    return LongRequest(model, inputs, tuple(names))


def _without_values(name: str, tensor: _Tensor) -> GivenTensor:
    dtype, shape = known_dtype(name, tensor.dtype), static_shape(name, tensor.shape)
    if dtype is not DType.BYTES:
        return NumberTensor(dtype, shape, _NO_VALUES)
    if len(tensor.content):
        raise misplaced_values(name, dtype, ["tensor_content"])
    return bytes_tensor(shape, None)


def _read_entry(
    reader: FieldReader, view: memoryview, at: int, end: int
) -> Generator[None, None, tuple[str, _Tensor | None]]:
    """Read an entry of the map of inputs; parts of a tensor that is there twice are merged, as everywhere.

    An entry with a field that the message does not know is no entry to protobuf's C library: without a tensor here.
    """
    name, tensor, is_known = "", _Tensor(Values(view, _BY_NUMBER)), True
    for number, kind, start, stop in reader.fields(at, end):
        if not reader.left % FIELDS_A_STEP:
            yield
        if kind == BYTES and number == ENTRY_KEY_FIELD:
            name = text_of(view[start:stop])
        elif kind == BYTES and number == ENTRY_VALUE_FIELD:
            yield from _read_tensor(reader, view, start, stop, tensor)
        else:
            is_known = False
    tensor.shape = parsed(TensorShapeProto, tensor.shape_bytes)
    yield from tensor.values.count(name)
    if tensor.float8:
        tensor.values.counts[_FLOAT8] = len(tensor.float8)
    return name, tensor if is_known else None


def _read_tensor(
    reader: FieldReader, view: memoryview, at: int, end: int, tensor: _Tensor
) -> Generator[None, None, None]:
    """Note where a tensor's fields are."""
    for number, kind, start, stop in reader.fields(at, end):
        if not reader.left % FIELDS_A_STEP:
            yield
        if number == DTYPE_FIELD and kind == VARINT:
            tensor.dtype = int32_of(reader.varint(start, stop)[0])
        elif number == SHAPE_FIELD and kind == BYTES:
            append_part(tensor.shape_bytes, view[start:stop], "a tensor's shape")
        elif number == CONTENT_FIELD and kind == BYTES:
            tensor.content = view[start:stop]
        elif number == _FLOAT8_FIELD and kind == BYTES:
            tensor.float8 = view[start:stop]
        else:
            yield from tensor.values.note(reader, number, kind, start, stop, end)


def _valued(name: str, tensor: _Tensor, given: GivenTensor) -> Generator[None, None, GivenTensor]:
    """The tensor with its values."""
    dtype, shape = given.dtype, given.shape
    count = element_count(shape)
    if len(tensor.content):
        if len(tensor.content) != dtype.nbytes(shape):
            raise wrong_content(name, len(tensor.content), shape, dtype)
        return RawTensor(dtype, shape, tensor.content)
    own, counts = VALUE_FIELD[dtype], tensor.values.counts
    found = counts.get(own, 0)
    if found > count:
        raise too_many_values(name, own, found, count)
    if not found and count and counts:
        raise misplaced_values(name, dtype, sorted(counts))
    if dtype is DType.BYTES:
        return bytes_tensor(shape, tensor.values.strings(own))
    if not found:
        return NumberTensor(dtype, shape, np.empty(0, dtype.numpy))
    if own == _FLOAT8:
        octets = tensor.float8
    elif (value_field := _BY_NAME[own]).kind == VARINT:
        # Halves come as the bits that they are.
        numpy = np.dtype(np.uint16) if own == "half_val" else dtype.numpy
        values = yield from tensor.values.numbers(value_field, numpy, name)
        return NumberTensor(dtype, shape, values.view(dtype.numpy))
    else:
        octets = tensor.values.octets(own)
    if found == count:
        return RawTensor(dtype, shape, octets)
    return NumberTensor(dtype, shape, np.frombuffer(octets, dtype.numpy))
