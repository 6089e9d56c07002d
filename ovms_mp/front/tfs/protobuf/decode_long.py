# SPDX-License-Identifier: Apache-2.0
"""A long ``tensorflow.serving.PredictRequest`` in whatever form, read within bounds and in steps.

The generated classes build an object of some hundred bytes for a submessage of two, and eight bytes for a packed number
of one, before anybody can say whether the request makes sense; and they hold up everybody else meanwhile. Here fields
are walked over where they are: names are counted, shapes are held against the model, and only then are values made.
Small parts, a model spec and a shape, are left to the generated classes.

Fields that the message does not know are checked for their form and skipped, as protobuf does.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from ovms_mp.errors import MalformedPayload
from ovms_mp.front.strings import STEP_ELEMENTS, Strings, refuse_too_many
from ovms_mp.front.tensors import BytesTensor, GivenTensor, NumberTensor, RawTensor, bytes_tensor
from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import TensorProto, TensorShapeProto
from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import ModelSpec
from ovms_mp.front.tfs.protobuf.packed import count_varints, read_varints
from ovms_mp.front.tfs.protobuf.records import BYTES, FIXED32, FIXED64, VARINT, FieldReader
from ovms_mp.front.tfs.protobuf.tags import (
    CONTENT_FIELD,
    DTYPE_FIELD,
    ENTRY_KEY_FIELD,
    ENTRY_VALUE_FIELD,
    INPUTS_FIELD,
    MODEL_SPEC_FIELD,
    OUTPUT_FILTER_FIELD,
    SHAPE_FIELD,
    STRINGS,
    field_number,
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

MessageT = TypeVar("MessageT", bound=Message)

MOST_NAMES = 1024
"""Inputs and names in the output filter, counted as they are sent. No model comes near it."""
LONGEST_PART_BYTES = 16 << 10
"""Of a name, a model spec and a shape: what is read in one piece."""
_FIELDS_A_STEP = 1024

_ELEMENT_KINDS = {
    "half_val": VARINT,
    "float_val": FIXED32,
    "double_val": FIXED64,
    "int_val": VARINT,
    "string_val": BYTES,
    "scomplex_val": FIXED32,
    "int64_val": VARINT,
    "bool_val": VARINT,
    "dcomplex_val": FIXED64,
    "uint32_val": VARINT,
    "uint64_val": VARINT,
    "float8_val": BYTES,
}
"""Fields of a tensor that hold values, with the wire type of one element."""
_VALUE_FIELDS = {field_number(TensorProto, name): name for name in _ELEMENT_KINDS}
_ELEMENT_SIZES = {FIXED32: 4, FIXED64: 8}

Check: TypeAlias = Callable[[str, int, Mapping[str, GivenTensor]], None]
"""Raises an OvmsError if no model takes tensors of these dtypes and shapes; they have no values yet."""


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
    """The fields of a tensor that matter: small ones as they are, values where they are in the request.

    Strings are where ``starts`` and ``sizes`` say.
    """

    dtype: int = 0
    shape_bytes: bytearray = field(default_factory=bytearray)
    shape: TensorShapeProto = field(default_factory=TensorShapeProto)
    content: memoryview = _NOTHING
    values: dict[str, memoryview | bytearray] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    starts: array[int] = field(default_factory=lambda: array("i"))
    sizes: array[int] = field(default_factory=lambda: array("i"))


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
    reader, view = FieldReader(body), memoryview(body)
    spec = bytearray()
    entries: dict[str, _Tensor] = {}
    names: list[str] = []
    inputs_seen = 0
    for number, kind, start, stop in reader.fields(0, len(body)):
        if not reader.left % _FIELDS_A_STEP:
            yield
        if kind != BYTES:
            continue
        if number == MODEL_SPEC_FIELD:
            _append_part(spec, view[start:stop], "the model spec")
        elif number == INPUTS_FIELD:
            inputs_seen += 1
            _refuse_too_many(inputs_seen, "inputs")
            name, tensor = yield from _read_entry(reader, view, start, stop)
            if tensor is not None:
                entries[name] = tensor
        elif number == OUTPUT_FILTER_FIELD:
            names.append(_text(view[start:stop]))
            _refuse_too_many(len(names), "names in its output filter")
    model = _parsed(ModelSpec, spec)
    inputs: dict[str, GivenTensor] = {
        name: _without_values(known_dtype(name, tensor.dtype), static_shape(name, tensor.shape))
        for name, tensor in entries.items()
    }
    if check is not None:
        check(model.name, model.version.value, inputs)
    for name, given in inputs.items():
        inputs[name] = yield from _valued(name, entries[name], given, view)
    return LongRequest(model, inputs, tuple(names))


def _without_values(dtype: DType, shape: tuple[int, ...]) -> GivenTensor:
    return bytes_tensor(shape, None) if dtype is DType.BYTES else NumberTensor(dtype, shape, _NO_VALUES)


def _read_entry(
    reader: FieldReader, view: memoryview, at: int, end: int
) -> Generator[None, None, tuple[str, _Tensor | None]]:
    """Read an entry of the map of inputs; parts of a tensor that is there twice are merged, as everywhere.

    An entry with a field that the message does not know is no entry to protobuf's C library: without a tensor here.
    """
    name, tensor, is_known = "", _Tensor(), True
    for number, kind, start, stop in reader.fields(at, end):
        if not reader.left % _FIELDS_A_STEP:
            yield
        if kind == BYTES and number == ENTRY_KEY_FIELD:
            name = _text(view[start:stop])
        elif kind == BYTES and number == ENTRY_VALUE_FIELD:
            yield from _read_tensor(reader, view, start, stop, tensor)
        else:
            is_known = False
    tensor.shape = _parsed(TensorShapeProto, tensor.shape_bytes)
    tensor.counts["string_val"] = len(tensor.starts)
    for field_name, payload in tensor.values.items():
        tensor.counts[field_name] = yield from _count_values(field_name, memoryview(payload))
        if tensor.counts[field_name] < 0:
            raise MalformedPayload(f"Input {name!r}: {field_name} does not consist of numbers")
    return name, tensor if is_known else None


def _read_tensor(
    reader: FieldReader, view: memoryview, at: int, end: int, tensor: _Tensor
) -> Generator[None, None, None]:
    """Note where a tensor's fields are."""
    values = tensor.values
    for number, kind, start, stop in reader.fields(at, end):
        if not reader.left % _FIELDS_A_STEP:
            yield
        if number == DTYPE_FIELD and kind == VARINT:
            tensor.dtype = _int32(reader.varint(start, stop)[0])
        elif number == SHAPE_FIELD and kind == BYTES:
            _append_part(tensor.shape_bytes, view[start:stop], "a tensor's shape")
        elif number == CONTENT_FIELD and kind == BYTES:
            tensor.content = view[start:stop]
        elif (name := _VALUE_FIELDS.get(number)) is not None and kind in (BYTES, _ELEMENT_KINDS[name]):
            if name == "string_val":
                yield from _read_strings(reader, start, stop, end, tensor)
            elif name == "float8_val" or not values.get(name):
                values[name] = view[start:stop]
            else:
                # An element has the same bytes alone as in a packed field, so all parts are one packed field.
                earlier = values[name]
                if isinstance(earlier, memoryview):
                    earlier = values[name] = bytearray(earlier)
                earlier += view[start:stop]


