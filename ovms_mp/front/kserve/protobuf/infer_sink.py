# SPDX-License-Identifier: Apache-2.0
"""A ModelInferRequest that is still arriving; see :mod:`ovms_mp.front.protobuf.arena_sink`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.kserve.infer_request import InferRequest
from ovms_mp.front.kserve.protobuf import tags
from ovms_mp.front.kserve.protobuf.assemble import Raw
from ovms_mp.front.kserve.protobuf.decode import scan_with
from ovms_mp.front.protobuf.arena_sink import MOST_SMALL_FIELDS, SHORTEST_LONG_BYTES, ArenaSink
from ovms_mp.front.protobuf.plain import NotPlain

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.front.infer.arrivals import Arrival
    from ovms_mp.front.infer.leases import Lease

_SMALL = (tags.MODEL_NAME, tags.MODEL_VERSION, tags.ID, tags.PARAMETERS, tags.INPUTS, tags.OUTPUTS)


class InferSink(ArenaSink[InferRequest]):
    """Takes one ModelInferRequest. Long entries of ``raw_input_contents`` go to the arena, whatever comes before."""

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
        self._raws: list[Raw] = []

    def _step(self) -> None:
        start, tag, size, at = self._head()
        if tag == tags.RAW and size >= SHORTEST_LONG_BYTES:
            if self._tail_starts_at + at + size > self._length:
                raise NotPlain
            lease, place = self._put(size, at)
            self._raws.append(Raw(place, lease))
        elif len(self._others) + len(self._raws) >= MOST_SMALL_FIELDS:
            raise NotPlain
        elif tag == tags.RAW:
            self._raws.append(Raw(memoryview(self._whole(at, at + size))))
        elif tag in _SMALL:
            self._others.append(self._whole(start, at + size))
        else:
            raise NotPlain

    def _assemble(self) -> InferRequest | None:
        return scan_with(b"".join(self._others), self._raws)
