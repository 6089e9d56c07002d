# SPDX-License-Identifier: Apache-2.0
"""The reader of long requests: it reads what the generated classes read, refuses what costs much, and goes in steps.

Work is counted (steps, fields, traced memory, processor time for twice the size), never timed on the wall.
"""

from __future__ import annotations

import asyncio
import struct
import time
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ovms_mp.errors import MalformedPayload, OvmsError, ShapeMismatch
from ovms_mp.front.protobuf import packed
from ovms_mp.front.protobuf.parts import LONGEST_PARSED_BYTES, MOST_NAMES
from ovms_mp.front.protobuf.records import MOST_FIELDS, FieldReader
from ovms_mp.front.tfs.protobuf import decode_long
from ovms_mp.front.tfs.protobuf.decode import (
    PredictCall,
    decode_predict,
    decode_predict_in_turns,
    parse_predict,
)
from ovms_mp.front.tfs.protobuf.decode_long import read_long
from tests.support.predict_messages import (
    FLOAT,
    FLOATS,
    ODDITIES,
    SHAPE_2,
    entry,
    outcome,
    request,
    requests,
    tensor,
)
from tests.support.protobuf_messages import (
    BYTES,
    FIXED32,
    GROUP,
    GROUP_END,
    VARINT,
    record,
    values_of,
    varint,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.front.tensors import GivenTensor

MEBIBYTE = 1 << 20
PLAIN = request(x=tensor(1, [2, 2], bytes(16)), y=tensor(1, [3], float_val=[1.0, 2.0]))


def read(body: bytes) -> PredictCall:
    """All steps of the reader, whatever the length."""
    steps = read_long(body)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found = end.value
            spec = found.spec
            return PredictCall(
                spec.name,
                spec.version.value or None,
                spec.version_label,
                spec.signature_name,
                found.inputs,
                found.output_filter,
            )


@settings(max_examples=150, deadline=None)
@given(requests())
def test_it_reads_what_the_classes_read(body: bytes) -> None:
    assert outcome(read, body) == outcome(parse_predict, body)


@settings(max_examples=150, deadline=None)
@given(
    body=st.one_of(st.just(PLAIN), requests()),
    place=st.integers(0, 10**6),
    new=st.one_of(st.binary(max_size=3), st.sampled_from([b"\xff", b"\x80", b"\x00", b"\xff" * 5])),
    removed=st.sampled_from([0, 1, 1, 1, 2, 10**6]),
)
@example(body=PLAIN, place=len(PLAIN), new=b"\x12\x80\x80\x80\x80\x08", removed=0)
@example(body=b"\x12\x02\x0a\x7f", place=0, new=b"", removed=0)
def test_it_refuses_what_the_classes_refuse(body: bytes, place: int, new: bytes, removed: int) -> None:
    at = place % (len(body) + 1)
    broken = body[:at] + new + body[at + removed :]
    assert outcome(read, broken) == outcome(parse_predict, broken)


@pytest.mark.parametrize("body", ODDITIES.values(), ids=ODDITIES)
def test_oddities(body: bytes) -> None:
    assert outcome(read, body) == outcome(parse_predict, body)


@pytest.mark.parametrize(
    "values", [FLOATS, record(4, BYTES, struct.pack("<2f", 1, 2)), record(7, BYTES, b"\x05\xff\x01")]
)
def test_every_changed_byte(values: bytes) -> None:
    spec = record(1, BYTES, record(1, BYTES, b"m") + record(2, BYTES, b"\x08\x03"))
    body = spec + entry(FLOAT + SHAPE_2 + values) + record(3, BYTES, b"y")
    for at in range(len(body)):
        changed = [body[:at] + bytes([byte]) + body[at + 1 :] for byte in range(256)]
        for broken in (*changed, body[:at] + body[at + 1 :], body[:at]):
            assert outcome(read, broken) == outcome(parse_predict, broken), broken.hex(" ")


@pytest.mark.parametrize("step_bytes", [1, 2, 7, 11, 64])
@pytest.mark.parametrize(
    ("dtype", "field", "number"),
    [(3, "int_val", 7), (6, "int_val", 7), (9, "int64_val", 10), (10, "bool_val", 11), (19, "half_val", 13),
     (22, "uint32_val", 16), (23, "uint64_val", 17)],
)  # fmt: skip
def test_packed_numbers_of_all_lengths(
    dtype: int, field: str, number: int, step_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers of one to ten bytes, padded ones too, wherever a step ends; alone or in several fields."""
    monkeypatch.setattr(packed, "_STEP_BYTES", max(step_bytes, 10))
    numbers = [0, 1, 127] * 3 if field == "int_val" else [0, 1, 127, 128, 300, 2**14, 2**15 - 1]
    if field == "int64_val":
        numbers += [-1, -(2**63), 2**63 - 1]
    if field in ("uint64_val", "uint32_val"):
        numbers += [2**32 - 1]
    coded = [
        varint(value, index % 3 if value >= 0 and value < 2**40 else 0) for index, value in enumerate(numbers)
    ]
    half = len(coded) // 2
    head = record(1, VARINT, varint(dtype)) + record(2, BYTES, record(2, BYTES, b"\x08" + varint(len(coded))))
    for values in (
        record(number, BYTES, b"".join(coded)),
        record(number, BYTES, b"".join(coded[:half])) + record(number, BYTES, b"".join(coded[half:])),
        b"".join(record(number, VARINT, value) for value in coded),
    ):
        body = entry(head + values)
        assert outcome(read, body) == outcome(parse_predict, body)
        assert not isinstance(outcome(read, body), type)


def long_shape(dimensions: int) -> bytes:
    return record(2, BYTES, record(2, BYTES, b"\x08\x01") * dimensions)


def named(extra: bytes) -> bytes:
    return record(1, BYTES, record(1, BYTES, b"m")) + extra


N = 400_000
BOMBS = {
    "names in the output filter": named(b"\x1a\x00" * N),
    "empty entries": named(b"\x12\x00" * N),
    "entries with an empty tensor": named(b"\x12\x02\x12\x00" * N),
    "one key again and again": named(entry(FLOAT + SHAPE_2 + FLOATS) * (N // 10)),
    "unknown fields": named(record(9, VARINT, b"\x01") * N),
    "unknown fields in a tensor": named(entry(record(100, VARINT, b"\x01") * N)),
    "unknown groups": named((varint(9 << 3 | GROUP) + varint(9 << 3 | GROUP_END)) * N),
    "groups in groups": named(varint(9 << 3 | GROUP) * N + varint(9 << 3 | GROUP_END) * N),
    "fields in a group": named(varint(9 << 3 | GROUP) + b"\x08\x01" * N + varint(9 << 3 | GROUP_END)),
    "dimensions": named(entry(FLOAT + long_shape(N))),
    "dimensions in many shapes": named(entry(FLOAT + record(2, BYTES, record(2, BYTES, b"")) * N)),
    "model specs": named(record(1, BYTES, record(1, BYTES, b"m")) * N),
    "strings": named(entry(record(1, VARINT, b"\x07") + SHAPE_2 + record(8, BYTES, b"") * N)),
    "numbers one by one": named(entry(FLOAT + SHAPE_2 + record(7, VARINT, b"\x01") * N)),
    "values in many tensors of an entry": named(
        record(2, BYTES, record(1, BYTES, b"x") + record(2, BYTES, record(5, FIXED32, bytes(4))) * N)
    ),
    "a long name": named(record(3, BYTES, b"y" * N)),
    "a long key": named(entry(FLOAT, b"y" * N)),
    "values for no shape": named(entry(FLOAT + SHAPE_2 + record(5, BYTES, bytes(4 * N)))),
    "integers for no shape": named(entry(record(1, VARINT, b"\x09") + SHAPE_2 + record(10, BYTES, bytes(N)))),
    "values of another field": named(entry(FLOAT + SHAPE_2 + record(10, BYTES, bytes(N)))),
    "content shorter than its shape": named(entry(FLOAT + long_shape(3) + record(4, BYTES, bytes(N)))),
    "a number without end": named(entry(FLOAT + SHAPE_2 + record(7, BYTES, b"\xff" * N))),
}
"""What unpacks to much: each is refused, at once or after a bounded number of fields."""


@pytest.mark.parametrize("what", BOMBS)
def test_a_bomb_is_refused_within_its_own_size(what: str) -> None:
    """Whatever is repeated, memory stays below a small multiple of the message, and others have their turns."""
    body = BOMBS[what]
    assert len(body) > LONGEST_PARSED_BYTES
    tracemalloc.start()
    try:
        with pytest.raises(OvmsError) as caught:
            decode_predict(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.code.http_status == 400
    assert len(caught.value.message) < 500
    # A string of no length takes two bytes in the message.
    held = (4 if what == "strings" else 1) * len(body)
    assert peak < held + 2 * MEBIBYTE, f"{peak} bytes for {len(body)}"


@pytest.mark.parametrize("what", ["unknown fields in a tensor", "numbers one by one"])
def test_fields_are_counted(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is given up after so many fields, however many there are."""
    read_fields: list[FieldReader] = []

    class Counting(FieldReader):
        def __init__(self, body: bytes, message_name: str) -> None:
            super().__init__(body, message_name)
            read_fields.append(self)

    monkeypatch.setattr(decode_long, "FieldReader", Counting)
    with pytest.raises(MalformedPayload, match=f"more than {MOST_FIELDS} protobuf fields"):
        decode_predict(BOMBS[what])
    assert read_fields[0].left == -1


def test_packed_numbers_cost_what_they_weigh() -> None:
    """Twice the numbers take about twice the processor time, and memory for the array alone."""

    def cost_ns(count: int) -> int:
        head = record(1, VARINT, b"\x09") + record(2, BYTES, record(2, BYTES, b"\x08" + varint(count)))
        body = named(entry(head + record(10, BYTES, b"\x05\x85\x01" * (count // 2))))
        least = 1 << 62
        for _ in range(3):
            started = time.process_time_ns()
            call = decode_predict(body)
            least = min(least, time.process_time_ns() - started)
        assert int(np.asarray(values_of(call.inputs["x"])).sum()) == (5 + 133) * (count // 2)
        return least

    small, large = cost_ns(1 << 19), cost_ns(1 << 21)
    assert large < 4 * 2.5 * small

    count = 1 << 20
    head = record(1, VARINT, b"\x09") + record(2, BYTES, record(2, BYTES, b"\x08" + varint(count)))
    body = named(entry(head + record(10, BYTES, b"\x05" * count)))
    tracemalloc.start()
    try:
        decode_predict(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * count + 3 * MEBIBYTE


@pytest.mark.parametrize(
    "values",
    [record(10, BYTES, b"\x05" * MEBIBYTE), record(7, VARINT, b"\x05") * (MOST_FIELDS - 100)],
    ids=["packed", "one by one"],
)
def test_others_have_their_turn(values: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """With turns of no length, everybody else goes on between any two steps."""
    monkeypatch.setattr("ovms_mp.front.protobuf.turns._TURN_S", 0.0)
    count = MEBIBYTE if values[0] == 10 << 3 | BYTES else MOST_FIELDS - 100
    dtype = b"\x09" if count == MEBIBYTE else b"\x03"
    head = record(1, VARINT, dtype) + record(2, BYTES, record(2, BYTES, b"\x08" + varint(count)))
    body = named(entry(head + values))
    turns = 0

    async def others(reading: asyncio.Task[PredictCall]) -> int:
        nonlocal turns
        while not reading.done():
            turns += 1
            await asyncio.sleep(0)
        return len(values_of(reading.result().inputs["x"]))

    async def both() -> int:
        return await others(asyncio.ensure_future(decode_predict_in_turns(body, lambda *_: None)))

    assert asyncio.run(both()) == count
    assert turns > 15


def test_a_shape_that_the_model_lacks_is_refused_before_values_are_made() -> None:
    count = 4 * MEBIBYTE
    head = record(1, VARINT, b"\x09") + record(2, BYTES, record(2, BYTES, b"\x08" + varint(count)))
    # The model's name comes last, as it may.
    body = entry(head + record(10, BYTES, b"\x05" * count)) + named(b"")
    asked: list[tuple[str, int, tuple[int, ...]]] = []

    def check(name: str, version: int, given_tensors: Mapping[str, GivenTensor]) -> None:
        asked.append((name, version, given_tensors["x"].shape))
        raise ShapeMismatch("not this one")

    async def refused() -> None:
        with pytest.raises(ShapeMismatch):
            await decode_predict_in_turns(body, check)

    tracemalloc.start()
    try:
        asyncio.run(refused())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert asked == [("m", 0, (count,))]
    assert peak < 2 * MEBIBYTE


def test_what_serves_is_not_refused() -> None:
    """The bounds are far from what clients send: many inputs, many names, values one by one."""
    tensors = {f"input_{number}": tensor(1, [1, 10], bytes(40)) for number in range(500)}
    call = decode_predict(request(**tensors) + record(3, BYTES, b"output") * MOST_NAMES)
    assert len(call.inputs) == 500
    assert len(call.output_filter) == MOST_NAMES

    values = record(5, FIXED32, struct.pack("<f", 1.5)) * 60_000
    head = FLOAT + record(2, BYTES, record(2, BYTES, b"\x08" + varint(60_000)))
    given_tensor = decode_predict(named(entry(head + values))).inputs["x"]
    assert np.frombuffer(values_of(given_tensor), np.float32).tolist() == [1.5] * 60_000