def _read_strings(
    reader: FieldReader, start: int, stop: int, end: int, tensor: _Tensor
) -> Generator[None, None, None]:
    """Note where a string is, and those that follow it; they cannot be packed, so they have a limit of their own."""
    starts, sizes = tensor.starts, tensor.sizes
    starts.append(start)
    sizes.append(stop - start)
    before = 0
    while before != stop:
        before, stop = stop, reader.read_alike(STRINGS, stop, end, STEP_ELEMENTS, starts, sizes)
        refuse_too_many(len(starts), "the request")
        yield


def _refuse_too_many(count: int, what: str) -> None:
    if count > MOST_NAMES:
        raise MalformedPayload(f"the request has more than {MOST_NAMES} {what}")


def _append_part(whole: bytearray, part: memoryview, what: str) -> None:
    """Merge a submessage into one that came before: their bytes in a row mean that."""
    if len(whole) + len(part) > LONGEST_PART_BYTES:
        raise MalformedPayload(
            f"{what} takes more than {LONGEST_PART_BYTES} bytes ({len(whole) + len(part)} and on)"
        )
    whole += part


def _text(octets: memoryview) -> str:
    if len(octets) > LONGEST_PART_BYTES:
        raise MalformedPayload(f"a name has {len(octets)} bytes; at most {LONGEST_PART_BYTES} are read")
    try:
        return bytes(octets).decode()
    except UnicodeDecodeError as error:
        raise MalformedPayload(f"a name is not UTF-8: {error.reason}") from None


def _int32(number: int) -> int:
    """An enumeration's number as protobuf reads it."""
    low = number & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low


def _parsed(kind: type[MessageT], octets: bytearray) -> MessageT:
    try:
        return kind.FromString(bytes(octets))
    except DecodeError as error:
        raise MalformedPayload(f"a part of the request is no {kind.DESCRIPTOR.name}: {error}") from None


def _valued(
    name: str, tensor: _Tensor, given: GivenTensor, view: memoryview
) -> Generator[None, None, RawTensor | NumberTensor | BytesTensor]:
    """The tensor with its values."""
    dtype, shape = given.dtype, given.shape
    count = element_count(shape)
    if len(tensor.content) and dtype is not DType.BYTES:
        if len(tensor.content) != dtype.nbytes(shape):
            raise wrong_content(name, len(tensor.content), shape, dtype)
        return RawTensor(dtype, shape, tensor.content)
    own = VALUE_FIELD[dtype]
    found = tensor.counts.get(own, 0)
    if found > count:
        raise too_many_values(name, own, found, count)
    strangers = sorted(other for other, stranger_count in tensor.counts.items() if stranger_count)
    if not found and count and strangers:
        raise misplaced_values(name, dtype, strangers)
    if dtype is DType.BYTES:
        if len(tensor.content):
            raise misplaced_values(name, dtype, ["tensor_content"])
        starts, sizes = np.frombuffer(tensor.starts, np.int32), np.frombuffer(tensor.sizes, np.int32)
        return bytes_tensor(shape, Strings(view, starts, sizes))
    if not found:
        return NumberTensor(dtype, shape, np.empty(0, dtype.numpy))
    payload = memoryview(tensor.values[own])
    if _ELEMENT_KINDS[own] == VARINT:
        return NumberTensor(dtype, shape, (yield from read_varints(payload, found, dtype, name, own)))
    if found == count:
        return RawTensor(dtype, shape, payload)
    return NumberTensor(dtype, shape, np.frombuffer(payload, dtype.numpy))


def _count_values(name: str, payload: memoryview) -> Generator[None, None, int]:
    """How many values a field has; -1 if it is malformed."""
    kind = _ELEMENT_KINDS[name]
    if kind == VARINT:
        return (yield from count_varints(payload))
    size = _ELEMENT_SIZES.get(kind, 1)
    return -1 if len(payload) % size else len(payload) // size
