# SPDX-License-Identifier: Apache-2.0
"""A small arena for sinks of messages, and messages that come to them in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from hypothesis import strategies as st

from ovms_mp.errors import NoFreeSlot
from ovms_mp.front.infer.leases import Lease
from ovms_mp.front.protobuf.arena_sink import ArenaSink, PlacedCall
from ovms_mp.front.sinks import wanted
from ovms_mp.front.tensors import PlacedTensor
from ovms_mp.wire.allocator import ArenaAllocator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.front.infer.arrivals import Arrival
    from ovms_mp.front.sinks import MessageSink
    from ovms_mp.front.tensors import GivenTensor

CallT = TypeVar("CallT")
SinkT = TypeVar("SinkT", bound=ArenaSink[Any])  # Any: whatever the sink decodes.

ARENA_BYTES = 1 << 16


class ToyArena:
    """The real allocator on plain memory; a given number of leases can be had, then there is no room."""

    def __init__(self, size_bytes: int = ARENA_BYTES, most_leases: int = 1000) -> None:
        self.memory = memoryview(bytearray(b"\xa5" * size_bytes))
        self.leases: list[Lease] = []
        self._size_bytes = size_bytes
        self._allocator = ArenaAllocator(size_bytes)
        self._most_leases = most_leases

    def lease(self, _sink: Arrival, nbytes: int) -> Lease:
        offset = self._allocator.allocate(nbytes) if len(self.leases) < self._most_leases else None
        if offset is None:
            raise NoFreeSlot("no room")
        self.leases.append(Lease(offset, nbytes))
        return self.leases[-1]

    def let_go(self, lease: Lease) -> None:
        self._allocator.release(lease.offset_bytes)

    def sink(self, kind: type[SinkT], body: bytes) -> SinkT:
        return kind(len(body), self.lease, self.let_go, self.memory)

    @property
    def is_whole(self) -> bool:
        return self._allocator.free_bytes() == self._size_bytes


def deliver(sink: MessageSink, body: bytes, cuts: Sequence[int]) -> tuple[int, int]:
    """Give a message in pieces as a transport does; how many octets were copied by us, and received in place.

    What the sink was lent is overwritten afterwards, as the next read of a socket does.
    """
    fed = direct = 0
    for start, stop in zip([0, *cuts], [*cuts, len(body)], strict=True):
        at = start
        while at < stop:
            place = wanted(sink)
            if place is not None:
                assert len(place) > 0
                assert not place.readonly
                taken = min(len(place), stop - at)
                place[:taken] = body[at : at + taken]
                sink.advance(taken)
                left = wanted(sink)
                # Exactly the rest of this place is wanted now; behind it another one may be.
                if taken < len(place):
                    assert left is not None
                    assert len(left) == len(place) - taken
                direct += taken
            else:
                lent = bytearray(body[at:stop])
                taken = sink.feed(memoryview(lent))
                assert 1 <= taken <= len(lent)
                lent[:] = b"\xee" * len(lent)
                fed += taken
            at += taken
    return fed, direct


def assert_in_place(placed: PlacedCall[CallT], inputs: Mapping[str, GivenTensor], arena: ToyArena) -> None:
    """Values of tensors with a lease are exactly the leased memory, and no other lease is kept."""
    given = [tensor_given for tensor_given in inputs.values() if isinstance(tensor_given, PlacedTensor)]
    assert {id(tensor_given.lease) for tensor_given in given} == {id(lease) for lease in placed.leases}
    for tensor_given in given:
        lease = tensor_given.lease
        memory = arena.memory[lease.offset_bytes : lease.offset_bytes + lease.nbytes]
        values = np.frombuffer(tensor_given.values, np.uint8)
        assert len(values) == lease.nbytes
        assert values.ctypes.data == np.frombuffer(memory, np.uint8).ctypes.data


def undecoded(request: PlacedCall[CallT] | bytes) -> bytes:
    assert isinstance(request, bytes)
    return request


def in_place(request: PlacedCall[CallT] | bytes) -> PlacedCall[CallT]:
    assert isinstance(request, PlacedCall)
    return request


cut_places = st.lists(st.integers(0, 10**6), max_size=6)


def cuts_of(body: bytes, places: Sequence[int]) -> list[int]:
    """Sorted places within the message."""
    return sorted(place % (len(body) + 1) for place in places)
