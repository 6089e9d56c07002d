# SPDX-License-Identifier: Apache-2.0
"""The fast transport: our own HTTP/2 server around the servicer, with long tensors from socket to arena and back."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ovms_mp.front.grpc.descriptors import most_connections
from ovms_mp.front.grpc.http2.faults import peer_log
from ovms_mp.front.grpc.http2.limits import Guard, Limits
from ovms_mp.front.grpc.http2.methods import Unary
from ovms_mp.front.grpc.http2.server import Http2Server
from ovms_mp.front.grpc.peer_log import AtMost, report_hits
from ovms_mp.front.grpc.servicer import LONGEST_SMALL_REQUEST_BYTES, PREDICT_PATH
from ovms_mp.front.tfs.predict_sink import SHORTEST_LONG_BYTES, PredictSink

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.child.specs import FrontLimits
    from ovms_mp.front.grpc.bodies import UnpackedLimits
    from ovms_mp.front.grpc.servicer import TfsServicer
    from ovms_mp.front.infer.leases import Leases
    from ovms_mp.front.sinks import MessageSink

_log = logging.getLogger(__name__)

_LAST_BYTES = 64 << 20
"""Of the memory for bodies: for what comes by windows that were granted before."""


async def start_wire_server(
    servicer: TfsServicer,
    leases: Leases,
    bind_addresses: Sequence[str],
    limits: FrontLimits,
    unpacked: UnpackedLimits,
) -> Http2Server:
    """Serve the servicer's methods.

    Args:
        servicer: The methods.
        leases: The memory for long tensors; owned by the same event loop.
        bind_addresses: Each ``host:port``; the port may be shared with other processes.
        limits: What clients are held to.
        unpacked: The same for packed requests.

    Raises:
        BootError: An address cannot be bound.
    """

    def make_sink(length: int) -> MessageSink | None:
        if length < SHORTEST_LONG_BYTES:
            return None
        return PredictSink(length, leases.lease_arriving, leases.release, leases.memory)

    methods = {
        path: Unary(method, None, LONGEST_SMALL_REQUEST_BYTES, lambda _: LONGEST_SMALL_REQUEST_BYTES)
        for path, method in servicer.methods().items()
    }
    methods[PREDICT_PATH] = Unary(servicer.predict_in_place, make_sink, 0, unpacked.of_predict)
    guard = Guard(_limits(limits), leases.free_bytes)
    _log.info("event=connection_limit most=%d", guard.limits.max_connections)
    report_hits(guard, asyncio.get_running_loop())
    peer_log.addFilter(AtMost())
    server = Http2Server(methods, guard)
    await server.start(bind_addresses)
    return server


def _limits(limits: FrontLimits) -> Limits:
    """What clients are held to. Before bodies are refused for want of memory, no more of them is asked for."""
    budget, usual = limits.max_body_memory_bytes, Limits()
    held_back_at = max(budget - _LAST_BYTES, budget // 2)
    return Limits(
        max_message_bytes=limits.max_message_bytes,
        max_connections=most_connections(usual.max_connections),
        connection_buffer_bytes=min(usual.connection_buffer_bytes, held_back_at),
        process_buffer_bytes=held_back_at,
        process_limit_bytes=budget,
    )
