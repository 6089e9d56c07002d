# SPDX-License-Identifier: Apache-2.0
"""``decode_predict``: what it reads, what it refuses and how it says so, and that its two readers are one.

The property tests build messages byte by byte, so that they reach what no protobuf library writes.
"""

from __future__ import annotations

import struct
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ovms_mp.errors import DtypeMismatch, MalformedPayload, OvmsError
from ovms_mp.front.tfs import decode
from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import TensorProto, TensorShapeProto
from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import ModelSpec, PredictRequest
from ovms_mp.front.tfs.decode import PredictCall, decode_predict, parse_predict
from ovms_mp.model.dtypes import DType, dtype_of_tf, element_count

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.front.tensors import GivenTensor

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


def elements(given_tensor: GivenTensor) -> tuple[DType, tuple[int, ...], bytes]:
    """A tensor as plain values. NaNs are made equal: a signalling one does not survive Python's double."""
    values = given_tensor.values
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


@settings(max_examples=500, deadline=None)
@given(requests())
def test_readers_agree_on_valid_and_odd_messages(body: bytes) -> None:
    """The scanner accepts nothing that the generated classes read otherwise."""
    assert outcome(decode_predict, body) == outcome(parse_predict, body)


PLAIN = request(x=tensor(1, [2, 2], bytes(16)), y=tensor(1, [3], float_val=[1.0, 2.0]))


@settings(max_examples=500, deadline=None)
@given(
    body=st.one_of(st.just(PLAIN), requests()),
    place=st.integers(0, 10**6),
    new=st.one_of(st.binary(max_size=3), st.sampled_from([b"\xff", b"\x80", b"\x00", b"\xff" * 5])),
    removed=st.sampled_from([0, 1, 1, 1, 2, 10**6]),
)
@example(body=PLAIN, place=len(PLAIN), new=b"\x12\x80\x80\x80\x80\x08", removed=0)
@example(body=b"\x12\x02\x0a\x7f", place=0, new=b"", removed=0)
def test_readers_agree_on_broken_messages(body: bytes, place: int, new: bytes, removed: int) -> None:
    """The same with bytes replaced, inserted, removed or cut off anywhere."""
    at = place % (len(body) + 1)
    broken = body[:at] + new + body[at + removed :]
    assert outcome(decode_predict, broken) == outcome(parse_predict, broken)


FLOATS = record(5, BYTES, struct.pack("<2f", 1, 2))
DIM_2 = record(2, BYTES, record(1, VARINT, b"\x02"))
SHAPE_2 = record(2, BYTES, DIM_2)
FLOAT = record(1, VARINT, b"\x01")


def entry(tensor_bytes: bytes, name: bytes = b"x") -> bytes:
    """An input in a request."""
    return record(2, BYTES, record(1, BYTES, name) + record(2, BYTES, tensor_bytes))


@pytest.mark.parametrize(
    "body",
    [
        record(1, BYTES, record(1, BYTES, b"m")) + record(1, BYTES, record(3, BYTES, b"s")),
        entry(FLOAT + SHAPE_2 + SHAPE_2 + FLOATS),
        entry(FLOAT + SHAPE_2 + SHAPE_2 + record(4, BYTES, bytes(16))),
        entry(FLOAT + record(2, BYTES, b"") + SHAPE_2 + FLOATS),
        entry(FLOAT + SHAPE_2 + record(5, BYTES, bytes(4)) * 2),
        entry(FLOAT + SHAPE_2 + record(5, BYTES, bytes(5))),
        entry(FLOAT + SHAPE_2 + record(5, BYTES, b"")),
        entry(FLOAT + SHAPE_2 + record(4, BYTES, b"") + FLOATS),
        entry(FLOAT + SHAPE_2 + FLOATS + record(4, BYTES, bytes(8))),
        entry(FLOAT + record(1, VARINT, b"\x03") + SHAPE_2 + record(7, BYTES, b"\x05")),
        entry(FLOAT + SHAPE_2 + FLOATS) + entry(record(1, VARINT, b"\x07")),
        entry(record(1, VARINT, b"\x07")) + entry(FLOAT + SHAPE_2 + FLOATS),
        entry(FLOAT + SHAPE_2 + FLOATS) + entry(FLOAT + FLOATS[:-4], b"x"),
        record(2, BYTES, record(2, BYTES, FLOAT) + record(1, BYTES, b"x")),
        record(2, BYTES, record(1, BYTES, b"x") + record(2, BYTES, FLOAT) + record(2, BYTES, SHAPE_2)),
        record(2, BYTES, b""),
    ],
    ids=[
        "model spec in two parts",
        "shape twice, typed values",
        "shape twice, content",
        "empty shape, then a shape",
        "values in two parts",
        "a float and a quarter",
        "packed field without values",
        "empty content, then values",
        "values, then content",
        "two dtypes",
        "string after floats of the same name",
        "floats after a string of the same name",
        "repeated name and cut values",
        "value before key",
        "value in two parts",
        "entry of nothing",
    ],
)
def test_readers_agree_on_oddities(body: bytes) -> None:
    """Cases that random messages meet too rarely."""
    assert outcome(decode_predict, body) == outcome(parse_predict, body)


