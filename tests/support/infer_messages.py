# SPDX-License-Identifier: Apache-2.0
"""ModelInferRequests byte by byte, as no protobuf library writes them, and what a reader makes of them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from ovms_mp.errors import OvmsError
from ovms_mp.front.kserve._proto.kserve_pb2 import ModelInferRequest
from ovms_mp.front.regions.tensors import RegionInput
from ovms_mp.front.tensors import BytesTensor
from ovms_mp.model.dtypes import DType, element_count
from tests.support.protobuf_messages import (
    BYTES,
    FIXED32,
    FIXED64,
    GROUP,
    GROUP_END,
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
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.front.kserve.infer_request import InferRequest, RequestedOutput
    from ovms_mp.front.tensors import GivenTensor

InferInputTensor = ModelInferRequest.InferInputTensor


# Building messages.


def head(name: str, datatype: str, shape: list[int], **fields: object) -> InferInputTensor:
    """An input without values."""
    return InferInputTensor(name=name, datatype=datatype, shape=shape, **fields)  # type: ignore[arg-type] # by name


def request(*inputs: tuple[InferInputTensor, bytes | None], **fields: object) -> bytes:
    """A request for version 3 of model ``m`` with raw values, as a protobuf library writes it; None for no entry."""
    message = ModelInferRequest(
        model_name="m",
        model_version="3",
        inputs=[proto for proto, _ in inputs],
        raw_input_contents=[raw for _, raw in inputs if raw is not None],
        **fields,  # type: ignore[arg-type] # by name
    )
    return message.SerializeToString()


# Comparing what was read.


def plain_tensor(given: GivenTensor) -> object:
    """A tensor as plain values."""
    if isinstance(given, RegionInput):
        return given.dtype, given.shape, given.place
    if isinstance(given, BytesTensor):
        assert given.strings is not None
        return given.dtype, given.shape, [bytes(string) for string in given.strings]
    return elements(given)


def plain(found: InferRequest) -> object:
    """A request as plain values."""

    def outputs(wanted: RequestedOutput) -> object:
        return wanted.name, dict(wanted.parameters)

    return (
        (found.model_name, found.model_version, found.id, typed(found.parameters)),
        {name: plain_tensor(given) for name, given in found.inputs.items()},
        [outputs(wanted) for wanted in found.outputs],
    )


def typed(parameters: object) -> dict[str, tuple[str, str]]:
    """Parameters with their types, and so that NaN equals NaN."""
    assert hasattr(parameters, "items")
    return {key: (type(value).__name__, repr(value)) for key, value in parameters.items()}


def outcome(reader: Callable[[bytes], InferRequest], body: bytes) -> object:
    """What the reader makes of the bytes: plain values, or that it refuses them.

    The message is left out: of several faults each reader may name another one.
    """
    try:
        return plain(reader(body))
    except OvmsError as error:
        return error.code if error.message else None


# Random messages.

DATATYPES = [dtype.name for dtype in DType]
CONTENTS: list[tuple[int, int, Callable[[int], bytes]]] = [
    (1, VARINT, varint),
    (2, VARINT, varint),
    (3, VARINT, varint),
    (4, VARINT, varint),
    (5, VARINT, varint),
    (6, FIXED32, float_bytes),
    (7, FIXED64, lambda number: struct.pack("<d", number)),
    (8, BYTES, lambda number: b"s" * (number % 5)),
]
OWN_FIELD = {
    "BOOL": 1,
    "INT8": 2,
    "INT16": 2,
    "INT32": 2,
    "INT64": 3,
    "UINT8": 4,
    "UINT16": 4,
    "UINT32": 4,
    "UINT64": 5,
    "FP32": 6,
    "FP64": 7,
    "BYTES": 8,
}


@st.composite
def parameters(draw: st.DrawFn, field: int) -> bytes:
    """An entry of a map of parameters."""
    choice = draw(
        st.sampled_from(
            [
                record(1, VARINT, b"\x01"),
                record(2, VARINT, varint(draw(numbers))),
                record(3, BYTES, draw(names).encode()),
                record(4, FIXED64, struct.pack("<d", draw(st.floats()))),
                record(5, VARINT, varint(draw(numbers))),
            ]
        )
    )
    key = draw(st.sampled_from(["timeout", "k", "shared_memory_byte_size", "ü", ""]))
    if field == 4 and draw(rarely):
        key = "shared_memory_region"
    if draw(rarely):
        choice = draw(st.sampled_from([b"", choice + record(1, VARINT, b"\x00"), record(9, VARINT, b"\x01")]))
    pair = [record(1, BYTES, key.encode()), record(2, BYTES, choice)]
    return record(field, BYTES, draw(messages(pair)), draw(surpluses))


@st.composite
def contents(draw: st.DrawFn, datatype: str, count: int) -> list[bytes]:
    """About ``count`` values in the datatype's field or another one, packed or not, in pieces."""
    own = [entry for entry in CONTENTS if entry[0] == OWN_FIELD.get(datatype, 6)]
    field, kind, encode = draw(st.sampled_from(CONTENTS if draw(rarely) else own))
    size = max(0, count + draw(st.sampled_from([-1, 1]))) if draw(rarely) else count
    values = [encode(draw(numbers if draw(rarely) else st.integers(0, 127))) for _ in range(size)]
    if kind == BYTES or draw(rarely):
        return [record(field, kind, value) for value in values]
    cut = size // 2 if draw(rarely) else 0
    pieces = [values[:cut], values[cut:]] if cut else [values]
    return [record(field, BYTES, b"".join(piece), draw(surpluses)) for piece in pieces]


