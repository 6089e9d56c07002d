# SPDX-License-Identifier: Apache-2.0
"""``InferSink``: what it makes of a message, however that is cut, is what ``decode_infer`` makes of the whole.

The threshold is lowered to a few bytes, so that the small tensors of the generated messages are long ones.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovms_mp.errors import NoFreeSlot, OvmsError
from ovms_mp.front.kserve.protobuf import infer_sink
from ovms_mp.front.kserve.protobuf.decode import decode_infer
from ovms_mp.front.kserve.protobuf.infer_sink import InferSink
from ovms_mp.front.tensors import PlacedTensor
from tests.support.infer_messages import (
    FP32_2,
    MODEL,
    ODDITIES,
    RAW_2,
    entry,
    head,
    plain,
    request,
    requests,
)
from tests.support.protobuf_messages import BYTES, broken, record
from tests.support.sinks import ToyArena, assert_in_place, cut_places, cuts_of, deliver, in_place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LONG_BYTES = 3


@pytest.fixture(autouse=True, scope="module")
def _short_is_long() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(infer_sink, "SHORTEST_LONG_BYTES", LONG_BYTES)
        yield


def of_whole(body: bytes) -> object:
    """What the message is at once: plain values, or the error's class and words."""
    try:
        return plain(decode_infer(body))
    except OvmsError as error:
        return type(error), error.message


def of_pieces(body: bytes, cuts: Sequence[int]) -> object:
    """The same by way of a sink, with everything that must hold on the way."""
    arena = ToyArena()
    sink = arena.sink(InferSink, body)
    _, direct = deliver(sink, body, cuts)
    assert direct == sum(lease.nbytes for lease in arena.leases)
    placed = sink.finish()
    if isinstance(placed, bytes):
        assert placed == body
        assert arena.is_whole
        return of_whole(body)
    found = plain(placed.call)
    numeric = [given for given in placed.call.inputs.values() if isinstance(given, PlacedTensor)]
    if len(numeric) == len(placed.leases):  # Strings borrow from their place without being it.
        assert_in_place(placed, placed.call.inputs, arena)
    placed.release()
    assert arena.is_whole
    return found


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(requests(), cut_places)
def test_equal_on_valid_and_odd_messages(body: bytes, places: list[int]) -> None:
    expected = of_whole(body)
    for cuts in ([], cuts_of(body, places), list(range(1, len(body)))):
        assert of_pieces(body, cuts) == expected


PLAIN = request((head("x", "FP32", [2, 2]), bytes(range(16))), (head("y", "UINT8", [3]), b"abc"))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(broken(st.one_of(st.just(PLAIN), requests())), cut_places)
def test_equal_on_broken_messages(body: bytes, places: list[int]) -> None:
    expected = of_whole(body)
    for cuts in ([], cuts_of(body, places), list(range(1, len(body)))):
        assert of_pieces(body, cuts) == expected


FP64_2 = record(1, BYTES, b"y") + record(2, BYTES, b"FP64") + record(3, BYTES, b"\x02")
RAW_4 = record(7, BYTES, struct.pack("<2d", 3, 4))
IN_PLACE = {
    "as libraries write it": (MODEL + entry(FP32_2) + RAW_2, 8),
    "no model": (entry(FP32_2) + RAW_2, 8),
    "model behind": (entry(FP32_2) + RAW_2 + MODEL, 8),
    "values first": (RAW_2 + MODEL + entry(FP32_2), 8),
    "outputs behind": (MODEL + entry(FP32_2) + RAW_2 + record(6, BYTES, record(1, BYTES, b"z")), 8),
    "two of them": (MODEL + entry(FP32_2) + entry(FP64_2) + RAW_2 + RAW_4, 24),
    "inputs and values in turns": (MODEL + entry(FP32_2) + RAW_2 + entry(FP64_2) + RAW_4, 24),
    "a short one between": (
        MODEL
        + entry(FP32_2)
        + entry(record(1, BYTES, b"s") + record(2, BYTES, b"INT8"))
        + entry(FP64_2)
        + RAW_2
        + record(7, BYTES, b"\x05")
        + RAW_4,
        24,
    ),
}


@pytest.mark.parametrize("what", IN_PLACE)
def test_plain_messages_are_received_in_place(what: str) -> None:
    """Wherever they are cut, in two pieces or in single bytes."""
    body, nbytes = IN_PLACE[what]
    expected = of_whole(body)
    for cuts in ([], *([cut] for cut in range(len(body) + 1)), list(range(1, len(body)))):
        arena = ToyArena()
        sink = arena.sink(InferSink, body)
        assert deliver(sink, body, cuts) == (len(body) - nbytes, nbytes)
        placed = in_place(sink.finish())
        assert sum(lease.nbytes for lease in placed.leases) == nbytes
        assert plain(placed.call) == expected
        assert_in_place(placed, placed.call.inputs, arena)
        placed.release()
        assert arena.is_whole


NOT_IN_PLACE = {
    **ODDITIES,
    "an entry of another size": MODEL + entry(FP32_2) + record(7, BYTES, bytes(12)),
    "an entry beyond the message": MODEL + entry(FP32_2) + b"\x3a\x7f" + bytes(8),
    "an entry's length in six bytes": MODEL + entry(FP32_2) + record(7, BYTES, bytes(8), 5),
    "half a tag behind": MODEL + entry(FP32_2) + RAW_2 + b"\x92",
    "a tag behind": MODEL + entry(FP32_2) + RAW_2 + b"\x0a",
    "a wrong model behind": MODEL + entry(FP32_2) + RAW_2 + record(1, BYTES, b"\xff"),
    "many short fields": MODEL + entry(FP32_2) + record(6, BYTES, b"") * 1200 + RAW_2,
    "many short entries": MODEL + record(7, BYTES, b"") * 1200,
}


@pytest.mark.parametrize("what", NOT_IN_PLACE)
def test_equal_on_oddities(what: str) -> None:
    """Forms that no library writes: what counts is what protobuf makes of them."""
    body = NOT_IN_PLACE[what]
    expected = of_whole(body)
    every = range(len(body) + 1) if len(body) < 500 else range(0, len(body), 97)
    for cuts in ([], *([cut] for cut in every), list(range(1, len(body)))):
        assert of_pieces(body, cuts) == expected


def test_equal_on_every_changed_byte() -> None:
    """Each byte of a plain message in turn becomes others, disappears, or ends the message."""
    body = MODEL + entry(FP32_2) + record(6, BYTES, record(1, BYTES, b"z")) + RAW_2
    for at in range(len(body)):
        numbers = {*range(0, 256, 17), *(body[at] ^ 1 << bit for bit in range(8))}
        changed = [body[:at] + bytes([number]) + body[at + 1 :] for number in numbers]
        for odd in (*changed, body[:at] + body[at + 1 :], body[:at]):
            for cuts in ([], list(range(1, len(odd)))):
                assert of_pieces(odd, cuts) == of_whole(odd), odd.hex(" ")


def test_without_room_a_message_is_refused_and_keeps_nothing() -> None:
    body = MODEL + entry(FP32_2) + entry(FP64_2) + RAW_2 + RAW_4
    arena = ToyArena(most_leases=1)
    sink = arena.sink(InferSink, body)
    with pytest.raises(NoFreeSlot):
        deliver(sink, body, [])
    assert not arena.is_whole
    sink.abort()
    assert arena.is_whole
