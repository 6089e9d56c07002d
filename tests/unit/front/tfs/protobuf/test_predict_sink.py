# SPDX-License-Identifier: Apache-2.0
"""``PredictSink``: what it makes of a message, however that is cut, is what ``decode_predict`` makes of the whole.

The threshold is lowered to a few bytes, so that the small tensors of the generated messages are long ones.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ovms_mp.errors import MalformedPayload, NoFreeSlot, OvmsError
from ovms_mp.front.protobuf.arena_sink import SHORTEST_LONG_BYTES
from ovms_mp.front.tensors import PlacedTensor
from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import TensorProto
from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import PredictRequest
from ovms_mp.front.tfs.protobuf import predict_sink
from ovms_mp.front.tfs.protobuf.decode import decode_predict
from ovms_mp.front.tfs.protobuf.predict_sink import PredictSink
from tests.support.predict_messages import (
    DIM_2,
    FLOAT,
    FLOATS,
    ODDITIES,
    SHAPE_2,
    entry,
    plain,
    request,
    requests,
    tensor,
)
from tests.support.protobuf_messages import BYTES, GROUP, GROUP_END, VARINT, record, varint
from tests.support.sinks import ToyArena, assert_in_place, cut_places, cuts_of, deliver, in_place, undecoded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LONG_BYTES = 3


@pytest.fixture(autouse=True, scope="module")
def _short_is_long() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict_sink, "SHORTEST_LONG_BYTES", LONG_BYTES)
        yield


def of_whole(body: bytes) -> object:
    """What the message is at once: a call's plain values, or the error's class and words."""
    try:
        return plain(decode_predict(body))
    except OvmsError as error:
        return type(error), error.message


def of_pieces(body: bytes, cuts: Sequence[int]) -> object:
    """The same by way of a sink, with everything that must hold on the way."""
    arena = ToyArena()
    sink = arena.sink(PredictSink, body)
    _, direct = deliver(sink, body, cuts)
    assert direct == sum(lease.nbytes for lease in arena.leases)
    try:
        placed = sink.finish()
    except OvmsError as error:
        assert arena.is_whole, "an error keeps a lease"
        sink.abort()
        assert arena.is_whole
        return type(error), error.message
    if isinstance(placed, bytes):
        assert placed == body
        assert arena.is_whole
        return of_whole(body)
    found = plain(placed.call)
    assert_in_place(placed, placed.call.inputs, arena)
    placed.release()
    assert arena.is_whole
    return found


def test_the_threshold_is_what_the_transport_asks_for() -> None:
    """The tests lower it; nobody else does."""
    assert SHORTEST_LONG_BYTES == 32 << 10


# Held equal to the decoder of whole messages.

PLAIN = request(x=tensor(1, [2, 2], bytes(range(16))), y=tensor(1, [3], float_val=[1.0, 2.0, 3.0]))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(requests(), cut_places)
def test_equal_on_valid_and_odd_messages(body: bytes, places: list[int]) -> None:
    expected = of_whole(body)
    for cuts in ([], cuts_of(body, places), list(range(1, len(body)))):
        assert of_pieces(body, cuts) == expected


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    body=st.one_of(st.just(PLAIN), requests()),
    place=st.integers(0, 10**6),
    new=st.one_of(st.binary(max_size=3), st.sampled_from([b"\xff", b"\x80", b"\x00", b"\xff" * 5])),
    removed=st.sampled_from([0, 1, 1, 1, 2, 10**6]),
    places=cut_places,
)
@example(body=PLAIN, place=len(PLAIN), new=b"\x12\x80\x80\x80\x80\x08", removed=0, places=[])
def test_equal_on_broken_messages(
    body: bytes, place: int, new: bytes, removed: int, places: list[int]
) -> None:
    at = place % (len(body) + 1)
    broken = body[:at] + new + body[at + removed :]
    expected = of_whole(broken)
    for cuts in ([], cuts_of(broken, places), list(range(1, len(broken)))):
        assert of_pieces(broken, cuts) == expected


CONTENT = record(4, BYTES, struct.pack("<2f", 1, 2))
DOUBLE, DOUBLES = record(1, VARINT, b"\x02"), record(6, BYTES, struct.pack("<2d", 1, 2))
LONG = FLOAT + SHAPE_2 + CONTENT
SPEC = record(1, BYTES, record(1, BYTES, b"m") + record(2, BYTES, b"\x08\x03"))
IN_PLACE = {
    "content": (SPEC + entry(LONG), 8),
    "packed floats": (SPEC + entry(FLOAT + SHAPE_2 + FLOATS), 8),
    "packed doubles": (SPEC + entry(DOUBLE + SHAPE_2 + DOUBLES), 16),
    "no model": (entry(LONG), 8),
    "model behind": (entry(LONG) + SPEC, 8),
    "filter behind": (SPEC + entry(LONG) + record(3, BYTES, b"y"), 8),
    "values first": (SPEC + entry(CONTENT + SHAPE_2 + FLOAT), 8),
    "values between": (SPEC + entry(FLOAT + CONTENT + SHAPE_2), 8),
    "two of them": (SPEC + entry(LONG) + entry(DOUBLE + SHAPE_2 + DOUBLES, b"y"), 24),
    "a short one before": (
        SPEC + entry(record(1, VARINT, b"\x06") + record(4, BYTES, b"\x01"), b"s") + entry(LONG),
        8,
    ),
    "a short one behind": (
        SPEC + entry(LONG) + entry(record(1, VARINT, b"\x06") + record(4, BYTES, b"\x01"), b"s"),
        8,
    ),
    "a scalar": (SPEC + entry(DOUBLE + record(4, BYTES, bytes(8))), 8),
    "dtype and shape twice": (SPEC + entry(DOUBLE + FLOAT + SHAPE_2[:0] + record(2, BYTES, b"") + LONG), 8),
    "no key": (record(2, BYTES, record(2, BYTES, LONG)), 8),
}


@pytest.mark.parametrize("what", IN_PLACE)
def test_plain_messages_are_received_in_place(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever they are cut, in two pieces or in single bytes."""
    monkeypatch.setattr(predict_sink, "SHORTEST_LONG_BYTES", 16)
    body, nbytes = IN_PLACE[what]
    expected = of_whole(body)
    for cuts in ([], *([cut] for cut in range(len(body) + 1)), list(range(1, len(body)))):
        arena = ToyArena()
        sink = arena.sink(PredictSink, body)
        assert deliver(sink, body, cuts) == (len(body) - nbytes, nbytes)
        placed = in_place(sink.finish())
        assert sum(lease.nbytes for lease in placed.leases) == nbytes
        assert plain(placed.call) == expected
        assert_in_place(placed, placed.call.inputs, arena)
        placed.release()
        assert arena.is_whole


