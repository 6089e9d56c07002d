# SPDX-License-Identifier: Apache-2.0
"""``tritonclient.grpc.aio`` and ``tritonclient.http.aio``, as their users call them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http.aio as http_aio
from cases import Address, run

X = np.arange(10, dtype=np.float32).reshape(1, 10)


def given(module: Any, array: Any) -> Any:
    """The input ``x`` with its data."""
    made = module.InferInput("x", list(array.shape), "FP32")
    made.set_data_from_numpy(array)
    return made


async def case_grpc(address: Address) -> None:
    """Many at once on one channel."""
    async with grpc_aio.InferenceServerClient(address.grpc) as client:
        assert await client.is_server_ready()
        calls = [client.infer("tiny", [given(grpc_aio, X + index)]) for index in range(32)]
        for index, result in enumerate(await asyncio.gather(*calls)):
            assert result.as_numpy("y").tobytes() == (X + index + 1).tobytes()


async def case_grpc_stream(address: Address) -> None:
    """Requests from a generator, answers in order."""

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for index in range(10):
            yield {"model_name": "tiny", "inputs": [given(grpc_aio, X + index)], "request_id": str(index)}

    async with grpc_aio.InferenceServerClient(address.grpc) as client:
        index = 0
        async for result, error in client.stream_infer(requests()):
            assert error is None
            assert result.get_response().id == str(index)
            assert result.as_numpy("y").tobytes() == (X + index + 1).tobytes()
            index += 1
        assert index == 10


async def case_http(address: Address) -> None:
    """Many at once."""
    async with http_aio.InferenceServerClient(address.rest) as client:
        assert await client.is_server_live()
        calls = [client.infer("tiny", [given(http_aio, X + index)]) for index in range(32)]
        for index, result in enumerate(await asyncio.gather(*calls)):
            assert result.as_numpy("y").tobytes() == (X + index + 1).tobytes()


if __name__ == "__main__":
    run(__name__)
