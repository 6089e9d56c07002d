# SPDX-License-Identifier: Apache-2.0
"""PredictRequests byte by byte, as no protobuf library writes them, and what a reader makes of them as plain values."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from ovms_mp.errors import DtypeMismatch, MalformedPayload, OvmsError
from ovms_mp.front.tensors import BytesTensor, NumberTensor, RawTensor
from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import TensorProto, TensorShapeProto
from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import ModelSpec, PredictRequest
from ovms_mp.model.dtypes import DType, dtype_of_tf, element_count

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.front.tensors import GivenTensor
    from ovms_mp.front.tfs.protobuf.decode import PredictCall
    from ovms_mp.model.dtypes import AnyArray

VARINT, FIXED64, BYTES, GROUP, GROUP_END, FIXED32 = range(6)


# Building bytes.


def varint(number: int, surplus: int = 0) -> bytes:
    """The number (of 64 bits) as varint, longer than needed by ``surplus`` bytes."""
    number &= 2**64 - 1
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    if surplus:
        encoded[-1] |= 0x80
        encoded += b"\x80" * (surplus - 1) + b"\x00"
    return bytes(encoded)


def record(field: int, kind: int, payload: bytes, surplus: int = 0) -> bytes:
    """A field with its tag; ``surplus`` makes its length longer than needed."""
    length = varint(len(payload), surplus) if kind == BYTES else b""
    return varint(field << 3 | kind) + length + payload


def tensor(dtype: int, shape: list[int], content: bytes | None = None, /, **fields: object) -> TensorProto:
    """A tensor of the generated class."""
    dimensions = [TensorShapeProto.Dim(size=size) for size in shape]
    shape_proto = TensorShapeProto(dim=dimensions)
    proto = TensorProto(tensor_shape=shape_proto, **fields)  # type: ignore[arg-type] # by name
    proto.dtype = dtype  # type: ignore[assignment] # an open enum takes any number
    if content is not None:
        proto.tensor_content = content
    return proto


def request(**inputs: TensorProto) -> bytes:
    """A request for version 3 of model ``m`` as a protobuf library writes it."""
    message = PredictRequest(model_spec=ModelSpec(name="m", version={"value": 3}), inputs=inputs)
    return message.SerializeToString()


# Comparing what was read.


def values_of(given_tensor: GivenTensor) -> memoryview | AnyArray:
    """A tensor's values as they were sent: raw bytes or numbers."""
    assert isinstance(given_tensor, (RawTensor, NumberTensor))
    return given_tensor.values


def elements(given_tensor: GivenTensor) -> tuple[DType, tuple[int, ...], bytes]:
    """A tensor as plain values. NaNs are made equal: a signalling one does not survive Python's double."""
    if isinstance(given_tensor, BytesTensor):
        strings = b"".join(b"%d:%b" % (len(string), bytes(string)) for string in given_tensor.known_strings)
        return given_tensor.dtype, given_tensor.shape, strings
    values = values_of(given_tensor)
    array = np.frombuffer(values, given_tensor.dtype.numpy) if isinstance(values, memoryview) else values
    assert array.ndim == 1
    assert array.dtype == given_tensor.dtype.numpy
    if isinstance(values, memoryview):
        assert (values.format, len(array)) == ("B", element_count(given_tensor.shape))
    if array.dtype == np.float32:
        array = np.where(np.isnan(array), np.float32(np.nan), array)
    return given_tensor.dtype, given_tensor.shape, array.tobytes()


def plain(call: PredictCall) -> object:
    """A call as plain values."""
    inputs = {name: elements(given_tensor) for name, given_tensor in call.inputs.items()}
    spec = call.model_name, call.version, call.version_label, call.signature_name
    return spec, inputs, call.output_filter


def outcome(reader: Callable[[bytes], PredictCall], body: bytes) -> object:
    """What the reader makes of the bytes: a call's plain values or the error's class.

    The message is left out: of several faults the generated classes name any, as their maps have no order.
    """
    try:
        return plain(reader(body))
    except (DtypeMismatch, MalformedPayload) as error:
        return OvmsError if error.message else None


# The two readers are one.

names = st.sampled_from(["x", "y", "input", "ü", "", "n" * 126, "n" * 127])
rarely = st.integers(0, 23).map(
    lambda number: number == 17
)  # no end of the range: those are drawn more often
surpluses = rarely.flatmap(lambda odd: st.sampled_from([1, 3, 4, 8]) if odd else st.just(0))
numbers = st.one_of(
    st.sampled_from([0, 1, 2, -1, 127, 128, 255, 256, 2**15, 2**31, 2**40]), st.integers(0, 300)
)


