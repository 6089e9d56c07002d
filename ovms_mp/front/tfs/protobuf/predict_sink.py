# SPDX-License-Identifier: Apache-2.0
"""A PredictRequest that is still arriving: long tensors go straight to their place in the arena.

The sink reads along just far enough to know where the values of a long tensor begin; from there to their end it names
leased arena memory as the place for the next bytes, so the kernel's copy is the only one. Everything else is small and
collected. At the end the collected rest is decoded as if the long tensors had never been there, and they are put back
in. Wherever a message is not of the plain form that protobuf libraries write, all pieces are joined, to be decoded as a
whole: that costs a copy and is right for every message, so this module only has to be right about what it accepts.

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from ovms_mp.errors import NoFreeSlot, OvmsError
from ovms_mp.front.tensors import PlacedTensor
from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import TensorProto
from ovms_mp.front.tfs.protobuf import tags
from ovms_mp.front.tfs.protobuf.decode import PredictCall, scan_predict
from ovms_mp.front.tfs.protobuf.records import LONGEST_SIZE_BYTES
from ovms_mp.front.tfs.protobuf.values import static_shape
from ovms_mp.model.dtypes import DType, dtype_of_tf

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.front.infer.leases import Lease

SHORTEST_LONG_BYTES = 32 << 10
"""Of a map entry whose values go straight to the arena. Below it the copy costs less than the bookkeeping."""

_HOLDERS: dict[int, DType | None] = {tags.CONTENT: None, tags.FLOATS: DType.FP32, tags.DOUBLES: DType.FP64}
"""Fields whose bytes are a tensor's elements, and for which dtype only: packed numbers are little-endian, too."""
_MOST_SMALL_FIELDS = 1000
"""Fields of a request that are read one by one, here on the event loop; the generated classes read more of them."""


class _NotPlain(Exception):
    """The message has a form that is left to the decoder of whole messages."""


class _MoreNeeded(Exception):
    """What was received ends within a field."""


@dataclass(slots=True)
class PlacedCall:
    """A decoded request whose long tensors are in leased memory, until :meth:`release`."""

    call: PredictCall
    leases: tuple[Lease, ...]
    let_go: Callable[[Lease], None]

    def release(self) -> None:
        """The request is over."""
        for lease in self.leases:
            self.let_go(lease)


@dataclass(slots=True)
class _LongTensor:
    """An entry of the map of inputs whose tensor's values are in the arena: its end, its other bytes, its place."""

    end: int
    key: bytes = b""
    has_key: bool = False
    rest: bytes = b""
    holder: int = 0
    lease: Lease | None = None
    place: memoryview = field(default_factory=lambda: memoryview(b""))


class PredictSink:
    """Takes one message; lives on the event loop's thread.

    The transport fills ``place`` and calls advance and feed in turn, then finish or abort once.
    """

    def __init__(
        self,
        length: int,
        lease: Callable[[PredictSink, int], Lease],
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
        self._others: list[bytes] = []
        self._long: list[_LongTensor] = []
        self._entry: _LongTensor | None = None
        self._is_in_tensor = False
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

    def finish(self) -> PlacedCall | bytes:
        """The whole message is here: the request, or the message as it came where that is not plain.

        Raises:
            OvmsError: It was given up.
        """
        try:
            self._refuse_if_given_up()
            self._scan()
            call = self._assemble() if self._is_plain else None
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
        except _MoreNeeded:
            return
        except _NotPlain:
            self._is_plain = False

    def _step(self) -> None:
        """Read one field, or notice that a message has ended."""
        entry = self._entry
        if entry is not None and self._tail_starts_at + self._at >= entry.end:
            if self._tail_starts_at + self._at > entry.end or entry.lease is None:
                raise _NotPlain
            self._long.append(entry)
            self._entry, self._is_in_tensor = None, False
            return
        start = self._at
        if start == len(self._tail):
            raise _MoreNeeded
        tag = self._tail[start]
        size, at = self._size(start + 1)
        if entry is None:
            self._in_request(start, tag, at, size)
        elif self._is_in_tensor:
            self._in_tensor(entry, start, tag, at, size)
        else:
            self._in_entry(entry, tag, at, size)

    def _in_request(self, start: int, tag: int, at: int, size: int) -> None:
        if tag == tags.INPUTS and size >= SHORTEST_LONG_BYTES:
            self._entry = _LongTensor(self._tail_starts_at + at + size)
            if self._entry.end > self._length:
                raise _NotPlain
            self._at = at
        elif (
            tag in (tags.MODEL_SPEC, tags.INPUTS, tags.OUTPUT_FILTER)
            and len(self._others) < _MOST_SMALL_FIELDS
        ):
            self._others.append(self._whole(start, at + size))
        else:
            raise _NotPlain

    def _in_entry(self, entry: _LongTensor, tag: int, at: int, size: int) -> None:
        if tag == tags.ENTRY_KEY and not entry.has_key:
            entry.key, entry.has_key = self._whole(at, at + size), True
        elif tag == tags.ENTRY_VALUE and self._tail_starts_at + at + size == entry.end:
            self._is_in_tensor = True
            self._at = at
        else:
            raise _NotPlain

    def _in_tensor(self, entry: _LongTensor, start: int, tag: int, at: int, size: int) -> None:
        if tag in (tags.DTYPE, tags.SHAPE):
            # A dtype is no length: what was read as one is the value, and all there is.
            end = at if tag == tags.DTYPE else at + size
            if len(entry.rest) + end - start > tags.LONGEST_PLAIN_PART_BYTES:
                raise _NotPlain
            entry.rest += self._whole(start, end)
            return
        if (
            tag not in _HOLDERS
            or not size
            or entry.lease is not None
            or self._tail_starts_at + at + size > entry.end
        ):
            raise _NotPlain
        entry.lease = self._lease(self, size)
        self._leases.append(entry.lease)
        offset = entry.lease.offset_bytes
        entry.holder = tag
        entry.place = self.place = self._memory[offset : offset + size]
        self.filled = 0
        self._at = at

    def _whole(self, start: int, end: int) -> bytes:
        if end > len(self._tail):
            raise _MoreNeeded
        self._at = end
        return bytes(self._tail[start:end])

    def _size(self, at: int) -> tuple[int, int]:
        """Read a length; returns it and the place behind it."""
        value = shift = 0
        for index in range(at, at + LONGEST_SIZE_BYTES):
            if index >= len(self._tail):
                raise _MoreNeeded
            byte = self._tail[index]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, index + 1
            shift += 7
        raise _NotPlain

    def _assemble(self) -> PredictCall | None:
        """The request, if what was collected is all of it and in order; else None."""
        if self._entry is not None or self._at != len(self._tail):
            return None
        call = scan_predict(b"".join(self._others))
        if call is None:
            return None
        try:
            for entry in self._long:
                name, tensor = entry.key.decode(), _tensor_of(entry)
                if tensor is None or name in call.inputs:
                    return None
                call.inputs[name] = tensor
        except (DecodeError, UnicodeDecodeError, OvmsError):
            return None
        return call


def _tensor_of(entry: _LongTensor) -> PlacedTensor | None:
    """The tensor of an entry; None where the bytes in the arena are not simply its elements."""
    proto = TensorProto.FromString(entry.rest)
    dtype = dtype_of_tf(proto.dtype)
    if dtype is None or dtype is DType.BYTES or _HOLDERS[entry.holder] not in (None, dtype):
        return None
    shape = static_shape("", proto.tensor_shape)
    if entry.lease is None or dtype.nbytes(shape) != len(entry.place):
        return None
    return PlacedTensor(dtype, shape, entry.place, entry.lease)