def groups(depth: int) -> bytes:
    """An unknown field, nested."""
    return varint(9 << 3 | GROUP) * depth + varint(9 << 3 | GROUP_END) * depth


TAG_OF_SIX_BYTES = b"\x92\x80\x80\x80\x80\x00"
NOT_IN_PLACE = {
    **ODDITIES,
    "content, then empty content": entry(LONG + record(4, BYTES, b"")),
    "content, then other content": entry(LONG + record(4, BYTES, bytes(8))),
    "short content, then content": entry(FLOAT + SHAPE_2 + record(4, BYTES, b"\0") + CONTENT),
    "content, then no floats": entry(LONG + record(5, BYTES, b"")),
    "floats, then one more": entry(FLOAT + SHAPE_2 + FLOATS + record(5, BYTES, bytes(4))),
    "floats that are doubles": entry(DOUBLE + SHAPE_2 + FLOATS),
    "doubles that are floats": entry(FLOAT + SHAPE_2 + DOUBLES),
    "compact floats": entry(FLOAT + record(2, BYTES, DIM_2 + DIM_2) + FLOATS),
    "content too long": entry(FLOAT + SHAPE_2 + record(4, BYTES, bytes(12))),
    "content too short": entry(FLOAT + SHAPE_2 + record(4, BYTES, bytes(4))),
    "negative dimension": entry(FLOAT + record(2, BYTES, record(2, BYTES, b"\x08" + varint(-1))) + CONTENT),
    "unknown rank": entry(FLOAT + record(2, BYTES, record(3, VARINT, b"\x01")) + CONTENT),
    "a string's dtype": entry(record(1, VARINT, b"\x07") + SHAPE_2 + CONTENT),
    "no dtype": entry(SHAPE_2 + CONTENT),
    "dtype 1 in ten bytes": entry(record(1, VARINT, varint(1, 9)) + SHAPE_2 + CONTENT),
    "dtype in eleven bytes": entry(record(1, VARINT, varint(1, 10)) + SHAPE_2 + CONTENT),
    "dtype beyond 32 bits": entry(record(1, VARINT, varint(2**40 + 1)) + SHAPE_2 + CONTENT),
    "dimension's name is no text": entry(
        FLOAT + record(2, BYTES, record(2, BYTES, b"\x08\x02" + record(2, BYTES, b"\xff"))) + CONTENT
    ),
    "name is no text": entry(LONG, b"\xff"),
    "name is half a text": entry(LONG, b"\xed\xa0\x80"),
    "names twice": record(2, BYTES, record(1, BYTES, b"") + record(1, BYTES, b"x") + record(2, BYTES, LONG)),
    "the same name, long and long": entry(LONG) + entry(FLOAT + SHAPE_2 + FLOATS),
    "the same name, long and short": entry(LONG) + entry(record(1, VARINT, b"\x06")),
    "the same name, short and long": entry(record(1, VARINT, b"\x06")) + entry(LONG),
    "no name, and an empty one": record(2, BYTES, record(2, BYTES, LONG)) + entry(LONG, b""),
    "length in six bytes": record(2, BYTES, entry(LONG)[2:], 5),
    "tensor's length in six bytes": record(2, BYTES, record(1, BYTES, b"x") + record(2, BYTES, LONG, 5)),
    "values' length in six bytes": entry(FLOAT + SHAPE_2 + record(4, BYTES, bytes(8), 5)),
    "tag in six bytes": TAG_OF_SIX_BYTES + entry(LONG)[1:],
    "tensor's tag in six bytes": record(
        2, BYTES, record(1, BYTES, b"x") + TAG_OF_SIX_BYTES + varint(18) + LONG
    ),
    "tensor beyond its entry": b"\x12\x10" + entry(LONG)[2:] + bytes(40),
    "values beyond their tensor": entry(FLOAT + SHAPE_2 + b"\x22\x09" + bytes(8)) + bytes(40),
    "values beyond the message": entry(FLOAT + SHAPE_2 + b"\x22\x7f" + bytes(8)),
    "an unknown field": entry(LONG + record(9, BYTES, b"abc")),
    "an unknown group": entry(LONG + groups(1)),
    "an open group behind": entry(LONG) + varint(9 << 3 | GROUP),
    "an open group in the tensor": entry(LONG + varint(9 << 3 | GROUP)),
    "wrong bytes behind": entry(LONG) + b"\x0a\x05ab",
    "half a tag behind": entry(LONG) + b"\x92",
    "a tag behind": entry(LONG) + b"\x12",
    "a wrong model behind": entry(LONG) + record(1, BYTES, record(1, BYTES, b"\xff")),
    "a wrong tensor behind": entry(LONG) + entry(record(1, VARINT, b"\x07"), b"y"),
    "a tensor of 4 bytes for 8 behind": entry(LONG)
    + entry(FLOAT + SHAPE_2 + record(4, BYTES, bytes(4)), b"y"),
    "many short fields": SPEC + record(3, BYTES, b"y") * 1200 + entry(LONG),
    **{
        f"groups {depth} deep": entry(FLOAT + record(2, BYTES, groups(depth) + DIM_2) + CONTENT)
        for depth in (60, 94, 95, 96, 97, 98, 99, 101)
    },
}


