# SPDX-License-Identifier: Apache-2.0
"""PredictRequests byte by byte, as no protobuf library writes them, and what a reader makes of them as plain values."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from ovms_mp.errors import DtypeMismatch, MalformedPayload, OvmsError
from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import TensorProto, TensorShapeProto
from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import ModelSpec, PredictRequest
from ovms_mp.model.dtypes import dtype_of_tf, element_count
from tests.support.protobuf_messages import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    elements,
    float_bytes,
    messages,
    names,
    numbers,
    rarely,
    record,
    surpluses,
    varint,
    varint_records,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.front.tfs.protobuf.decode import PredictCall


# Building bytes.


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
