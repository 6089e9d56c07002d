# SPDX-License-Identifier: Apache-2.0
"""Floor of the native front: our own HTTP/2 server that answers every call with the same bytes, parsing none."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable

import uvloop

from ovms_mp.front.call_context import CallContext
from ovms_mp.front.grpc.http2.limits import Guard, Limits
from ovms_mp.front.grpc.http2.server import Http2Server
from ovms_mp.front.methods import Unary
from perf.floors import READY_TEXTS

_PATH = "/tensorflow.serving.PredictionService/Predict"


def _answer_with(response_bytes: int) -> Callable[[bytes, CallContext], Awaitable[bytes]]:
    constant = bytes(max(response_bytes, 0))

    async def answer(request: bytes, context: CallContext) -> bytes:
        return request if response_bytes < 0 else constant

    return answer


async def _serve(port: int, response_bytes: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = Http2Server({_PATH: Unary(_PATH, _answer_with(response_bytes))}, Guard(Limits()))
    await server.start([f"127.0.0.1:{port}"])
    sys.stdout.write(READY_TEXTS["native_echo"] + "\n")
    sys.stdout.flush()
    await stop.wait()
    await server.stop(0.1)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--response-bytes", type=int, default=-1, help="size of the answer; -1 echoes the request"
    )
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(arguments.port, arguments.response_bytes))


if __name__ == "__main__":
    main()
