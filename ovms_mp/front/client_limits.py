# SPDX-License-Identifier: Apache-2.0
"""How many requests one client may have under way at a front: who asks for much must not keep others out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.errors import TooManyRequests

if TYPE_CHECKING:
    from ovms_mp.codes import Code
    from ovms_mp.errors import OvmsError
    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.clock import Clock

_SMOOTHING = 0.1
"""Weight of the newest request in the smoothed time that requests take."""
_MOST_RETRY_S = 10.0
"""A stream may take days."""


@dataclass(slots=True)
class _Client:
    """What one has under way.

    Attributes:
        requests: How many.
        taking_s: How long those before them took, smoothed; 0 before the first one's end.
    """

    requests: int = 0
    taking_s: float = 0.0


class ClientLimits:
    """A check of the gate, and an observer that gives back what it took. Clients without any are forgotten.

    A client is whoever calls with the same key; without keys, whoever calls from the same address, and on a Unix
    socket, which tells none, a connection. Probes do not count.
    """

    def __init__(self, most: int, clock_ns: Clock) -> None:
        """Begin with no client.

        Args:
            most: Requests of one client under way; a stream is one of them.
            clock_ns: Monotonic time.
        """
        self._most = most
        self._clock_ns = clock_ns
        self._clients: dict[str, _Client] = {}
        self._held: dict[CallContext, str] = {}

    def check(self, context: CallContext) -> None:
        """Take a call in.

        Raises:
            TooManyRequests: The client has as many as it may.
        """
        if context.is_open or context.is_part:
            return
        name = _client_of(context)
        client = self._clients.setdefault(name, _Client())
        if client.requests >= self._most:
            full = TooManyRequests(
                f"this client ({name}) has {client.requests} requests under way, the limit "
                "(--max_requests_per_client); try again when one of them is answered"
            )
            full.retry_after_s = min(_MOST_RETRY_S, client.taking_s / self._most)
            raise full
        client.requests += 1
        self._held[context] = name

    def begun(self, context: CallContext) -> None:
        """See :class:`~ovms_mp.front.observers.CallObserver`."""

    def ended(self, context: CallContext, code: Code | None, failure: OvmsError | None) -> None:
        """See :class:`~ovms_mp.front.observers.CallObserver`."""
        name = self._held.pop(context, None)
        if name is None:
            return  # It was refused, or is a part of a stream.
        client = self._clients[name]
        client.requests -= 1
        took_s = (self._clock_ns() - context.begun_ns) / 1e9
        client.taking_s += (_SMOOTHING if client.taking_s else 1.0) * (took_s - client.taking_s)
        if not client.requests:
            del self._clients[name]


def _client_of(context: CallContext) -> str:
    if context.caller:
        return f"key {context.caller!r}"
    peer = context.peer
    host, separator, _ = peer.rpartition(":")
    if separator and not peer.startswith("unix:"):
        # As a socket of both IP versions has an IPv4 address.
        return host.removeprefix("[::ffff:").removesuffix("]") if host.startswith("[::ffff:") else host
    return f"connection {context.flow}" if context.flow else peer