@pytest.mark.parametrize("what", NOT_IN_PLACE)
def test_equal_on_oddities(what: str) -> None:
    """Forms that no library writes: what counts is what protobuf makes of them."""
    body = NOT_IN_PLACE[what]
    expected = of_whole(body)
    every = range(len(body) + 1) if len(body) < 500 else range(0, len(body), 97)
    for cuts in ([], *([cut] for cut in every), list(range(1, len(body)))):
        assert of_pieces(body, cuts) == expected


@pytest.mark.parametrize("values", [CONTENT, FLOATS], ids=["content", "floats"])
def test_equal_on_every_changed_byte(values: bytes) -> None:
    """Each byte of a plain message in turn becomes others, disappears, or ends the message."""
    body = SPEC + entry(FLOAT + SHAPE_2 + values) + record(3, BYTES, b"y")
    for at in range(len(body)):
        numbers = {*range(0, 256, 17), *(body[at] ^ 1 << bit for bit in range(8))}
        changed = [body[:at] + bytes([number]) + body[at + 1 :] for number in numbers]
        for broken in (*changed, body[:at] + body[at + 1 :], body[:at]):
            for cuts in ([], list(range(1, len(broken)))):
                assert of_pieces(broken, cuts) == of_whole(broken), broken.hex(" ")


