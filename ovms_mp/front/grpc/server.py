# SPDX-License-Identifier: Apache-2.0
"""grpcio's asyncio server around the servicer: paths, codes, deadlines and options. The reference transport."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from ovms_mp.errors import INTERNAL_ERROR_TEXT, BootError, Code, OvmsError
from ovms_mp.front.budget import BodyBudget
from ovms_mp.front.grpc.bodies import with_unpacking
from ovms_mp.front.grpc.descriptors import most_connections
from ovms_mp.front.grpc.servicer import LONGEST_SMALL_REQUEST_BYTES, PREDICT_PATH

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ovms_mp.child.specs import FrontLimits
    from ovms_mp.front.grpc.bodies import UnpackedLimits
    from ovms_mp.front.grpc.servicer import Method

_log = logging.getLogger(__name__)

_STATUS_BY_NUMBER = {status.value[0]: status for status in grpc.StatusCode}
_LONGEST_MESSAGE = 1000
"""Characters of an error's text. It travels as metadata, percent-encoded to up to twelve bytes a character, and clients
refuse metadata of more than 16 KiB, which would hide the error itself."""
_READ_CHUNK_BYTES = 4 << 20
"""Bytes that HTTP/2 reads ahead and the largest frame. PERF: 602 kB messages at concurrency 16: 760/s to 1000/s."""


_GRPCIO_LOGGER = "grpc._cython.cygrpc"
_MOST_CONNECTIONS = 4096
_IDLE_MS = 60_000
"""grpcio cannot tell which connections are idle when more come than there may be, so those that stay idle must go.
Clients connect again with their next call."""
_HANDSHAKE_MS = 10_000
"""For the preface and SETTINGS; grpcio's own two minutes keep descriptors for nothing."""


def create_server(
    methods: Mapping[str, Method],
    bind_addresses: Sequence[str],
    limits: FrontLimits,
    unpacked: UnpackedLimits,
) -> grpc.aio.Server:
    """A server that shares its port with the other gRPC fronts; not started yet.

    Args:
        methods: Handlers by path.
        bind_addresses: Each ``host:port``.
        limits: What clients are held to.
        unpacked: The same for packed requests.

    Raises:
        BootError: An address cannot be bound.
    """
    budget = BodyBudget(limits.max_body_memory_bytes)
    server = grpc.aio.server(
        options=(
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", limits.max_message_bytes),
            # grpcio would unpack a message in one go, whatever it becomes, before it looks at its length.
            ("grpc.per_message_decompression", 0),
            ("grpc.max_allowed_incoming_connections", most_connections(_MOST_CONNECTIONS)),
            ("grpc.max_connection_idle_ms", _IDLE_MS),
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
            # What a model answers is bounded by the arena; a second limit could only cut off good answers.
            ("grpc.max_send_message_length", -1),
            ("grpc.http2.lookahead_bytes", _READ_CHUNK_BYTES),
            ("grpc.http2.max_frame_size", _READ_CHUNK_BYTES),
        )
    )
    bounded = {
        path: with_unpacking(method, unpacked.of_predict if path == PREDICT_PATH else _small_request, budget)
        for path, method in methods.items()
    }
    server.add_generic_rpc_handlers((_MethodTable(bounded),))
    logging.getLogger(_GRPCIO_LOGGER).addFilter(is_no_ended_call)
    for address in bind_addresses:
        try:
            server.add_insecure_port(address)
        except RuntimeError as error:
            raise BootError(f"Failed to start gRPC server - at {address} - port is busy: {error}") from None
    return server


def is_no_ended_call(record: logging.LogRecord) -> bool:
    """Keep out of the log what grpcio raises when a call ends by its deadline while its status is being written."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or kind.__name__ != "ExecuteBatchError"


def _small_request(_packed_bytes: int) -> int:
    return LONGEST_SMALL_REQUEST_BYTES


if TYPE_CHECKING:
    # Generic in the stubs only.
    _BytesRpcHandler = grpc.GenericRpcHandler[bytes, bytes]
else:
    _BytesRpcHandler = grpc.GenericRpcHandler


class _MethodTable(_BytesRpcHandler):
    """Maps paths to handlers on raw bytes; grpcio answers UNIMPLEMENTED for every other path."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._handlers = {
            path: grpc.unary_unary_rpc_method_handler(_with_errors(path, method))
            for path, method in methods.items()
        }

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """The handler of a call's path."""
        return self._handlers.get(handler_call_details.method)


def _with_errors(
    path: str, method: Method
) -> Callable[[bytes, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[bytes]]:
    """The one place where failures become gRPC statuses."""

    async def handle(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            remaining_s = context.time_remaining()
            deadline_ns = 0 if remaining_s is None else time.monotonic_ns() + int(remaining_s * 1e9)
            return await method(request, deadline_ns)
        except OvmsError as error:
            code, message = error.code, error.message
        except Exception:
            _log.exception("event=call_raised method=%s", path)
            code, message = Code.INTERNAL, INTERNAL_ERROR_TEXT
        if len(message) > _LONGEST_MESSAGE:
            message = message[: _LONGEST_MESSAGE - 3] + "..."
        await context.abort(_STATUS_BY_NUMBER[code.number], message)
        raise AssertionError("abort always raises")

    return handle
