# SPDX-License-Identifier: Apache-2.0
"""Compares models that differ in their `plugin_config` only: their answers, and how long they take.

Usage: ``python compare.py grpc://127.0.0.1:9000 adaptive throughput one_core``
"""

from __future__ import annotations

import asyncio
import sys
import time
from statistics import median

import numpy as np

from ovms_mp.client import AsyncClient, ClientError

ALONE = 50
TOGETHER = 200
IN_FLIGHT = 8
CLOSE = 1e-3
"""Devices round differently; what is further apart is another answer."""

X = np.random.default_rng(5).normal(size=(1, 64)).astype(np.float32)


async def alone_ms(client: AsyncClient, model: str) -> float:
    """How long a request takes that has the server for itself."""
    took_ms = []
    for _ in range(ALONE):
        start = time.perf_counter()
        await client.predict(model, {"x": X})
        took_ms.append(1000 * (time.perf_counter() - start))
    return median(took_ms)


async def rate(client: AsyncClient, model: str) -> float:
    """How many a second are answered while several are always under way."""

    async def ask_again_and_again() -> None:
        for _ in range(TOGETHER // IN_FLIGHT):
            await client.predict(model, {"x": X})

    start = time.perf_counter()
    await asyncio.gather(*[ask_again_and_again() for _ in range(IN_FLIGHT)])
    return TOGETHER / (time.perf_counter() - start)


async def compare(url: str, models: list[str]) -> None:
    """A line for each model."""
    async with AsyncClient(url, timeout=10) as client:
        answers = {model: await client.predict_one(model, {"x": X}) for model in models}
        first = answers[models[0]]
        print(f"{'':12}{'alone ms':>9}{'together/s':>12}  class  answer")
        for model, answer in answers.items():
            is_same = np.allclose(answer, first, atol=CLOSE)
            print(
                f"{model:12}{await alone_ms(client, model):9.2f}{await rate(client, model):12.0f}"
                f"{answer.argmax():7}  {'the same' if is_same else 'another one'}"
            )


def main() -> None:
    """Read the command line."""
    if len(sys.argv) < 3:
        sys.exit("usage: python compare.py URL MODEL...")
    url, *models = sys.argv[1:]
    try:
        asyncio.run(compare(url, models))
    except ClientError as error:
        sys.exit(f"{url}: {error}")


if __name__ == "__main__":
    main()
