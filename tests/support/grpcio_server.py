# SPDX-License-Identifier: Apache-2.0
"""grpcio's server with methods of its own, for tests: ``python -m tests.support.grpcio_server PORT``.

In a process of its own, as grpcio's threads do not end with an event loop.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import TYPE_CHECKING

from ovms_mp.child.specs import FrontLimits
from ovms_mp.errors import ModelNotFound
from ovms_mp.front.gathered import Gathered
from ovms_mp.front.grpc.grpcio import create_server
from ovms_mp.front.methods import Streaming, Unary, by_path

if TYPE_CHECKING:
    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.methods import MessageStream

LIMITS = FrontLimits(
    request_timeout_s=20,
    retry_window_s=1,
    max_message_bytes=1 << 20,
    max_unpacked_bytes=0,
    max_image_megapixels=32,
    max_body_memory_bytes=64 << 20,
)


class Handlers:
    """A unary and a streaming method, and one that tells of its call and of what was released."""

    def __init__(self) -> None:
        self._released = 0

    async def gather(self, request: bytes, context: CallContext) -> Gathered:
        """The request twice."""
        return Gathered([request, memoryview(request)], self._release)

    def _release(self) -> None:
        self._released += 1

    async def tell(self, request: bytes, context: CallContext) -> bytes:
        """What is known of the call."""
        return json.dumps(
            {
                "protocol": context.protocol,
                "method": context.method,
                "flow": context.flow,
                "has_deadline": context.deadline_ns > 0,
                "y": [value for name, value in context.metadata if name == "y"],
                "peer": context.peer,
                "released": self._released,
            }
        ).encode()

    async def refuse(self, request: bytes, context: CallContext) -> bytes:
        """Say no at length."""
        raise ModelNotFound("m" * 2000)

    async def double(self, stream: MessageStream, context: CallContext) -> None:
        """Each message twice, until one says ``break``."""
        async for message in stream:
            if message == b"break":
                raise KeyError("secret")
            await stream.send(Gathered([message, message], self._release))


async def _serve(port: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    handlers = Handlers()
    methods = by_path(
        [
            Unary("/s/Gather", handlers.gather, max_bytes=100, protocol="p"),
            Unary("/s/Tell", handlers.tell, protocol="p"),
            Unary("/s/Refuse", handlers.refuse),
            Streaming("/s/Double", handlers.double, "p"),
        ]
    )
    server = create_server(methods, [f"127.0.0.1:{port}"], LIMITS)
    await server.start()
    await stop.wait()
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
