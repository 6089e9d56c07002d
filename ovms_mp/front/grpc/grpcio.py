# SPDX-License-Identifier: Apache-2.0
"""grpcio's asyncio server for all methods: paths, codes, deadlines and options. The reference transport."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

import grpc
import grpc.aio

from ovms_mp.codes import Code
from ovms_mp.errors import BootError, CallCancelled, UnsupportedOperation
from ovms_mp.front.budget import BodyBudget
from ovms_mp.front.call_context import CallContext
from ovms_mp.front.failures import failure_of
from ovms_mp.front.gate import OPEN_GATE
from ovms_mp.front.grpc.bodies import unpacked
from ovms_mp.front.grpc.descriptors import most_connections
from ovms_mp.front.grpc.statuses import status_text
from ovms_mp.front.methods import Streaming, Unary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from typing import Self

    from ovms_mp.child.specs import FrontLimits
    from ovms_mp.front.budget import BodyShare
    from ovms_mp.front.gate import Gate
    from ovms_mp.front.methods import Method, Methods, Reply

AnswerT = TypeVar("AnswerT")

_STATUS_BY_NUMBER = {status.value[0]: status for status in grpc.StatusCode}
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
    methods: Methods,
    bind_addresses: Sequence[str],
    limits: FrontLimits,
    gate: Gate = OPEN_GATE,
    credentials: grpc.ServerCredentials | None = None,
) -> grpc.aio.Server:
    """A server that shares its port with the other gRPC fronts; not started yet.

    Args:
        methods: By path. Sinks are not used: grpcio has whole messages.
        bind_addresses: Each ``host:port``.
        limits: What clients are held to.
        gate: Lets calls in.
        credentials: For TLS.

    Raises:
        BootError: An address cannot be bound.
    """
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
    server.add_generic_rpc_handlers((_MethodTable(methods, limits, gate),))
    logging.getLogger(_GRPCIO_LOGGER).addFilter(is_no_ended_call)
    for address in bind_addresses:
        try:
            if credentials is None:
                server.add_insecure_port(address)
            else:
                server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise BootError(f"Failed to start gRPC server - at {address} - port is busy: {error}") from None
    return server


def is_no_ended_call(record: logging.LogRecord) -> bool:
    """Keep out of the log what grpcio raises when a call ends by its deadline while its status is being written."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or kind.__name__ != "ExecuteBatchError"


if TYPE_CHECKING:
    # Generic in the stubs only.
    _BytesRpcHandler = grpc.GenericRpcHandler[bytes, bytes]
    _Context = grpc.aio.ServicerContext[bytes, bytes]
else:
    _BytesRpcHandler = grpc.GenericRpcHandler


class _MethodTable(_BytesRpcHandler):
    """Maps paths to handlers on raw bytes. A path that is none has one, too, so that the gate comes first."""

    def __init__(self, methods: Methods, limits: FrontLimits, gate: Gate) -> None:
        budget = BodyBudget(limits.max_body_memory_bytes)
        self._gate = gate
        self._handlers = {
            path: _unary_handler(method, limits, budget, gate)
            if isinstance(method, Unary)
            else grpc.stream_stream_rpc_method_handler(_streaming(method, limits, budget, gate))
            for path, method in methods.items()
        }

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """The handler of a call's path."""
        path = handler_call_details.method
        return self._handlers.get(path) or grpc.stream_stream_rpc_method_handler(_unknown(path, self._gate))


def _unary_handler(
    method: Unary, limits: FrontLimits, budget: BodyBudget, gate: Gate
) -> grpc.RpcMethodHandler[bytes, bytes]:
    """The handler of a unary method; where the gate may refuse calls, one that begins before the message has come."""
    handle = _unary(method, limits, budget, gate)
    if gate.has_checks:
        return grpc.stream_unary_rpc_method_handler(handle)
    return grpc.unary_unary_rpc_method_handler(handle)


def _unary(
    method: Unary, limits: FrontLimits, budget: BodyBudget, gate: Gate
) -> Callable[[bytes | AsyncIterator[bytes], _Context], Awaitable[bytes]]:
    async def handle(request: bytes | AsyncIterator[bytes], call: _Context) -> bytes:
        async def answer(context: CallContext) -> bytes:
            message = request if isinstance(request, bytes) else await _only(request)
            context.received_bytes = len(message)
            with budget.share() as share:
                octets = await unpacked(
                    message,
                    lambda nbytes: method.longest_unpacked_bytes(nbytes, limits.max_message_bytes),
                    share,
                )
                reply = joined(await method.handler(octets, context))
            context.sent_bytes = len(reply)
            return reply

        return await _carry(method, method.path, call, gate, answer)

    return handle


async def _only(messages: AsyncIterator[bytes]) -> bytes:
    """The message of a unary call.

    Raises:
        UnsupportedOperation: There is none; a second one is not read.
    """
    async for message in messages:
        return message
    raise UnsupportedOperation("a unary call without a message")