def raw_values(datatype: str, count: int, size: int) -> bytes:
    """An entry of ``raw_input_contents``."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", number % 4) + b"abcd"[: number % 4] for number in range(size))
    itemsize = DType[datatype].itemsize if datatype in DATATYPES else 1
    return bytes(number & 1 for number in range(size * itemsize))


@st.composite
def inputs(draw: st.DrawFn, *, is_raw: bool) -> tuple[bytes, bytes]:
    """An input, valid more often than not, and its raw values."""
    datatype = draw(st.sampled_from([*DATATYPES, "FP32", "FP32", "FP32"]))
    if draw(rarely):
        datatype = draw(st.sampled_from(["", "fp32", "F\xff"]))
    shape = draw(st.lists(st.sampled_from([0, 1, 1, 2, 3, 3]), max_size=3))
    if draw(rarely):
        shape.append(draw(st.sampled_from([-1, 2**40, 2**63 - 1])))
    count = max(0, min(element_count(shape), 27))
    sizes = b"".join(map(varint, shape))
    is_odd: bool = draw(rarely)
    packed = [record(3, VARINT, varint(size)) for size in shape] if is_odd else [record(3, BYTES, sizes)]
    has_shape: bool = bool(shape) or draw(st.booleans())
    many: int = draw(st.sampled_from([0, 0, 0, 0, 1, 2]))
    records = [
        record(1, BYTES, draw(names).encode(), draw(surpluses)),
        record(2, BYTES, datatype.encode("latin-1"), draw(surpluses)),
        *(packed if has_shape else []),
        *[draw(parameters(4)) for _ in range(many)],
    ]
    has_contents: bool = draw(rarely) == is_raw
    if has_contents:
        values = draw(contents(datatype, count))
        records.append(record(5, BYTES, draw(messages(values)), draw(surpluses)))
    size = max(0, count + draw(st.sampled_from([-1, 1]))) if draw(rarely) else count
    return draw(messages(records)), raw_values(datatype, count, size)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A ``ModelInferRequest`` that is valid more often than not."""
    is_raw = draw(st.booleans()) or draw(st.booleans())
    records = [record(1, BYTES, draw(names).encode(), draw(surpluses))]
    if draw(st.booleans()):
        records.append(record(2, BYTES, b"3", draw(surpluses)))
    if draw(st.booleans()):
        records.append(record(3, BYTES, draw(names).encode(), draw(surpluses)))
    records += [draw(parameters(4)) for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2])))]
    raws: list[bytes] = []
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 2, 0]))):
        proto, raw = draw(inputs(is_raw=is_raw))
        records.append(record(5, BYTES, proto, draw(surpluses)))
        raws.append(raw)
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        wanted = [record(1, BYTES, draw(names).encode())]
        if draw(rarely):
            wanted.append(draw(parameters(2)))
        records.append(record(6, BYTES, draw(messages(wanted)), draw(surpluses)))
    if is_raw:
        records += [record(7, BYTES, raw, draw(surpluses)) for raw in raws]
        if draw(rarely):
            records.append(record(7, BYTES, b"\x01"))
    return draw(messages(records))


# Parts of plain messages, and odd ones made of them.

NAME_X = record(1, BYTES, b"x")
FP32_2 = NAME_X + record(2, BYTES, b"FP32") + record(3, BYTES, b"\x02")
RAW_2 = record(7, BYTES, struct.pack("<2f", 1, 2))
FLOATS = record(6, BYTES, struct.pack("<2f", 1, 2))
MODEL = record(1, BYTES, b"m")


def entry(proto: bytes) -> bytes:
    """An input in a request."""
    return record(5, BYTES, proto)


def parameter(field: int, key: bytes, choice: bytes) -> bytes:
    """An entry of a map of parameters."""
    return record(field, BYTES, record(1, BYTES, key) + record(2, BYTES, choice))


