# SPDX-License-Identifier: Apache-2.0
"""A PredictRequest that is still arriving; see :mod:`ovms_mp.front.protobuf.arena_sink`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from ovms_mp.errors import OvmsError
from ovms_mp.front.protobuf.arena_sink import MOST_SMALL_FIELDS, SHORTEST_LONG_BYTES, ArenaSink
from ovms_mp.front.protobuf.plain import LONGEST_PLAIN_PART_BYTES, NotPlain
from ovms_mp.front.tensors import PlacedTensor
from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import TensorProto
from ovms_mp.front.tfs.protobuf import tags
from ovms_mp.front.tfs.protobuf.decode import PredictCall, scan_predict
from ovms_mp.front.tfs.protobuf.values import static_shape
from ovms_mp.model.dtypes import DType, dtype_of_tf

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.front.infer.arrivals import Arrival
    from ovms_mp.front.infer.leases import Lease

_HOLDERS: dict[int, DType | None] = {tags.CONTENT: None, tags.FLOATS: DType.FP32, tags.DOUBLES: DType.FP64}
"""Fields whose bytes are a tensor's elements, and for which dtype only: packed numbers are little-endian, too."""


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


class PredictSink(ArenaSink[PredictCall]):
    """Takes one PredictRequest."""

    def __init__(
        self,
        length: int,
        lease: Callable[[Arrival, int], Lease],
        let_go: Callable[[Lease], None],
        memory: memoryview,
    ) -> None:
        """Wait for the first bytes; see :class:`ArenaSink`."""
        super().__init__(length, lease, let_go, memory)
        self._others: list[bytes] = []
        self._long: list[_LongTensor] = []
        self._entry: _LongTensor | None = None
        self._is_in_tensor = False

    def _step(self) -> None:
        """Read one field, or notice that a message has ended."""
        entry = self._entry
        if entry is not None and self._read_bytes >= entry.end:
            if self._read_bytes > entry.end or entry.lease is None:
                raise NotPlain
            self._long.append(entry)
            self._entry, self._is_in_tensor = None, False
            return
        start, tag, size, at = self._head()
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
                raise NotPlain
            self._at = at
        elif (
            tag in (tags.MODEL_SPEC, tags.INPUTS, tags.OUTPUT_FILTER)
            and len(self._others) < MOST_SMALL_FIELDS
        ):
            self._others.append(self._whole(start, at + size))
        else:
            raise NotPlain

    def _in_entry(self, entry: _LongTensor, tag: int, at: int, size: int) -> None:
        if tag == tags.ENTRY_KEY and not entry.has_key:
            entry.key, entry.has_key = self._whole(at, at + size), True
        elif tag == tags.ENTRY_VALUE and self._tail_starts_at + at + size == entry.end:
            self._is_in_tensor = True
            self._at = at
        else:
            raise NotPlain

    def _in_tensor(self, entry: _LongTensor, start: int, tag: int, at: int, size: int) -> None:
        if tag in (tags.DTYPE, tags.SHAPE):
            # A dtype is no length: what was read as one is the value, and all there is.
            end = at if tag == tags.DTYPE else at + size
            if len(entry.rest) + end - start > LONGEST_PLAIN_PART_BYTES:
                raise NotPlain
            entry.rest += self._whole(start, end)
            return
        if (
            tag not in _HOLDERS
            or not size
            or entry.lease is not None
            or self._tail_starts_at + at + size > entry.end
        ):
            raise NotPlain
        entry.holder = tag
        entry.lease, entry.place = self._put(size, at)

    def _assemble(self) -> PredictCall | None:
        if self._entry is not None:
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
