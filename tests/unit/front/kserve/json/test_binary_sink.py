# SPDX-License-Identifier: Apache-2.0
"""``BinarySink``: what it makes of a body, however that is cut, is what reading the whole body makes.

The threshold is lowered to a few bytes, so that small tensors are long ones.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ovms_mp.errors import MalformedPayload, NoFreeSlot, OvmsError
from ovms_mp.front.kserve.json import binary_sink
from ovms_mp.front.kserve.json.assemble import assemble, raw_request
from ovms_mp.front.kserve.json.binary import Binary, Part
from ovms_mp.front.kserve.json.binary_sink import BinarySink, InferBody
from ovms_mp.front.kserve.json.decode import decode_json
from ovms_mp.front.protobuf.arena_sink import PlacedCall
from ovms_mp.front.tensors import PlacedTensor
from ovms_mp.model.dtypes import DType
from ovms_mp.model.tensors import TensorSpec
from tests.support.sinks import ToyArena, deliver

if TYPE_CHECKING:
    from collections.abc import Iterator

SPECS = (TensorSpec.of("x", DType.FP32, ((1, 100),)),)
LONG_BYTES = 8
FLOATS = bytes(range(48))


@pytest.fixture(autouse=True, scope="module")
def _short_is_long() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(binary_sink, "SHORTEST_LONG_BYTES", LONG_BYTES)
        yield


def tensor(name: str, datatype: str, count: int, size: object) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [count], "parameters": {"binary_data_size": size}}


def body(octets: bytes, *inputs: dict[str, Any]) -> tuple[bytes, int]:
    text = json.dumps({"id": "a", "inputs": inputs}).encode()
    return text + octets, len(text)


DATA = {"name": "d", "datatype": "INT32", "shape": [2], "data": [1, 2]}
BODIES = {
    "one": body(FLOATS, tensor("x", "FP32", 12, 48)),
    "several": body(FLOATS + b"abcd" + FLOATS, tensor("x", "FP32", 12, 48), tensor("y", "UINT8", 4, 4), DATA,
                    tensor("z", "FP64", 6, 48)),
    "empty": body(FLOATS, tensor("e", "FP32", 0, 0), tensor("x", "FP32", 12, 48)),
    "strings": body(b"\x0c\0\0\0" + bytes(12), tensor("s", "BYTES", 1, 16)),
    "raw": (FLOATS, 0),
    "too few": body(FLOATS[:40], tensor("x", "FP32", 12, 48)),
    "too many": body(FLOATS + b"x", tensor("x", "FP32", 12, 48)),
    "another shape": body(FLOATS, tensor("x", "FP32", 11, 48)),
    "no size": body(FLOATS, tensor("x", "FP32", 12, "48")),
    "negative": body(FLOATS, tensor("x", "FP32", 12, -1)),
    "true": body(FLOATS, tensor("x", "FP32", 12, True)),
    "twice": body(FLOATS, tensor("x", "FP32", 6, 24), tensor("x", "FP32", 6, 24)),
    "no JSON": (b"{" + FLOATS, 20),
    "nothing": (b"{}" + FLOATS, 2),
}  # fmt: skip


def values(found: InferBody | tuple[bytes, int]) -> object:
    """Names, shapes and octets of the inputs, or the error's class and words."""
    if isinstance(found, tuple) and not isinstance(found, InferBody):
        whole, length = memoryview(found[0]), found[1]
        parsed = decode_json(whole[:length]) if length else None
        found = InferBody(parsed, [Part(whole[length:])])
    if found.parsed is None:
        request = raw_request(found.parts[0], SPECS, "m", "1")
    else:
        steps = assemble(found.parsed, Binary(found.parts), SPECS, "m", "1")
        try:
            while True:
                next(steps)
        except StopIteration as end:
            request = end.value
    shown = {}
    for name, given in request.inputs.items():
        spec = TensorSpec.of(name, given.dtype, tuple((size, size) for size in given.shape))
        place = bytearray(given.nbytes(spec))
        if place:
            given.write(spec, memoryview(place))
        shown[name] = (given.dtype, given.shape, bytes(place))
    return request.id, shown


def outcome(read: Any) -> object:
    try:
        return values(read())
    except OvmsError as error:
        return type(error), error.message


def sink_of(arena: ToyArena, octets: bytes, length: int) -> BinarySink:
    return BinarySink(len(octets), length, arena.lease, arena.let_go, arena.memory)


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("name", BODIES)
def test_however_it_is_cut_it_says_the_same(name: str, size: int) -> None:
    octets, length = BODIES[name]
    arena = ToyArena()
    sink = sink_of(arena, octets, length)
    placed: list[PlacedCall[InferBody]] = []

    def read() -> InferBody | tuple[bytes, int]:
        deliver(sink, octets, range(size, len(octets), size))
        made = sink.finish()
        if isinstance(made, bytes):
            return made, length
        placed.append(made)
        return made.call

    assert outcome(read) == outcome(lambda: (octets, length))
    sink.abort() if not placed else placed[0].release()
    assert arena.is_whole


@pytest.mark.parametrize(
    ("name", "leases"), [("one", 1), ("several", 2), ("raw", 1), ("strings", 0), ("too few", 0)]
)
def test_long_tensors_are_in_the_arena(name: str, leases: int) -> None:
    octets, length = BODIES[name]
    arena = ToyArena()
    sink = sink_of(arena, octets, length)
    deliver(sink, octets, range(5, len(octets), 5))
    made = sink.finish()

    assert len(arena.leases) == leases
    if isinstance(made, PlacedCall):
        parts = [part for part in made.call.parts if part.lease is not None]
        assert [bytes(part.octets) for part in parts] == [FLOATS] * leases
        if name == "raw":
            assert isinstance(raw_request(parts[0], SPECS, "m", "1").inputs["x"], PlacedTensor)


def test_without_room_it_is_refused_and_lets_go() -> None:
    octets, length = BODIES["several"]
    arena = ToyArena(most_leases=1)
    sink = sink_of(arena, octets, length)
    with pytest.raises(NoFreeSlot):
        deliver(sink, octets, ())
    sink.abort()
    assert arena.is_whole


def test_one_that_was_given_up_is_refused() -> None:
    octets, length = BODIES["one"]
    arena = ToyArena()
    sink = sink_of(arena, octets, length)
    deliver(sink, octets[:-1], ())
    sink.give_up()
    assert arena.is_whole
    with pytest.raises(NoFreeSlot, match="so slowly"):
        sink.feed(memoryview(octets[-1:]))


def test_what_is_no_json_is_refused_before_the_rest_has_come() -> None:
    octets, length = BODIES["no JSON"]
    sink = sink_of(ToyArena(), octets, length)
    with pytest.raises(MalformedPayload):
        deliver(sink, octets[:length], ())
