# SPDX-License-Identifier: Apache-2.0
"""``decode_infer``: what it reads, what it refuses and how it says so, and that its three readers are one.

The property tests build messages byte by byte, so that they reach what no protobuf library writes.
"""

from __future__ import annotations

import asyncio
import re
import struct
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ovms_mp.errors import DtypeMismatch, InputNameMismatch, MalformedPayload, OvmsError, ShapeMismatch
from ovms_mp.front.kserve._proto.kserve_pb2 import InferParameter, ModelInferRequest
from ovms_mp.front.kserve.protobuf.decode import (
    decode_infer,
    decode_infer_in_turns,
    parse_infer,
    refused_id,
    scan_infer,
)
from ovms_mp.front.kserve.protobuf.decode_long import read_long
from ovms_mp.front.protobuf import plain as protobuf_plain
from ovms_mp.front.protobuf.parts import LONGEST_PARSED_BYTES, MOST_NAMES
from ovms_mp.front.protobuf.turns import at_one_go
from ovms_mp.front.regions.ranges import SharedRange
from ovms_mp.front.regions.tensors import RegionInput
from ovms_mp.front.tensors import RawTensor
from ovms_mp.model.dtypes import DType
from tests.support.infer_messages import (
    FLOATS,
    FP32_2,
    MODEL,
    NAME_X,
    ODDITIES,
    RAW_2,
    entry,
    head,
    outcome,
    parameter,
    plain,
    request,
    requests,
)
from tests.support.protobuf_messages import (
    BYTES,
    GROUP,
    GROUP_END,
    VARINT,
    broken,
    elements,
    record,
    varint,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.front.kserve.infer_request import InferRequest
    from ovms_mp.front.tensors import GivenTensor

MEBIBYTE = 1 << 20
PLAIN = request((head("x", "FP32", [2, 2]), bytes(16)), (head("y", "BOOL", [3]), b"\0\1\0"))


def read_in_steps(body: bytes) -> InferRequest:
    """All steps of the reader of long requests, whatever the length."""
    return at_one_go(read_long(body))


def assert_one_outcome(body: bytes) -> None:
    expected = outcome(parse_infer, body)
    assert outcome(decode_infer, body) == expected, body.hex(" ")
    assert outcome(read_in_steps, body) == expected, body.hex(" ")


@settings(max_examples=300, deadline=None)
@given(requests())
def test_readers_agree_on_valid_and_odd_messages(body: bytes) -> None:
    """The scanner accepts nothing that the generated classes read otherwise."""
    assert_one_outcome(body)


@settings(max_examples=300, deadline=None)
@given(broken(st.one_of(st.just(PLAIN), requests())))
@example(PLAIN + b"\x12\x80\x80\x80\x80\x08")
@example(b"\x2a\x02\x0a\x7f")
def test_readers_agree_on_broken_messages(body: bytes) -> None:
    """The same with bytes replaced, inserted, removed or cut off anywhere."""
    assert_one_outcome(body)


@pytest.mark.parametrize("body", ODDITIES.values(), ids=ODDITIES)
def test_readers_agree_on_oddities(body: bytes) -> None:
    assert_one_outcome(body)


@pytest.mark.parametrize(
    "values",
    [RAW_2, entry(NAME_X + record(2, BYTES, b"FP32") + record(5, BYTES, FLOATS[:2] + FLOATS[2:6]))],
    ids=["raw", "contents"],
)
def test_readers_agree_on_every_changed_byte(values: bytes) -> None:
    """Each byte of a plain message in turn becomes each other byte, disappears, or ends the message."""
    first = MODEL + record(3, BYTES, b"i") + parameter(4, b"k", record(1, VARINT, b"\x01"))
    body = (
        first
        + (entry(FP32_2) if values == RAW_2 else b"")
        + record(6, BYTES, record(1, BYTES, b"y"))
        + values
    )
    for at in range(len(body)):
        numbers = {*range(0, 256, 15), *(body[at] ^ 1 << bit for bit in range(8))}
        changed = [body[:at] + bytes([byte]) + body[at + 1 :] for byte in numbers]
        for odd in (*changed, body[:at] + body[at + 1 :], body[:at]):
            assert_one_outcome(odd)


@pytest.mark.parametrize("depth", [60, *range(90, 102)])
@pytest.mark.parametrize("where", ["request", "input", "output", "parameter"])
def test_readers_agree_on_the_depth_of_groups(depth: int, where: str) -> None:
    """A part read on its own may not be nested deeper than the whole may be."""
    groups = varint(9 << 3 | GROUP) * depth + varint(9 << 3 | GROUP_END) * depth
    inner = dict.fromkeys(["request", "input", "output", "parameter"], b"") | {where: groups}
    body = MODEL + parameter(4, b"k", record(1, VARINT, b"\x01") + inner["parameter"])
    body += entry(FP32_2 + inner["input"]) + record(6, BYTES, record(1, BYTES, b"y") + inner["output"])
    assert outcome(decode_infer, body + RAW_2 + inner["request"]) == outcome(
        parse_infer, body + RAW_2 + inner["request"]
    )


def test_remembered_parts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that never repeat an input take no memory, and still get their own."""
    from ovms_mp.front.kserve.protobuf import decode

    monkeypatch.setattr(protobuf_plain, "_MOST_REMEMBERED", 8)
    decode._heads.clear()
    for size in range(30):
        found = decode_infer(request((head(f"x{size}", "UINT8", [1] * size), b"\1")))
        assert found.inputs[f"x{size}"].shape == (1,) * size
    assert len(decode._heads) <= 8


# What is read.


def test_all_fields() -> None:
    body = request(
        (head("x", "UINT8", [2]), b"\x01\x02"),
        (head("s", "BYTES", [2]), b"\x01\0\0\0a\0\0\0\0"),
        id="number 7",
        parameters={"timeout": InferParameter(int64_param=-5), "big": InferParameter(uint64_param=2**64 - 1)},
        outputs=[
            ModelInferRequest.InferRequestedOutputTensor(
                name="b", parameters={"classification": InferParameter(int64_param=3)}
            ),
            ModelInferRequest.InferRequestedOutputTensor(name="a"),
        ],
    )
    for found in (scan_infer(body), parse_infer(body), read_in_steps(body)):
        assert found is not None
        assert (found.model_name, found.model_version, found.id) == ("m", "3", "number 7")
        assert found.parameters == {"timeout": -5, "big": 2**64 - 1}
        assert found.output_filter == ["b", "a"]
        assert found.outputs[0].parameters == {"classification": 3}
        assert plain(found) == plain(parse_infer(body))


@pytest.mark.parametrize(
    ("parameter_proto", "value"),
    [
        (InferParameter(bool_param=False), False),
        (InferParameter(int64_param=-(2**63)), -(2**63)),
        (InferParameter(uint64_param=2**64 - 1), 2**64 - 1),
        (InferParameter(string_param="ü"), "ü"),
        (InferParameter(double_param=1.5), 1.5),
    ],
)
def test_parameters_of_every_kind(parameter_proto: InferParameter, value: object) -> None:
    body = request(
        (head("x", "UINT8", [1], parameters={"p": parameter_proto}), b"\1"), parameters={"p": parameter_proto}
    )
    found = decode_infer(body)
    assert (found.parameters["p"], type(found.parameters["p"])) == (value, type(value))


def test_an_input_in_shared_memory_has_no_entry() -> None:
    region = {
        "shared_memory_region": InferParameter(string_param="r"),
        "shared_memory_byte_size": InferParameter(int64_param=4),
        "shared_memory_offset": InferParameter(int64_param=12),
    }
    body = request(
        (head("a", "FP32", [1], parameters=region), None), (head("b", "FP32", [1]), struct.pack("<f", 7))
    )
    for found in (scan_infer(body), parse_infer(body), read_in_steps(body)):
        assert found is not None
        assert list(found.inputs) == ["a", "b"]
        assert found.inputs["a"] == RegionInput(DType.FP32, (1,), SharedRange("r", 12, 4))


@pytest.mark.parametrize(
    "dtype", [dtype for dtype in DType if dtype is not DType.BYTES], ids=lambda dtype: dtype.name
)
def test_raw_values_are_slices_of_the_request(dtype: DType) -> None:
    body = request((head("x", dtype.name, [3]), bytes(range(1, 3 * dtype.itemsize + 1))))
    given_tensor = decode_infer(body).inputs["x"]
    assert isinstance(given_tensor, RawTensor)
    assert (given_tensor.dtype, given_tensor.shape) == (dtype, (3,))
    assert np.shares_memory(np.frombuffer(given_tensor.values, np.uint8), np.frombuffer(body, np.uint8))


CONTENT_VALUES: dict[str, tuple[str, list[object]]] = {
    "BOOL": ("bool_contents", [True, False]),
    "INT8": ("int_contents", [-128, 127]),
    "INT16": ("int_contents", [-(2**15), 2**15 - 1]),
    "INT32": ("int_contents", [-(2**31), 2**31 - 1]),
    "INT64": ("int64_contents", [-(2**63), 2**63 - 1]),
    "UINT8": ("uint_contents", [0, 255]),
    "UINT16": ("uint_contents", [0, 2**16 - 1]),
    "UINT32": ("uint_contents", [0, 2**32 - 1]),
    "UINT64": ("uint64_contents", [0, 2**64 - 1]),
    "FP32": ("fp32_contents", [1.5, -0.0]),
    "FP64": ("fp64_contents", [0.1, float("inf")]),
}


@pytest.mark.parametrize("datatype", CONTENT_VALUES)
@pytest.mark.parametrize("times", [1, 5000], ids=["short", "long"])
def test_contents(datatype: str, times: int) -> None:
    """In short messages by the generated classes, in long ones in steps."""
    field, values = CONTENT_VALUES[datatype]
    proto = head("x", datatype, [times, 2])
    getattr(proto.contents, field).extend(values * times)
    given_tensor = decode_infer(request((proto, None))).inputs["x"]
    _, shape, octets = elements(given_tensor)
    assert shape == (times, 2)
    assert np.frombuffer(octets, DType[datatype].numpy).tolist() == values * times


def test_strings_in_contents() -> None:
    proto = head("x", "BYTES", [3])
    proto.contents.bytes_contents.extend([b"a", b"", b"\xff" * LONGEST_PARSED_BYTES])
    for body in (request((proto, None)), request((proto, None))[: -LONGEST_PARSED_BYTES // 2]):
        assert outcome(decode_infer, body) == outcome(parse_infer, body)


def test_memory_does_not_grow_with_the_tensor() -> None:
    """8 MB of tensor are read with a few kB of memory."""
    body = request((head("x", "FP32", [2, 1000, 1000]), bytes(8_000_000)))
    decode_infer(body)
    tracemalloc.start()
    try:
        found = decode_infer(body)
        assert tracemalloc.get_traced_memory()[1] < 20_000
    finally:
        tracemalloc.stop()
    assert found.inputs["x"].shape == (2, 1000, 1000)


# What is refused.

ONE_FP32 = record(5, BYTES, record(6, BYTES, bytes(4)))
FP16 = entry(NAME_X + record(2, BYTES, b"FP16") + record(3, BYTES, b"\x01") + ONE_FP32)
REFUSED = {
    "both": (
        ODDITIES["both"],
        "Passing buffers both in ModelInferRequest::InferInputTensor::contents and in "
        "ModelInferRequest::raw_input_contents is not allowed - Passing buffers both in InferInputTensor contents and "
        "in raw_input_contents is not allowed. Detected buffer in InferInputTensor contents for input: x",
    ),
    "too many entries": (
        ODDITIES["one entry too many"],
        "Size of raw_input_contents: 2 is different than number of inputs: 1",
    ),
    "too few entries": (
        ODDITIES["one entry too few"],
        "Size of raw_input_contents: 1 is different than number of inputs: 2",
    ),
    "an entry for shared memory": (
        ODDITIES["in a region, with an entry"],
        "Size of raw_input_contents: 1 is different than number of inputs: 0 (1 more are in shared memory)",
    ),
    "wrong size": (
        MODEL + entry(FP32_2) + record(7, BYTES, b"abc"),
        "Invalid content size of tensor proto - Expected: 8 bytes; Actual: 3 bytes; input name: x (shape [2] of FP32)",
    ),
    "no values": (
        ODDITIES["no values"],
        "Invalid number of values in tensor proto container - Expected: 2 values; Actual: 0 values; input name: x",
    ),
    "wrong field": (
        ODDITIES["contents in the wrong field"],
        "Actual: 0 values; input name: x; values of FP32 belong in fp32_contents, not in fp64_contents",
    ),
    "no field": (MODEL + FP16, "FP16 has no field in contents, send it in raw_input_contents"),
    "twice": (ODDITIES["the same input twice"], "input 'x' is there twice"),
    "in a region and contents": (
        ODDITIES["in a region, with contents"],
        "input 'x' is in shared memory and has contents as well",
    ),
    "an integer too large": (
        ODDITIES["an integer too large"],
        "Input 'x': int_contents[0] is 300, which does not fit int8",
    ),
    "a parameter without value": (ODDITIES["a parameter without value"], "parameter 'k' has no value"),
    "a datatype that there is not": (
        MODEL + entry(NAME_X + record(2, BYTES, b"fp32")),
        "Invalid input precision - input 'x': unknown datatype 'fp32'; known: BOOL, ",
    ),
    "a negative dimension": (
        MODEL + entry(NAME_X + record(2, BYTES, b"FP32") + record(3, VARINT, varint(-1))),
        "input 'x': shape [-1] has a negative dimension",
    ),
    "many dimensions": (
        MODEL + entry(NAME_X + record(2, BYTES, b"FP32") + record(3, BYTES, b"\x01" * 65)),
        "input 'x': a shape of 65 dimensions; at most 64 are read",
    ),
    "no message": (b"\x0a\x05abc", "The 5 bytes are not a inference.ModelInferRequest: "),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusals_say_what_and_where(what: str) -> None:
    body, text = REFUSED[what]
    with pytest.raises((MalformedPayload, DtypeMismatch, InputNameMismatch), match=re.escape(text)):
        decode_infer(body)
    if what != "no message":
        with pytest.raises(OvmsError, match=re.escape(text)):
            read_in_steps(body)


# Long requests.

N = 400_000
BOMBS = {
    "requested outputs": MODEL + b"\x32\x00" * N,
    "inputs": MODEL + b"\x2a\x00" * N,
    "good inputs": MODEL + entry(FP32_2) * (N // 10),
    "entries": MODEL + entry(FP32_2) + b"\x3a\x00" * N,
    "parameters": MODEL + b"\x22\x00" * N,
    "parameters of an input": MODEL + entry(FP32_2 + b"\x22\x00" * N) + RAW_2,
    "parameters of an output": MODEL + record(6, BYTES, b"\x12\x00" * N),
    "models": MODEL * N,
    "unknown fields": MODEL + record(9, VARINT, b"\x01") * N,
    "unknown groups": MODEL + (varint(9 << 3 | GROUP) + varint(9 << 3 | GROUP_END)) * N,
    "dimensions": MODEL + entry(FP32_2 + record(3, BYTES, b"\x01" * N)),
    "strings": MODEL
    + entry(NAME_X + record(2, BYTES, b"BYTES") + record(5, BYTES, record(8, BYTES, b"") * N)),
    "strings of another datatype": MODEL + entry(FP32_2 + record(5, BYTES, record(8, BYTES, b"") * N)),
    "numbers one by one": MODEL + entry(FP32_2 + record(5, BYTES, record(2, VARINT, b"\x01") * N)),
    "many contents": MODEL + entry(FP32_2 + record(5, BYTES, record(2, VARINT, b"\x01")) * N),
    "numbers for no shape": MODEL + entry(FP32_2 + record(5, BYTES, record(6, BYTES, bytes(4 * N)))),
    "raw for no shape": MODEL + entry(FP32_2) + record(7, BYTES, bytes(N)),
    "strings for no shape": MODEL
    + entry(NAME_X + record(2, BYTES, b"BYTES") + record(3, BYTES, b"\x01"))
    + record(7, BYTES, bytes(N)),
    "a long name": record(1, BYTES, b"y" * N),
    "a number without end": MODEL + entry(FP32_2 + record(5, BYTES, record(2, BYTES, b"\xff" * N))),
}
"""What unpacks to much: each is refused, at once or after a bounded number of fields."""


@pytest.mark.parametrize("what", BOMBS)
def test_a_bomb_is_refused_within_its_own_size(what: str) -> None:
    body = BOMBS[what]
    assert len(body) > LONGEST_PARSED_BYTES
    tracemalloc.start()
    try:
        with pytest.raises(OvmsError) as caught:
            decode_infer(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.code.http_status == 400
    assert len(caught.value.message) < 500
    # A string of no length takes two bytes in the message.
    assert peak < (4 if what.startswith("strings") else 1) * len(body) + 2 * MEBIBYTE, (
        f"{peak} bytes for {len(body)}"
    )


MANY_INTEGERS, MANY_STRINGS = (
    head("x", datatype, [MEBIBYTE]).SerializeToString() for datatype in ("INT64", "BYTES")
)


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("INT64", entry(MANY_INTEGERS + record(5, BYTES, record(3, BYTES, b"\x05" * MEBIBYTE)))),
        ("BYTES", entry(MANY_STRINGS) + record(7, BYTES, b"\0\0\0\0" * MEBIBYTE)),
    ],
)
def test_others_have_their_turn(datatype: str, values: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """With turns of no length, everybody else goes on between any two steps."""
    monkeypatch.setattr("ovms_mp.front.protobuf.turns._TURN_S", 0.0)
    body = MODEL + values
    assert scan_infer(body) is None
    turns = 0

    async def both() -> InferRequest:
        nonlocal turns
        reading = asyncio.ensure_future(decode_infer_in_turns(body, lambda *_: None))
        while not reading.done():
            turns += 1
            await asyncio.sleep(0)
        return reading.result()

    assert asyncio.run(both()).inputs["x"].dtype is DType[datatype]
    assert turns > 15


def test_a_shape_that_the_model_lacks_is_refused_before_values_are_made() -> None:
    count = 4 * MEBIBYTE
    proto = head("x", "INT64", [count]).SerializeToString()
    # The model's name comes last, as it may.
    body = entry(proto + record(5, BYTES, record(3, BYTES, b"\x05" * count))) + MODEL + record(2, BYTES, b"2")
    asked: list[tuple[str, int, tuple[int, ...]]] = []

    def check(name: str, version: int, given_tensors: Mapping[str, GivenTensor]) -> None:
        asked.append((name, version, given_tensors["x"].shape))
        raise ShapeMismatch("not this one")

    async def refused() -> None:
        with pytest.raises(ShapeMismatch):
            await decode_infer_in_turns(body, check)

    tracemalloc.start()
    try:
        asyncio.run(refused())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert asked == [("m", 2, (count,))]
    assert peak < 2 * MEBIBYTE


def test_what_serves_is_not_refused() -> None:
    """The bounds are far from what clients send: many inputs, many outputs."""
    pairs = [(head(f"input_{number}", "FP32", [1, 10]), bytes(40)) for number in range(500)]
    wanted = ModelInferRequest.InferRequestedOutputTensor
    outputs = [wanted(name=f"a rather long name {number}") for number in range(MOST_NAMES)]
    found = decode_infer(request(*pairs, outputs=outputs))
    assert (len(found.inputs), len(found.outputs)) == (500, MOST_NAMES)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"", ""),
        (ModelInferRequest(model_name="m", id="ü", raw_input_contents=[b"1"]).SerializeToString(), "ü"),
        (PLAIN + ModelInferRequest(id="last").SerializeToString(), "last"),
        (ModelInferRequest(id="a").SerializeToString() + b"\xff", ""),
        (record(3, BYTES, b"\xff"), ""),
        (record(3, VARINT, b"\x01"), ""),
    ],
)
def test_the_id_of_a_refused_message(body: bytes, found: str) -> None:
    assert refused_id(body) == found