# Leases.

TWO = SPEC + entry(LONG) + entry(DOUBLE + SHAPE_2 + DOUBLES, b"y") + record(3, BYTES, b"z")


@pytest.mark.parametrize("is_single", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("most_leases", [0, 1])
def test_no_room_ends_the_message(most_leases: int, is_single: bool) -> None:
    """At the first octet behind the length that does not fit; nothing stays leased."""
    arena = ToyArena(most_leases=most_leases)
    sink = arena.sink(PredictSink, TWO)
    with pytest.raises(NoFreeSlot):
        deliver(sink, TWO, list(range(1, len(TWO))) if is_single else [])
    sink.abort()
    assert arena.is_whole
    assert len(arena.leases) == most_leases


def test_abort_anywhere_gives_everything_back() -> None:
    for end in range(len(TWO) + 1):
        arena = ToyArena()
        sink = arena.sink(PredictSink, TWO)
        deliver(sink, TWO[:end], [])
        sink.abort()
        assert arena.is_whole
        sink.abort()
    assert len(arena.leases) == 2


def test_leases_are_as_long_as_the_values_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as long as the message, and none for short tensors."""
    monkeypatch.setattr(predict_sink, "SHORTEST_LONG_BYTES", 16)
    arena = ToyArena()
    body = SPEC + entry(LONG) + entry(record(1, VARINT, b"\x06") + record(4, BYTES, b"\x01"), b"s")
    sink = arena.sink(PredictSink, body)
    deliver(sink, body, [])
    placed = in_place(sink.finish())
    assert [lease.nbytes for lease in arena.leases] == [8]
    assert not isinstance(placed.call.inputs["s"], PlacedTensor)
    placed.release()


def test_a_refused_message_keeps_no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_sink, "SHORTEST_LONG_BYTES", 16)
    body = entry(LONG) + entry(record(1, VARINT, b"\x06") + record(4, BYTES, b"\x01\x02"), b"s")
    arena = ToyArena()
    sink = arena.sink(PredictSink, body)
    deliver(sink, body, [])
    with pytest.raises(MalformedPayload, match="'s'"):
        decode_predict(undecoded(sink.finish()))
    assert len(arena.leases) == 1
    assert arena.is_whole


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 9, 10]), st.integers(1, 40), st.booleans()), max_size=6),
    cut_places,
)
def test_what_libraries_write_is_received_in_place(
    inputs: list[tuple[int, int, bool]], places: list[int]
) -> None:
    """Several inputs as protobuf writes them, in content or floats and doubles in their own fields."""
    protos: dict[str, TensorProto] = {}
    expected = 0
    for number, (dtype, count, is_typed) in enumerate(inputs):
        itemsize = {1: 4, 2: 8, 3: 4, 9: 8, 10: 1}[dtype]
        if is_typed and dtype in (1, 2):
            values = [float(value) for value in range(count)]
            typed = {"float_val": values} if dtype == 1 else {"double_val": values}
            protos[f"i{number}"] = tensor(dtype, [count], **typed)
        else:
            protos[f"i{number}"] = tensor(dtype, [count], bytes(count * itemsize))
        expected += count * itemsize
    body = PredictRequest(inputs=protos).SerializeToString()
    arena = ToyArena()
    sink = arena.sink(PredictSink, body)
    assert deliver(sink, body, cuts_of(body, places))[1] == expected
    placed = in_place(sink.finish())
    assert plain(placed.call) == of_whole(body)
    assert sum(lease.nbytes for lease in placed.leases) == expected
    placed.release()
    assert arena.is_whole
