# SPDX-License-Identifier: Apache-2.0
"""The fast transport: our own HTTP/2 server for all methods, with long tensors from socket to arena and back."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ovms_mp.front.grpc.descriptors import most_connections
from ovms_mp.front.grpc.http2 import frames
from ovms_mp.front.grpc.http2.faults import ErrorCode, peer_log
from ovms_mp.front.grpc.http2.limits import Guard, Limits
from ovms_mp.front.grpc.http2.server import Http2Server
from ovms_mp.front.grpc.peer_log import AtMost, report_hits
from ovms_mp.front.tls.current import current_context
from ovms_mp.front.tls.handshakes import Handshakes, handshakes_among

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ovms_mp.child.specs import FrontLimits
    from ovms_mp.front.gate import Gate
    from ovms_mp.front.methods import Methods
    from ovms_mp.tls.material import TlsFiles

_log = logging.getLogger(__name__)

_LAST_BYTES = 64 << 20
"""Of the memory for bodies: for what comes by windows that were granted before."""


async def start_native_server(
    methods: Methods,
    free_bytes: Callable[[], int],
    addresses: Sequence[str | int],
    limits: FrontLimits,
    gate: Gate,
    tls: TlsFiles | None = None,
) -> Http2Server:
    """Serve.

    Args:
        methods: By path.
        free_bytes: How much memory is left for tensors that arrive.
        addresses: Each ``host:port``, whose port may be shared with other processes; or a descriptor of a bound socket.
        limits: What clients are held to.
        gate: Lets calls in.
        tls: Certificates; None for plain ports.

    Raises:
        BootError: An address cannot be bound.
        ConfigError: The certificates cannot be used.
    """
    connections = most_connections(Limits().max_connections)
    loop, handshakes = asyncio.get_running_loop(), None
    if tls is not None:
        most = handshakes_among(connections)
        connections -= most
        handshakes = Handshakes(await current_context(tls, "h2"), plain_answer, most)
        handshakes.report_on(loop)
    guard = Guard(_limits(limits, connections), free_bytes, gate)
    _log.info("event=connection_limit most=%d", guard.limits.max_connections)
    report_hits(guard, loop)
    peer_log.addFilter(AtMost())
    server = Http2Server(methods, guard, handshakes)
    await server.start(addresses)
    return server


def plain_answer(_start: bytes) -> bytes:
    """For a client that does not speak TLS: a GOAWAY.

    Without SETTINGS before it: behind those clients of gRPC would try again for as long as they wait.
    """
    payload = bytes(4) + ErrorCode.PROTOCOL_ERROR.to_bytes(4) + b"this port speaks TLS; use a secure channel"
    return frames.frame(frames.GOAWAY, 0, 0, payload)


def _limits(limits: FrontLimits, connections: int) -> Limits:
    """What clients are held to. Before bodies are refused for want of memory, no more of them is asked for."""
    budget, usual = limits.max_body_memory_bytes, Limits()
    held_back_at = max(budget - _LAST_BYTES, budget // 2)
    return Limits(
        max_message_bytes=limits.max_message_bytes,
        max_connections=connections,
        connection_buffer_bytes=min(usual.connection_buffer_bytes, held_back_at),
        process_buffer_bytes=held_back_at,
        process_limit_bytes=budget,
    )