def _unknown(path: str, gate: Gate) -> Callable[[AsyncIterator[bytes], _Context], Awaitable[None]]:
    """What answers a path that is none: to those only who may know what there is."""

    async def handle(messages: AsyncIterator[bytes], call: _Context) -> None:
        async def answer(context: CallContext) -> None:
            raise UnsupportedOperation("Method not found!")

        await _carry(None, path, call, gate, answer)

    return handle


def _streaming(
    method: Streaming, limits: FrontLimits, budget: BodyBudget, gate: Gate
) -> Callable[[AsyncIterator[bytes], _Context], Awaitable[None]]:
    async def handle(messages: AsyncIterator[bytes], call: _Context) -> None:
        async def answer(context: CallContext) -> None:
            with budget.share() as share:
                stream = GrpcioStream(messages, call, limits.max_message_bytes, share, context)
                await method.handler(stream, context)

        await _carry(method, method.path, call, gate, answer)

    return handle


async def _carry(
    method: Method | None,
    path: str,
    call: _Context,
    gate: Gate,
    answer: Callable[[CallContext], Awaitable[AnswerT]],
) -> AnswerT:
    """Let a call in, answer it, and say how it has ended."""
    context = _context(method, call)
    gate.enter(context)
    try:
        gate.admit(context)
        answered = await answer(context)
    except asyncio.CancelledError:
        is_late = 0 < context.deadline_ns <= time.monotonic_ns()
        gate.leave(context, Code.DEADLINE_EXCEEDED if is_late else Code.CANCELLED)
        raise
    except Exception as error:
        agent = str(dict(context.metadata).get("user-agent", ""))
        failure = failure_of(error, path, agent)
    else:
        gate.leave(context, None)
        _set_metadata(call, context)
        return answered
    gate.leave(context, failure.code, failure)
    _set_metadata(call, context)
    await call.abort(_STATUS_BY_NUMBER[failure.code.number], status_text(failure))
    raise AssertionError("abort always raises")


def _set_metadata(call: _Context, context: CallContext) -> None:
    if context.reply_metadata:
        call.set_trailing_metadata(context.reply_metadata)


def joined(reply: Reply) -> bytes:
    """A reply in one piece; its memory is released."""
    if isinstance(reply, bytes):
        return reply
    try:
        return b"".join(reply.pieces)
    finally:
        reply.release()


class GrpcioStream:
    """A streaming call of grpcio as handlers want it: see :class:`~ovms_mp.front.methods.MessageStream`."""

    def __init__(
        self,
        messages: AsyncIterator[bytes],
        call: _Context,
        limit_bytes: int,
        share: BodyShare,
        context: CallContext,
    ) -> None:
        """Begin.

        Args:
            messages: As they come.
            call: Takes the replies.
            limit_bytes: Of a message, also of what a packed one becomes.
            share: Holds the message that is being worked on.
            context: Told of the messages' sizes.
        """
        self._messages = messages
        self._call = call
        self._limit_bytes = limit_bytes
        self._share = share
        self._context = context

    def __aiter__(self) -> Self:
        """The client's messages."""
        return self

    async def __anext__(self) -> bytes:
        """The next one; the one before it is over."""
        self._share.release()
        message = await anext(self._messages)
        self._context.received_bytes += len(message)
        return bytes(await unpacked(message, lambda _: self._limit_bytes, self._share))

    async def send(self, reply: Reply) -> None:
        """Send a message; grpcio waits for the client's window.

        Raises:
            CallCancelled: The call has ended meanwhile.
        """
        octets = joined(reply)
        self._context.sent_bytes += len(octets)
        try:
            await self._call.write(octets)
        except grpc.aio.InternalError as error:
            raise CallCancelled("the client has left before its answer") from error


class _Origin:
    """See :class:`~ovms_mp.front.call_context.CallOrigin`."""

    __slots__ = ("_call",)

    def __init__(self, call: _Context) -> None:
        self._call = call

    @property
    def metadata(self) -> Sequence[tuple[str, str | bytes]]:
        return [(name, value) for name, value in self._call.invocation_metadata() or ()]

    @property
    def certificate_name(self) -> str:
        names = self._call.auth_context()
        for kind in ("x509_common_name", "x509_subject_alternative_name"):
            for name in names.get(kind, ()):
                return name.decode("utf-8", "replace")
        return ""

    @property
    def peer(self) -> str:
        # "ipv4:127.0.0.1:4711", with brackets percent-encoded in IPv6.
        return unquote(self._call.peer()).partition(":")[2]


def _context(method: Method | None, call: _Context) -> CallContext:
    remaining_s = call.time_remaining()
    now_ns = time.monotonic_ns()
    deadline_ns = 0 if remaining_s is None else now_ns + int(remaining_s * 1e9)
    return CallContext.of(method, deadline_ns, 0, _Origin(call), "gRPC", now_ns)