@st.composite
def unknown_records(draw: st.DrawFn) -> bytes:
    """A field that no message of ours has, of any wire type."""
    field = draw(st.sampled_from([9, 19, 100, 2**29 - 1]))
    kind = draw(st.sampled_from([VARINT, FIXED64, BYTES, GROUP, FIXED32]))
    payload = {
        VARINT: varint(draw(numbers)),
        FIXED64: b"\x01" * 8,
        BYTES: b"abc",
        GROUP: record(1, VARINT, b"\x05") * draw(st.integers(0, 2)) + varint(field << 3 | GROUP_END),
        FIXED32: b"\x02" * 4,
    }
    return record(field, kind, payload[kind])


@st.composite
def messages(draw: st.DrawFn, records: list[bytes]) -> bytes:
    """Fields in order, or now and then reordered, repeated, left out and among unknown ones."""
    if draw(rarely):
        oddities = [*records, *records, *draw(st.lists(unknown_records(), max_size=2))]
        records = draw(st.lists(st.sampled_from(oddities), max_size=len(records) + 2)) if oddities else []
    return b"".join(records)


def float_bytes(number: int) -> bytes:
    """Four bytes that any number becomes, NaNs among them."""
    return struct.pack("<I", (number * 2654435761) & 0xFFFFFFFF)


VALUE_FIELDS: list[tuple[int, int, Callable[[int], bytes]]] = [
    (5, FIXED32, float_bytes),
    (6, FIXED64, lambda number: struct.pack("<d", number)),
    (7, VARINT, varint),
    (10, VARINT, varint),
    (11, VARINT, varint),
    (13, VARINT, varint),
    (16, VARINT, varint),
    (17, VARINT, varint),
]
OWN_FIELD = {1: 5, 2: 6, 9: 10, 10: 11, 19: 13, 14: 13, 22: 16, 23: 17}
"""The number of the field that belongs to a dtype; ``int_val``, 7, where it is not listed."""


@st.composite
def value_records(draw: st.DrawFn, dtype: int, count: int) -> list[bytes]:
    """About ``count`` values: content, the dtype's own field or another, packed or not, in pieces."""
    known = dtype_of_tf(dtype)
    itemsize = known.itemsize if known else 1
    size = max(0, count + draw(st.sampled_from([-1, 1]))) if draw(rarely) else count
    surplus = draw(surpluses)
    if draw(st.booleans()):
        return [record(4, BYTES, bytes(i & 1 for i in range(size * itemsize)), surplus)]
    if draw(rarely):
        return [record(18, BYTES, b"\x38" * size)]
    own = [entry for entry in VALUE_FIELDS if entry[0] == OWN_FIELD.get(dtype, 7)]
    field, kind, encode = draw(st.sampled_from(VALUE_FIELDS if draw(rarely) else own))
    size = draw(st.integers(0, size))  # the compact form
    values = [encode(draw(numbers if draw(rarely) else st.integers(0, 127))) for _ in range(size)]
    if draw(rarely):
        return [record(field, kind, value) for value in values]
    cut = size // 2 if draw(rarely) else 0
    pieces = [values[:cut], values[cut:]] if cut else [values]
    return [record(field, BYTES, b"".join(piece), surplus) for piece in pieces]


@st.composite
def tensors(draw: st.DrawFn) -> bytes:
    """A ``TensorProto`` that is valid more often than not."""
    dtype = draw(st.sampled_from([1, 1, 1, 2, 3, 4, 5, 6, 9, 10, 14, 17, 19, 22, 23, 24]))
    if draw(rarely):
        dtype = draw(st.sampled_from([0, 7, 101, 300]))
    shape = draw(st.lists(st.sampled_from([0, 1, 1, 2, 3, 3]), max_size=3))
    if draw(rarely):
        shape.append(draw(st.sampled_from([-1, 2**40, 2**63 - 1])))
    count = min(element_count(shape), 27)
    dimensions = [
        record(2, BYTES, draw(messages(varint_records([(1, size)]))), draw(surpluses)) for size in shape
    ]
    if draw(rarely):
        dimensions.append(record(3, VARINT, varint(draw(st.integers(0, 1)))))
    shape_record = record(2, BYTES, draw(messages(dimensions)), draw(surpluses))
    records = [record(1, VARINT, varint(dtype, draw(surpluses))), shape_record]
    for _ in range(2 if draw(rarely) else 1):
        records += draw(value_records(dtype, max(count, 0)))
    if draw(rarely):
        records.append(record(3, VARINT, varint(draw(numbers))))
    return draw(messages(records))


