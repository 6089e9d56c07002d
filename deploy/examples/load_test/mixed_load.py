# SPDX-License-Identifier: Apache-2.0
"""A load of your own: images of several sizes at a fixed rate, and a plot of how long each request took.

Usage: ``python mixed_load.py grpc://127.0.0.1:9000 --rate 100 --seconds 10 --svg mixed.svg``

Requests are sent when they are due, whether or not earlier ones have been answered, and a request's time begins when it
was due: a server that falls behind shows it, as real clients do not wait for each other either.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from pathlib import Path

import numpy as np

from ovms_mp.bench.drawing import Plot, Series, svg
from ovms_mp.client import AsyncClient, ClientError

MODEL = "net"
SIZES = {"small": 32, "medium": 64, "large": 128}
SHARES = (0.6, 0.3, 0.1)
PERCENTILES = (50, 90, 99, 100)


class Load:
    """What was measured.

    Attributes:
        took_ms: Of each answered request, with the second in which it was due, by kind.
        errors: How many failed, by code.
    """

    def __init__(self) -> None:
        self.took_ms: dict[str, list[tuple[float, float]]] = {kind: [] for kind in SIZES}
        self.errors: Counter[str] = Counter()

    async def run(self, client: AsyncClient, rate: float, seconds: float) -> None:
        """Send requests at a rate, in the order that chance gives, which is the same each time."""
        kinds = np.random.default_rng(7).choice(list(SIZES), round(rate * seconds), p=SHARES)
        start = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for number, kind in enumerate(kinds):
                due = number / rate
                await asyncio.sleep(start + due - time.perf_counter())
                tasks.create_task(self._ask(client, str(kind), start, due))

    async def _ask(self, client: AsyncClient, kind: str, start: float, due: float) -> None:
        image = np.ones((1, 3, SIZES[kind], SIZES[kind]), np.float32)
        try:
            await client.predict_one(MODEL, {"image": image})
        except ClientError as error:
            self.errors[error.code.name] += 1
        else:
            self.took_ms[kind].append((due, 1000 * (time.perf_counter() - start - due)))

    def lines(self) -> list[str]:
        """A table: each kind with its percentiles."""
        lines = ["       " + "".join(f"{'p' + str(share):>9}" for share in PERCENTILES) + "    answered"]
        for kind, points in self.took_ms.items():
            if points:
                found = np.percentile([took_ms for _, took_ms in points], PERCENTILES)
                lines.append(f"{kind:7}" + "".join(f"{ms:9.2f}" for ms in found) + f"{len(points):12}")
        return [*lines, *(f"{count} x {code}" for code, count in self.errors.items())]

    def svg(self) -> str:
        """Each request as a point, and the distribution of all of a kind as a line."""
        over_time = [Series(kind, points) for kind, points in self.took_ms.items() if points]
        shares = list(range(0, 101, 5))
        distribution = [
            Series(kind, [(share, float(np.percentile([ms for _, ms in points], share))) for share in shares])
            for kind, points in self.took_ms.items()
            if points
        ]
        return svg(
            f"{MODEL}, images of {', '.join(SIZES)} size",
            [
                Plot("Latency over time", "second", "ms", over_time, has_lines=False),
                Plot("Latency by share of requests", "% of requests", "ms", distribution),
            ],
        )


async def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, default=100, help="requests a second")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--svg", type=Path, default=Path("mixed.svg"))
    given = parser.parse_args()
    load = Load()
    async with AsyncClient(given.url, timeout=10) as client:
        await load.run(client, given.rate, given.seconds)
    print("\n".join(load.lines()))
    given.svg.write_text(load.svg())


if __name__ == "__main__":
    asyncio.run(main())
