# SPDX-License-Identifier: Apache-2.0
"""Requests that come packed: how long those with tensors may become, and how they are unpacked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.errors import MalformedPayload
from ovms_mp.front.budget import UNPACKED_FLOOR_BYTES, unpacked_limit
from ovms_mp.front.grpc.encodings import recognised_encoding, unpack

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.child.specs import FrontLimits
    from ovms_mp.front.budget import BodyShare
    from ovms_mp.front.methods import Octets
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

    def of_request(self, packed_bytes: int) -> int:
        """For a request of so many packed bytes."""
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


async def unpacked(request: bytes, longest_of: Callable[[int], int], share: BodyShare) -> Octets:
    """A request as it was meant, for a transport that does not say whether it is packed.

    What only seems to be packed is handed on as it came, for its reader to word what is wrong with it: a message of a
    stream that is no request must not end the stream.

    Args:
        request: As it was sent.
        longest_of: How long so many packed bytes may become.
        share: Grows by what is held.

    Raises:
        OvmsError: It becomes too long, or there is no memory for it.
    """
    share.grow(len(request))
    encoding = recognised_encoding(request)
    if encoding == "identity":
        return request
    try:
        return await unpack(request, encoding, longest_of(len(request)), share.grow)
    except MalformedPayload:
        return request
