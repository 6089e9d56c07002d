# SPDX-License-Identifier: Apache-2.0
"""Answers that are compressed because the client asks for it (RFC 9110, 12.5.3)."""

from __future__ import annotations

import asyncio
import zlib
from functools import lru_cache
from typing import Any, Protocol

from ovms_mp.front.gathered import Gathered
from ovms_mp.front.inflate import GZIP_WINDOW


class Asking(Protocol):
    """The request."""

    def get_header(self, name: str) -> str | None:
        """A header of the client's."""


class Changing(Protocol):
    """The answer."""

    data: Any
    """The body, as octets or in pieces; each kind of answer has a type of its own for it."""

    def get_header(self, name: str) -> str | None:
        """What was set."""

    def set_header(self, name: str, value: str) -> None:
        """Set a field."""

    def append_header(self, name: str, value: str) -> None:
        """Add to a field."""


LEAST_BYTES = 1 << 10
"""Shorter answers fit one packet anyway."""
_INLINE_BYTES = 16 << 10
"""PERF: 0.3 ms of zlib; what is longer goes to a thread."""
_LEVEL = 1
"""PERF: 50 MB/s of JSON; the default level takes three times as long for a tenth less."""
_WINDOWS = {"gzip": GZIP_WINDOW, "x-gzip": GZIP_WINDOW, "deflate": zlib.MAX_WBITS}
_MOST_KEPT = 64
_LONGEST_HEADER = 512


async def compress(request: Asking, response: Changing) -> None:
    """Compress the answer's body if the client prefers that."""
    accepted = request.get_header("Accept-Encoding")
    if not accepted or response.data is None:
        return
    response.append_header("Vary", "Accept-Encoding")
    coding = preferred(accepted[:_LONGEST_HEADER])
    if coding is None:
        return
    window = _WINDOWS[coding]
    body = response.data.joined() if isinstance(response.data, Gathered) else response.data
    response.data = body  # Not what has been released, should the client leave now.
    if len(body) <= _INLINE_BYTES:
        response.data = _packed(body, window)
    else:
        response.data = await asyncio.get_running_loop().run_in_executor(None, _packed, body, window)
    response.set_header("Content-Encoding", coding)


@lru_cache(_MOST_KEPT)
def preferred(accepted: str) -> str | None:
    """The coding that a client likes best of those that there are; None if it likes the plain body as much.

    Args:
        accepted: The header, e.g. ``deflate, gzip;q=0.8, *;q=0.1``.
    """
    weights = dict(filter(None, map(_weight, accepted.lower().split(","))))
    others = weights.get("*", 0.0)
    best = max(_WINDOWS, key=lambda coding: weights.get(coding, 0.0 if coding == "x-gzip" else others))
    weight = weights.get(best, others)
    if not weight or weight < weights.get("identity", 0.0):
        return None
    return best


def _weight(item: str) -> tuple[str, float] | None:
    """A coding and how much it is liked; None for what cannot be read."""
    coding, *parameters = (part.strip() for part in item.split(";"))
    weight = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                return None
    if not coding or not 0.0 <= weight <= 1.0:
        return None
    return coding, weight


def _packed(body: bytes | bytearray, window: int) -> bytes:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, window)
    return packer.compress(body) + packer.flush()
