# SPDX-License-Identifier: Apache-2.0
"""grpcio's server with methods of its own, on a real socket: what protocols hand to it, it carries as the other one."""

from __future__ import annotations

import asyncio
import gc
import gzip
import socket
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio
import pytest

from ovms_mp.child.specs import FrontLimits
from ovms_mp.errors import INTERNAL_ERROR_TEXT, ModelNotFound
from ovms_mp.front.gathered import Gathered
from ovms_mp.front.grpc.server import create_server
from ovms_mp.front.methods import Streaming, Unary, by_path

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.methods import MessageStream

DEADLINE_S = 20
LIMITS = FrontLimits(
    request_timeout_s=DEADLINE_S,
    retry_window_s=1,
    max_message_bytes=1 << 20,
    max_unpacked_bytes=0,
    max_body_memory_bytes=64 << 20,
)


class Handlers:
    """A unary and a streaming method, each with what it saw."""

    def __init__(self) -> None:
        self.contexts: list[CallContext] = []
        self.released = 0

    async def gather(self, request: bytes, context: CallContext) -> Gathered:
        self.contexts.append(context)
        return Gathered([request, memoryview(request)], self.release)

    def release(self) -> None:
        self.released += 1

    async def refuse(self, request: bytes, context: CallContext) -> bytes:
        raise ModelNotFound("m" * 2000)

    async def double(self, stream: MessageStream, context: CallContext) -> None:
        self.contexts.append(context)
        async for message in stream:
            if message == b"break":
                raise KeyError("secret")
            await stream.send(Gathered([message, message], self.release))


def asked(ask: Callable[[grpc.aio.Channel, Handlers], Awaitable[Any]]) -> Any:
    """What a client's coroutine returns, of a server that runs beside it."""
    handlers = Handlers()
    methods = by_path(
        [
            Unary("/s/Gather", handlers.gather, max_bytes=100, protocol="p"),
            Unary("/s/Refuse", handlers.refuse),
            Streaming("/s/Double", handlers.double, "p"),
        ]
    )

    async def body() -> Any:
        # The port is ours while it is bound here; grpcio shares it.
        with socket.socket() as holder:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind(("127.0.0.1", 0))
            port = holder.getsockname()[1]
            server = create_server(methods, [f"127.0.0.1:{port}"], LIMITS)
            await server.start()
            try:
                async with (
                    asyncio.timeout(DEADLINE_S),
                    grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
                ):
                    return await ask(channel, handlers)
            finally:
                await server.stop(0)

    try:
        return asyncio.run(body())
    finally:
        gc.collect()  # A client's failure refers to its channel, and by its traceback to itself.


def unary(
    channel: grpc.aio.Channel, path: str
) -> Any:  # Any: what the stubs want arguments for that have defaults.
    return cast("Any", channel).unary_unary(path)


def doubled(channel: grpc.aio.Channel) -> Any:  # Any: as above.
    return cast("Any", channel).stream_stream("/s/Double")()


def test_a_reply_in_pieces_is_sent_whole_and_released() -> None:
    async def ask(channel: grpc.aio.Channel, handlers: Handlers) -> None:
        call = unary(channel, "/s/Gather")(b"ab", metadata=[("y", "z")], timeout=DEADLINE_S)
        assert await call == b"abab"
        assert handlers.released == 1
        (context,) = handlers.contexts
        assert (context.protocol, context.method, context.flow) == ("p", "Gather", 0)
        assert context.deadline_ns > 0
        assert ("y", "z") in context.metadata
        assert context.peer.startswith("127.0.0.1:")

    asked(ask)


@pytest.mark.parametrize(("nbytes", "is_taken"), [(100, True), (101, False)])
def test_a_methods_own_limit_holds_for_packed_messages(nbytes: int, is_taken: bool) -> None:
    async def ask(channel: grpc.aio.Channel, handlers: Handlers) -> None:
        request = gzip.compress(bytes(nbytes), mtime=0)
        if is_taken:
            assert await unary(channel, "/s/Gather")(request) == bytes(2 * nbytes)
            return
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unary(channel, "/s/Gather")(request)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    asked(ask)


def test_a_long_text_reaches_the_client() -> None:
    async def ask(channel: grpc.aio.Channel, handlers: Handlers) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unary(channel, "/s/Refuse")(b"")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert caught.value.details() == "m" * 997 + "..."

    asked(ask)


def test_a_streaming_method() -> None:
    async def ask(channel: grpc.aio.Channel, handlers: Handlers) -> None:
        call = doubled(channel)
        for message in (b"a", gzip.compress(b"bb", mtime=0)):
            await call.write(message)
        assert [await call.read(), await call.read()] == [b"aa", b"bbbb"]
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
        assert handlers.released == 2
        assert (handlers.contexts[0].protocol, handlers.contexts[0].method) == ("p", "Double")

    asked(ask)


def test_a_defect_of_a_streaming_method_is_internal() -> None:
    async def ask(channel: grpc.aio.Channel, handlers: Handlers) -> None:
        call = doubled(channel)
        await call.write(b"break")
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.INTERNAL
        assert await call.details() == INTERNAL_ERROR_TEXT

    asked(ask)