TRUE = record(1, VARINT, b"\x01")
K_TRUE = record(1, BYTES, b"k") + record(2, BYTES, TRUE)
REGION = parameter(4, b"shared_memory_region", record(3, BYTES, b"r")) + parameter(
    4, b"shared_memory_byte_size", record(2, VARINT, b"\x08")
)
ODDITIES = {
    "raw before its input": MODEL + RAW_2 + entry(FP32_2),
    "model twice": MODEL + entry(FP32_2) + RAW_2 + record(1, BYTES, b"n"),
    "name twice in an input": MODEL + entry(FP32_2 + record(1, BYTES, b"y")) + RAW_2,
    "shape in two parts": MODEL + entry(FP32_2 + record(3, BYTES, b"\x01")) + RAW_2,
    "shape one by one": MODEL
    + entry(FP32_2[: -len(record(3, BYTES, b"\x02"))] + record(3, VARINT, b"\x02"))
    + RAW_2,
    "the same input twice": MODEL + entry(FP32_2) * 2 + RAW_2 * 2,
    "the same input twice, one in a region": MODEL + entry(FP32_2) + entry(FP32_2 + REGION) + RAW_2,
    "one entry too many": MODEL + entry(FP32_2) + RAW_2 * 2,
    "one entry too few": MODEL + entry(FP32_2) + entry(record(1, BYTES, b"y") + FP32_2[3:]) + RAW_2,
    "no values": MODEL + entry(FP32_2),
    "no values, no elements": MODEL + entry(NAME_X + record(2, BYTES, b"FP32") + record(3, BYTES, b"\x00")),
    "both": MODEL + entry(FP32_2 + record(5, BYTES, FLOATS)) + RAW_2,
    "raw and empty contents": MODEL + entry(FP32_2 + record(5, BYTES, b"")) + RAW_2,
    "contents in two parts": MODEL + entry(FP32_2 + record(5, BYTES, record(6, BYTES, bytes(4))) * 2),
    "contents in the wrong field": MODEL + entry(FP32_2 + record(5, BYTES, record(7, BYTES, bytes(16)))),
    "contents in two fields": MODEL + entry(FP32_2 + record(5, BYTES, FLOATS + record(2, BYTES, b"\x01"))),
    "a float and a quarter": MODEL + entry(FP32_2 + record(5, BYTES, record(6, BYTES, bytes(5)))),
    "narrow floats in contents": MODEL + entry(NAME_X + record(2, BYTES, b"FP16") + record(5, BYTES, FLOATS)),
    "in a region": MODEL + entry(FP32_2 + REGION),
    "in a region of unknown size": MODEL
    + entry(FP32_2 + parameter(4, b"shared_memory_region", record(3, BYTES, b"r"))),
    "in a region, with contents": MODEL + entry(FP32_2 + REGION + record(5, BYTES, FLOATS)),
    "in a region, with an entry": MODEL + entry(FP32_2 + REGION) + RAW_2,
    "one in a region, the other raw": MODEL
    + entry(FP32_2 + REGION)
    + entry(record(1, BYTES, b"y") + FP32_2[3:])
    + RAW_2,
    "an integer too large": MODEL
    + entry(NAME_X + record(2, BYTES, b"INT8") + record(5, BYTES, record(2, BYTES, varint(300)))),
    "a parameter without value": MODEL + parameter(4, b"k", b"") + entry(FP32_2) + RAW_2,
    "a parameter with two values": MODEL
    + parameter(4, b"k", record(1, VARINT, b"\x01") + record(3, BYTES, b"v"))
    + entry(FP32_2)
    + RAW_2,
    "a parameter with an unknown field": MODEL
    + record(
        4,
        BYTES,
        record(1, BYTES, b"k") + record(2, BYTES, record(1, VARINT, b"\x01")) + record(9, VARINT, b"\x01"),
    )
    + entry(FP32_2)
    + RAW_2,
    "a parameter's value in two parts": MODEL
    + record(
        4,
        BYTES,
        record(1, BYTES, b"k") + record(2, BYTES, record(1, VARINT, b"\x01")) + record(2, BYTES, b""),
    )
    + entry(FP32_2)
    + RAW_2,
    "a parameter twice": MODEL
    + parameter(4, b"k", record(1, VARINT, b"\x01"))
    + parameter(4, b"k", record(1, VARINT, b"\x00"))
    + entry(FP32_2)
    + RAW_2,
    "strings": MODEL
    + entry(NAME_X + record(2, BYTES, b"BYTES") + record(3, BYTES, b"\x02"))
    + record(7, BYTES, b"\x01\x00\x00\x00a\x00\x00\x00\x00"),
    "strings, cut": MODEL
    + entry(NAME_X + record(2, BYTES, b"BYTES") + record(3, BYTES, b"\x02"))
    + record(7, BYTES, b"\x01\x00\x00\x00a\x00\x00\x00"),
    "a string that ends nowhere": MODEL
    + entry(NAME_X + record(2, BYTES, b"BYTES") + record(3, BYTES, b"\x01"))
    + record(7, BYTES, b"\xff\xff\xff\xffa"),
    "no output": MODEL + entry(FP32_2) + record(6, BYTES, b"") + RAW_2,
    "an unknown field": MODEL + entry(FP32_2) + record(100, BYTES, b"abc") + RAW_2,
    "an unknown group": MODEL + entry(FP32_2) + varint(9 << 3 | GROUP) + RAW_2,
    "the number 0 in an unknown group": MODEL
    + entry(FP32_2)
    + varint(9 << 3 | GROUP)
    + b"\x00\x01\x01abcdefgh\x05abcd"
    + varint(9 << 3 | GROUP_END)
    + RAW_2,
    "raw as a number": MODEL + entry(FP32_2) + record(7, VARINT, b"\x01"),
}
"""Cases that random messages meet too rarely."""
