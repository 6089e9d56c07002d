# SPDX-License-Identifier: Apache-2.0
"""A message that is still arriving: long tensors go straight to their place in the arena.

The sink reads along just far enough to know where the values of a long tensor begin; from there to their end it names
leased arena memory as the place for the next bytes, so the kernel's copy is the only one. Everything else is small and
collected. At the end the collected rest is decoded as if the long tensors had never been there, and they are put back
in. Wherever a message is not of the plain form that protobuf libraries write, all pieces are joined, to be decoded as a
whole: that costs a copy and is right for every message, so a sink only has to be right about what it accepts.

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from ovms_mp.errors import NoFreeSlot, OvmsError
from ovms_mp.front.protobuf.plain import NotPlain
from ovms_mp.front.protobuf.records import LONGEST_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.front.infer.arrivals import Arrival
    from ovms_mp.front.infer.leases import Lease

CallT = TypeVar("CallT")

SHORTEST_LONG_BYTES = 32 << 10
"""Of what holds values that go straight to the arena. Below it the copy costs less than the bookkeeping."""
MOST_SMALL_FIELDS = 1000
"""Fields of a request that are read one by one, here on the event loop; readers of whole messages take more of them."""


class MoreNeeded(Exception):
    """What was received ends within a field."""


@dataclass(slots=True)
class PlacedCall(Generic[CallT]):
    """A decoded request whose long tensors are in leased memory, until :meth:`release`."""

    call: CallT
    leases: tuple[Lease, ...]
    let_go: Callable[[Lease], None]

    def release(self) -> None:
        """The request is over."""
        for lease in self.leases:
            self.let_go(lease)


class ArenaSink(ABC, Generic[CallT]):
    """Takes one message; lives on the event loop's thread. A protocol's own sink reads its fields.

    The transport fills ``place`` and calls advance and feed in turn, then finish or abort once.
    """

    def __init__(
        self,
        length: int,
        lease: Callable[[Arrival, int], Lease],
        let_go: Callable[[Lease], None],
        memory: memoryview,
    ) -> None:
        """Wait for the first bytes.

        Args:
            length: Of the whole message.
            lease: Leases arena memory of a size for this sink; raises where there is none.
            let_go: Gives a lease back.
            memory: The whole arena.
        """
        self._length = length
        self._lease = lease
        self._let_go = let_go
        self._memory = memory
        self._leases: list[Lease] = []
        self._pieces: list[bytes | memoryview] = []
        self._tail = bytearray()
        self._tail_starts_at = 0
        self._at = 0
        self._is_plain = True
        self.place: memoryview | None = None
        self.filled = 0
        self._is_given_up = False

    @property
    def received_bytes(self) -> int:
        """So much of the message is here."""
        return self._tail_starts_at + len(self._tail) + (0 if self.place is None else self.filled)

    def advance(self, nbytes: int) -> None:
        """So many more bytes of the place are there."""
        self.filled += nbytes
        place = self.place
        if place is not None and self.filled == len(place):
            self._pieces.append(place)
            self._tail_starts_at += len(place)
            self.place = None

    def feed(self, piece: memoryview) -> int:
        """Take bytes that no place is wanted for; how many, at least one.

        Raises:
            OvmsError: There is no room for a tensor that begins here, or it was taken back.
        """
        self._refuse_if_given_up()
        self._tail += piece
        taken = len(piece)
        self._scan()
        if self.place is not None:
            # What came behind the place's start is given again, and then belongs into the place.
            beyond = len(self._tail) - self._at
            taken -= beyond
            self._pieces.append(bytes(self._tail[: self._at]))
            self._tail_starts_at += self._at
            self._tail.clear()
            self._at = 0
        return taken

    def finish(self) -> PlacedCall[CallT] | bytes:
        """The whole message is here: the request, or the message as it came where that is not plain.

        Raises:
            OvmsError: It was given up.
        """
        try:
            self._refuse_if_given_up()
            self._scan()
            # What was collected has to be all of it.
            call = self._assemble() if self._is_plain and self._at == len(self._tail) else None
            if call is None:
                body = b"".join([*self._pieces, self._tail])
                self.abort()
                return body
        except OvmsError:
            self.abort()
            raise
        return PlacedCall(call, tuple(self._leases), self._let_go)

    def give_up(self) -> None:
        """Release the memory of a message that arrives too slowly, for others; what comes of it is refused."""
        self._is_given_up = True
        self.place = None
        self.abort()

    def _refuse_if_given_up(self) -> None:
        if self._is_given_up:
            raise NoFreeSlot(
                f"the request of {self._length} bytes arrived so slowly that its shared memory was given to others; "
                f"send it again, or raise --arena_size_mb"
            )

    def abort(self) -> None:
        """Nobody wants the message any more."""
        for lease in self._leases:
            self._let_go(lease)
        self._leases.clear()

    def _scan(self) -> None:
        """Read fields as far as they are complete."""
        try:
            while self._is_plain and self.place is None:
                self._step()
        except MoreNeeded:
            return
        except NotPlain:
            self._is_plain = False

    @property
    def _read_bytes(self) -> int:
        """So much of the message has been read."""
        return self._tail_starts_at + self._at

    @abstractmethod
    def _step(self) -> None:
        """Read one field, or notice that a message has ended.

        Raises:
            NotPlain: The message has a form that is left to the decoder of whole messages.
        """

    @abstractmethod
    def _assemble(self) -> CallT | None:
        """The request, when all was read; None where it is left to the decoder of whole messages."""

    def _head(self) -> tuple[int, int, int, int]:
        """Where the next field begins, its tag, its length, and where its payload begins."""
        start = self._at
        if start == len(self._tail):
            raise MoreNeeded
        size, at = self._size(start + 1)
        return start, self._tail[start], size, at

    def _put(self, size: int, at: int) -> tuple[Lease, memoryview]:
        """Have the next so many octets, which begin at a place, go to the arena."""
        lease = self._lease(self, size)
        self._leases.append(lease)
        self.place = place = self._memory[lease.offset_bytes : lease.offset_bytes + size]
        self.filled = 0
        self._at = at
        return lease, place

    def _whole(self, start: int, end: int) -> bytes:
        if end > len(self._tail):
            raise MoreNeeded
        self._at = end
        return bytes(self._tail[start:end])

    def _size(self, at: int) -> tuple[int, int]:
        """Read a length; returns it and the place behind it."""
        value = shift = 0
        for index in range(at, at + LONGEST_SIZE_BYTES):
            if index >= len(self._tail):
                raise MoreNeeded
            byte = self._tail[index]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, index + 1
            shift += 7
        raise NotPlain
