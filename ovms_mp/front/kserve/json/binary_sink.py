# SPDX-License-Identifier: Apache-2.0
"""A request with binary tensors that is still arriving; see :mod:`ovms_mp.front.protobuf.arena_sink`.

The JSON in front says how long each tensor is.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from ovms_mp.front.kserve.json.assemble import BINARY_SIZE
from ovms_mp.front.kserve.json.binary import Part
from ovms_mp.front.kserve.json.decode import decode_head
from ovms_mp.front.protobuf.arena_sink import SHORTEST_LONG_BYTES, ArenaSink, MoreNeeded
from ovms_mp.front.protobuf.plain import NotPlain
from ovms_mp.model.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.front.infer.arrivals import Arrival
    from ovms_mp.front.infer.leases import Lease
    from ovms_mp.front.kserve.json.request import JsonRequest


class InferBody(NamedTuple):
    """A body that was taken apart.

    Attributes:
        parsed: The JSON; None where there is none, and all is one tensor.
        parts: What is behind it, one part for each input that has octets there.
    """

    parsed: JsonRequest | None
    parts: list[Part]


class BinarySink(ArenaSink[InferBody]):
    """Takes one body. Long tensors go to the arena, but for strings."""

    def __init__(
        self,
        length: int,
        json_bytes: int,
        lease: Callable[[Arrival, int], Lease],
        let_go: Callable[[Lease], None],
        memory: memoryview,
    ) -> None:
        """Wait for the first bytes; see :class:`ArenaSink`.

        Args:
            length: Of the body.
            json_bytes: How much of it is JSON, which is in front; 0 where the whole body is one tensor.
            lease: As of :class:`ArenaSink`.
            let_go: As of :class:`ArenaSink`.
            memory: As of :class:`ArenaSink`.

        Raises:
            OvmsError: There is no room for a tensor that is all of the body.
        """
        super().__init__(length, lease, let_go, memory)
        self._json_bytes = json_bytes
        self._parsed: JsonRequest | None = None
        self._sizes: deque[tuple[int, bool]] = deque([] if json_bytes else [(length, True)])
        """Of the tensors that are to come, and whether each may go to the arena."""
        self._parts: list[Part] = []
        self._scan()

    def advance(self, nbytes: int) -> None:
        """See :class:`ArenaSink`; another tensor may begin at once.

        Raises:
            OvmsError: There is no room for it.
        """
        super().advance(nbytes)
        if self.place is None:
            self._scan()

    def feed(self, piece: memoryview) -> int:
        """See :class:`ArenaSink`; behind the JSON it is asked again, before anything is copied twice."""
        due = self._json_bytes - self._read_bytes - len(self._tail)
        return super().feed(piece if due <= 0 else piece[:due])

    def _step(self) -> None:
        if self._json_bytes and self._parsed is None:
            self._parsed = decode_head(self._whole(0, self._json_bytes))
            self._sizes.extend(_sizes(self._parsed, self._length - self._json_bytes))
        if not self._sizes:
            raise MoreNeeded
        size, may_be_placed = self._sizes[0]
        if size >= SHORTEST_LONG_BYTES and may_be_placed:
            lease, place = self._put(size, self._at)
            self._parts.append(Part(place, lease))
        else:
            self._parts.append(Part(memoryview(self._whole(self._at, self._at + size))))
        self._sizes.popleft()

    def _assemble(self) -> InferBody:
        return InferBody(self._parsed, self._parts)


def _sizes(parsed: JsonRequest, nbytes: int) -> list[tuple[int, bool]]:
    """How long each tensor is, of so many octets of all together.

    Raises:
        NotPlain: They do not say so; what is wrong is found when the whole body is there.
    """
    sizes: list[tuple[int, bool]] = []
    for item in parsed.inputs:
        size = item.parameters.get(BINARY_SIZE)
        if size is None:
            continue
        if type(size) is not int or size < 0:
            raise NotPlain
        if size:
            sizes.append((size, item.dtype is not DType.BYTES))
    if sum(size for size, _ in sizes) != nbytes:
        raise NotPlain
    return sizes
