# SPDX-License-Identifier: Apache-2.0
"""``decode_predict``: what it reads, what it refuses and how it says so, and that its two readers are one.

The property tests build messages byte by byte, so that they reach what no protobuf library writes.
"""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ovms_mp.errors import MalformedPayload
from ovms_mp.front.protobuf import plain as protobuf_plain
from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import TensorProto
from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import ModelSpec, PredictRequest
from ovms_mp.front.tfs.protobuf import decode
from ovms_mp.front.tfs.protobuf.decode import decode_predict, parse_predict
from ovms_mp.model.dtypes import DType
from tests.support.predict_messages import (
    FLOAT,
    FLOATS,
    ODDITIES,
    SHAPE_2,
    entry,
    outcome,
    plain,
    request,
    requests,
    tensor,
)
from tests.support.protobuf_messages import BYTES, GROUP, GROUP_END, VARINT, record, values_of, varint


@settings(max_examples=200, deadline=None)
@given(requests())
def test_readers_agree_on_valid_and_odd_messages(body: bytes) -> None:
    """The scanner accepts nothing that the generated classes read otherwise."""
    assert outcome(decode_predict, body) == outcome(parse_predict, body)


PLAIN = request(x=tensor(1, [2, 2], bytes(16)), y=tensor(1, [3], float_val=[1.0, 2.0]))


@settings(max_examples=200, deadline=None)
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


@pytest.mark.parametrize("body", ODDITIES.values(), ids=ODDITIES)
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


@pytest.mark.parametrize("depth", range(94, 102))
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
    monkeypatch.setattr(protobuf_plain, "_MOST_REMEMBERED", 8)
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
    values = np.frombuffer(values_of(decode_predict(body).inputs["x"]), np.uint8)
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
