# SPDX-License-Identifier: Apache-2.0
"""Floor of the native front: our own HTTP/2 server that answers every call with the same bytes, parsing none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ovms_mp.front.call_context import CallContext
from ovms_mp.front.grpc.http2.limits import Guard, Limits
from ovms_mp.front.grpc.http2.server import Http2Server
from ovms_mp.front.methods import Unary
from perf.floors.echo_command import run_echo, until_stopped

_PATH = "/tensorflow.serving.PredictionService/Predict"


def _answer_with(response_bytes: int) -> Callable[[bytes, CallContext], Awaitable[bytes]]:
    constant = bytes(max(response_bytes, 0))

    async def answer(request: bytes, context: CallContext) -> bytes:
        return request if response_bytes < 0 else constant

    return answer


async def _serve(port: int, response_bytes: int) -> None:
    server = Http2Server({_PATH: Unary(_PATH, _answer_with(response_bytes))}, Guard(Limits()))
    await server.start([f"127.0.0.1:{port}"])
    await until_stopped("native_echo")
    await server.stop(0.1)


if __name__ == "__main__":
    run_echo(__doc__ or "", _serve)
