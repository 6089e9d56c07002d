# SPDX-License-Identifier: Apache-2.0
"""Requests that come packed: how long they may become, for both transports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.budget import UNPACKED_FLOOR_BYTES, unpacked_limit
from ovms_mp.front.grpc.encodings import recognised_encoding, unpack

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.child.specs import FrontLimits
    from ovms_mp.front.budget import BodyBudget
    from ovms_mp.front.grpc.servicer import Method, Octets
    from ovms_mp.front.routing import RoutingTable


class UnpackedLimits:
    """How long a request may become. Its model is known when it is unpacked, so the largest input of all counts."""

    def __init__(self, table: Callable[[], RoutingTable], limits: FrontLimits) -> None:
        """Prepare.

        Args:
            table: Gives the newest routing table.
            limits: The server's.
        """
        self._table = table
        self._limits = limits
        self._epoch = -1
        self._bound_bytes: int | None = None

    def of_predict(self, packed_bytes: int) -> int:
        """For a predict request of so many packed bytes."""
        table = self._table()
        if table.epoch != self._epoch:
            self._epoch, self._bound_bytes = table.epoch, _largest_bound(table)
        limits = self._limits
        return unpacked_limit(
            packed_bytes, self._bound_bytes, limits.max_unpacked_bytes, limits.max_message_bytes
        )


def _largest_bound(table: RoutingTable) -> int | None:
    """What a request to any model can need, but enough to hear that one's shape is wrong; None without an end."""
    largest = UNPACKED_FLOOR_BYTES
    for model in table.models():
        for version in model.versions.values():
            if version.body_bound_bytes is None:
                return None
            largest = max(largest, version.body_bound_bytes)
    return largest


def with_unpacking(method: Method, limit_of: Callable[[int], int], budget: BodyBudget) -> Method:
    """A method whose requests may be packed, for a transport that does not say how.

    Args:
        method: Takes requests as they are meant.
        limit_of: How long so many packed bytes may become.
        budget: What requests that are being worked on may hold.
    """

    async def unpacked(request: Octets, deadline_ns: int) -> bytes:
        with budget.share() as share:
            share.grow(len(request))
            encoding = recognised_encoding(request)
            if encoding != "identity":
                request = await unpack(request, encoding, limit_of(len(request)), share.grow)
            return await method(request, deadline_ns)

    return unpacked