def varint_records(pairs: list[tuple[int, int]]) -> list[bytes]:
    """Varint fields from their numbers and values."""
    return [record(field, VARINT, varint(number)) for field, number in pairs]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A ``PredictRequest`` that is valid more often than not."""
    version = record(2, BYTES, draw(messages(varint_records([(1, draw(numbers))]))))
    label = record(4, BYTES, b"stable")
    spec = [record(1, BYTES, draw(names).encode())]
    spec += draw(st.sampled_from([[], [version], [version], [label], [version, label], [label, version]]))
    if draw(st.booleans()):
        spec.append(record(3, BYTES, b"serving_default"))
    records = [record(1, BYTES, draw(messages(spec)), draw(surpluses))]
    for number in range(draw(st.sampled_from([1, 1, 1, 2, 2, 0]))):
        key = record(1, BYTES, draw(names).encode() + (b"" if draw(rarely) else b"%d" % number))
        value = record(2, BYTES, draw(tensors()), draw(surpluses))
        records.append(record(2, BYTES, draw(messages([key, value])), draw(surpluses)))
    records += [record(3, BYTES, draw(names).encode()) for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2])))]
    return draw(messages(records))


# Parts of plain messages, and odd ones made of them.

FLOATS = record(5, BYTES, struct.pack("<2f", 1, 2))
DIM_2 = record(2, BYTES, record(1, VARINT, b"\x02"))
SHAPE_2 = record(2, BYTES, DIM_2)
FLOAT = record(1, VARINT, b"\x01")


def entry(tensor_bytes: bytes, name: bytes = b"x") -> bytes:
    """An input in a request."""
    return record(2, BYTES, record(1, BYTES, name) + record(2, BYTES, tensor_bytes))


ODDITIES = {
    "model spec in two parts": record(1, BYTES, record(1, BYTES, b"m"))
    + record(1, BYTES, record(3, BYTES, b"s")),
    "shape twice, typed values": entry(FLOAT + SHAPE_2 + SHAPE_2 + FLOATS),
    "shape twice, content": entry(FLOAT + SHAPE_2 + SHAPE_2 + record(4, BYTES, bytes(16))),
    "empty shape, then a shape": entry(FLOAT + record(2, BYTES, b"") + SHAPE_2 + FLOATS),
    "values in two parts": entry(FLOAT + SHAPE_2 + record(5, BYTES, bytes(4)) * 2),
    "a float and a quarter": entry(FLOAT + SHAPE_2 + record(5, BYTES, bytes(5))),
    "packed field without values": entry(FLOAT + SHAPE_2 + record(5, BYTES, b"")),
    "empty content, then values": entry(FLOAT + SHAPE_2 + record(4, BYTES, b"") + FLOATS),
    "values, then content": entry(FLOAT + SHAPE_2 + FLOATS + record(4, BYTES, bytes(8))),
    "two dtypes": entry(FLOAT + record(1, VARINT, b"\x03") + SHAPE_2 + record(7, BYTES, b"\x05")),
    "string after floats of the same name": entry(FLOAT + SHAPE_2 + FLOATS)
    + entry(record(1, VARINT, b"\x07")),
    "floats after a string of the same name": entry(record(1, VARINT, b"\x07"))
    + entry(FLOAT + SHAPE_2 + FLOATS),
    "repeated name and cut values": entry(FLOAT + SHAPE_2 + FLOATS) + entry(FLOAT + FLOATS[:-4], b"x"),
    "value before key": record(2, BYTES, record(2, BYTES, FLOAT) + record(1, BYTES, b"x")),
    "value in two parts": record(
        2, BYTES, record(1, BYTES, b"x") + record(2, BYTES, FLOAT) + record(2, BYTES, SHAPE_2)
    ),
    "dtype of two billion": entry(record(1, VARINT, varint(2**31 - 1)) + SHAPE_2 + FLOATS),
    "entry of nothing": record(2, BYTES, b""),
}
"""Cases that random messages meet too rarely."""