@pytest.mark.parametrize(
    "values",
    [
        FLOATS,
        record(4, BYTES, struct.pack("<2f", 1, 2)),
        record(5, BYTES, bytes(4)),
        record(7, BYTES, b"\x05"),
    ],
    ids=["all floats", "content", "one float", "wrong field"],
)
def test_readers_agree_on_every_changed_byte(values: bytes) -> None:
    """Each byte of a plain message in turn becomes each other byte, disappears, or ends the message."""
    spec = record(1, BYTES, record(1, BYTES, b"m") + record(2, BYTES, b"\x08\x03"))
    body = spec + entry(FLOAT + SHAPE_2 + values) + record(3, BYTES, b"y")
    for at in range(len(body)):
        changed = [body[:at] + bytes([byte]) + body[at + 1 :] for byte in range(256)]
        for broken in (*changed, body[:at] + body[at + 1 :], body[:at]):
            assert outcome(decode_predict, broken) == outcome(parse_predict, broken), broken.hex(" ")


@pytest.mark.parametrize("depth", [97, 98, 99, 100, 101])
@pytest.mark.parametrize("where", ["spec", "shape", "tensor"])
def test_readers_agree_on_the_depth_of_groups(depth: int, where: str) -> None:
    """A part read on its own may not be nested deeper than the whole may be."""
    groups = varint(9 << 3 | GROUP) * depth + varint(9 << 3 | GROUP_END) * depth
    inner = {"spec": b"", "shape": b"", "tensor": b""} | {where: groups}
    values = record(1, VARINT, b"\x03") + record(7, BYTES, b"\x05") + record(2, BYTES, inner["shape"])
    body = record(1, BYTES, inner["spec"]) + entry(values + inner["tensor"])
    assert outcome(decode_predict, body) == outcome(parse_predict, body)


def test_remembered_parts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that never repeat a shape or a model spec take no memory, and still get their own."""
    monkeypatch.setattr(decode, "_REMEMBERED_PARTS", 8)
    for size in range(30):
        shape = [1] * size
        body = PredictRequest(
            model_spec=ModelSpec(name=f"m{size}"), inputs={"x": tensor(4, shape, b"\x01")}
        ).SerializeToString()
        call = decode_predict(body)
        assert (call.model_name, call.inputs["x"].shape) == (f"m{size}", tuple(shape))
    assert len(decode._shapes) <= 8
    assert len(decode._specs) <= 8


# What is read and what is refused; for tensors, test_values.py.


@pytest.mark.parametrize(
    "proto",
    [
        tensor(1, [1, 3, 100, 100], bytes(120000)),
        tensor(1, [2, 3], float_val=[1, 2, 3, 4, 5, 6]),
        tensor(2, [2], double_val=[1, 2]),
        tensor(1, [1000], float_val=[1, 2]),
    ],
    ids=["content", "float_val", "double_val", "few floats"],
)
def test_values_are_slices_of_the_request(proto: TensorProto) -> None:
    """No byte of a tensor is copied."""
    body = request(x=proto)
    values = np.frombuffer(decode_predict(body).inputs["x"].values, np.uint8)
    assert np.shares_memory(values, np.frombuffer(body, np.uint8))


def test_memory_does_not_grow_with_the_tensor() -> None:
    """8 MB of tensor are read with a few kB of memory."""
    body = request(x=tensor(1, [2, 1000, 1000], bytes(8_000_000)))
    decode_predict(body)
    tracemalloc.start()
    try:
        call = decode_predict(body)
        assert tracemalloc.get_traced_memory()[1] < 20_000
    finally:
        tracemalloc.stop()
    assert call.inputs["x"].shape == (2, 1000, 1000)


def test_all_fields_of_a_call() -> None:
    """Name, version, signature, filter and inputs arrive."""
    message = PredictRequest.FromString(
        request(x=tensor(4, [2], b"\x01\x02"), y=tensor(9, [], int64_val=[-7]))
    )
    message.model_spec.signature_name = "sig"
    message.output_filter.extend(["b", "a"])
    call = decode_predict(message.SerializeToString())
    assert plain(call) == (
        ("m", 3, "", "sig"),
        {"x": (DType.UINT8, (2,), b"\x01\x02"), "y": (DType.INT64, (), struct.pack("<q", -7))},
        ("b", "a"),
    )


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (ModelSpec(), ("", None, "", "")),
        (ModelSpec(name="m", version={"value": 0}), ("m", None, "", "")),
        (ModelSpec(name="m", version={}), ("m", None, "", "")),
        (ModelSpec(name="m", version={"value": -1}), ("m", -1, "", "")),
        (ModelSpec(name="m", version_label="stable"), ("m", None, "stable", "")),
    ],
)
def test_model_spec(spec: ModelSpec, expected: tuple[object, ...]) -> None:
    """Version 0 is no version; a label is kept, and refused elsewhere."""
    call = decode_predict(PredictRequest(model_spec=spec).SerializeToString())
    assert (call.model_name, call.version, call.version_label, call.signature_name) == expected


def test_an_empty_body_is_an_empty_request() -> None:
    """Zero bytes are a valid message; that the model has no name is the service's to say."""
    assert plain(decode_predict(b"")) == (("", None, "", ""), {}, ())


@pytest.mark.parametrize(
    "body",
    [
        PLAIN[:-1],
        b"\x0a",
        b"\x0a\x05abc",
        b"\xff" * 11,
        record(1, BYTES, record(1, BYTES, b"\xff\xfe")),
        record(3, BYTES, b"\xed\xa0\x80"),
        record(2, BYTES, record(1, BYTES, b"\xc0\x80")),
        record(9, GROUP, b""),
        b'{"instances": [1]}',
    ],
    ids=["cut", "no length", "short", "no end", "name", "surrogate", "overlong key", "open group", "json"],
)
def test_malformed_messages(body: bytes) -> None:
    """The message says what the bytes were taken for and how many they are."""
    with pytest.raises(MalformedPayload, match=rf"{len(body)} bytes.*tensorflow\.serving\.PredictRequest"):
        decode_predict(body)
