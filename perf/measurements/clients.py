# SPDX-License-Identifier: Apache-2.0
"""Requests per second of asyncio clients with 64 in flight, by turns in the same run.

    python -m perf.measurements.clients grpc://127.0.0.1:9000 digits --triton /path/to/python

``--triton`` is a Python that has ``tritonclient[grpc]``. The server is the caller's. Each turn is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from urllib.parse import urlsplit

CODE = """
import asyncio, json, sys, time
import numpy as np

url, address, model, shape, in_flight, count, kind = json.loads(sys.argv[1])
x = np.zeros(shape, np.float32)


async def measure(ask):
    await ask()
    left = count

    async def work():
        nonlocal left
        while left > 0:
            left -= 1
            await ask()

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*[work() for _ in range(in_flight)])
    print(json.dumps([count / (time.perf_counter() - began), 1e6 * (time.process_time() - cpu) / count]))


async def ours():
    from ovms_mp.client import AsyncClient

    async with AsyncClient(url) as client:
        name = (await client.metadata(model)).inputs[0].name
        await measure(lambda: client.predict(model, {name: x}))


async def triton():
    from tritonclient.grpc import aio

    client = aio.InferenceServerClient(address)
    name = (await client.get_model_metadata(model)).inputs[0].name

    async def ask():
        given = aio.InferInput(name, shape, "FP32")
        given.set_data_from_numpy(x)
        answer = await client.infer(model, [given])
        answer.as_numpy(answer.get_response().outputs[0].name)

    await measure(ask)
    await client.close()


asyncio.run({"ours": ours, "triton": triton}[kind]())
"""


def main() -> None:
    """Print each turn's rate and processor time of a request, and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--triton", required=True)
    parser.add_argument("--shape", default="1,8,8")
    parser.add_argument("--in_flight", type=int, default=64)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--turns", type=int, default=7)
    given = parser.parse_args()
    shape = [int(size) for size in given.shape.split(",")]
    place = [given.url, urlsplit(given.url).netloc, given.model, shape, given.in_flight, given.count]
    found: dict[str, list[tuple[float, float]]] = {"triton": [], "ours": []}
    for _ in range(given.turns):
        for kind, python in (("triton", given.triton), ("ours", sys.executable)):
            command = [python, "-c", CODE, json.dumps([*place, kind])]
            done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
            rate, cpu_us = json.loads(done.stdout)
            found[kind].append((rate, cpu_us))
            print(f"{kind:8} {rate:8.0f}/s  {cpu_us:5.0f} us of the client's processor time for a request")
    rates, times = (
        [statistics.median(turn[column] for turn in found[kind]) for kind in ("ours", "triton")]
        for column in (0, 1)
    )
    print(f"ours to triton: {rates[0] / rates[1]:.2f} times the rate, {times[0] / times[1]:.2f} of the time")


if __name__ == "__main__":
    main()
