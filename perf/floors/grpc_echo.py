# SPDX-License-Identifier: Apache-2.0
"""Floor of the gRPC front: grpc.aio on uvloop that answers every call with the same bytes.

Neither request nor answer is parsed. Options are those that were found best for messages of 602 kB.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import grpc

from perf.floors.echo_command import run_echo, until_stopped

_FRAME_BYTES = 4 << 20
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.lookahead_bytes", _FRAME_BYTES),
    ("grpc.http2.max_frame_size", _FRAME_BYTES),
)

Answer = Callable[[bytes, "grpc.aio.ServicerContext[bytes, bytes]"], Awaitable[bytes]]


if TYPE_CHECKING:
    # Generic in the stubs only.
    _BytesRpcHandler = grpc.GenericRpcHandler[bytes, bytes]
else:
    _BytesRpcHandler = grpc.GenericRpcHandler


class _EveryMethod(_BytesRpcHandler):
    """Serves any method name with one unary handler on raw bytes."""

    def __init__(self, answer: Answer) -> None:
        self._handler = grpc.unary_unary_rpc_method_handler(answer)

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """The handler, whatever was called."""
        del handler_call_details
        return self._handler


def _answer_with(response_bytes: int) -> Answer:
    constant = bytes(max(response_bytes, 0))

    async def echo(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return request

    async def answer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return constant

    return echo if response_bytes < 0 else answer


async def _serve(port: int, response_bytes: int) -> None:
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((_EveryMethod(_answer_with(response_bytes)),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await until_stopped("grpc_echo")
    await server.stop(0)


if __name__ == "__main__":
    run_echo(__doc__ or "", _serve)
