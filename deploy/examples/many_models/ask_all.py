# SPDX-License-Identifier: Apache-2.0
"""Asks every model of a server at once, without knowing any of them: what they take is what they say they take.

Usage: ``python ask_all.py grpc://127.0.0.1:9000 100``
"""

from __future__ import annotations

import asyncio
import sys

from ovms_mp.client import AsyncClient, ClientError

MOST_AT_ONCE = 16
"""Requests under way: a server with a thousand models gets no thousand requests in one moment."""


async def ask(client: AsyncClient, model: str, value: float, turn: asyncio.Semaphore) -> str:
    """A line about one model; its failure is a line as well."""
    async with turn:
        try:
            metadata = await client.metadata(model)
            (given,), (answered,) = metadata.inputs, metadata.outputs
            answer = await client.predict_one(model, {given.name: [value]})
        except ClientError as error:
            return f"{model}: {error}"
    return f"{value:g} {given.name} = {answer[0]:.2f} {answered.name}"


async def ask_all(url: str, value: float) -> None:
    """Print the lines of all models that are ready, and why others are not."""
    turn = asyncio.Semaphore(MOST_AT_ONCE)
    async with AsyncClient(url, timeout=10) as client:
        models = await client.models()
        names = sorted({model.name for model in models if model.is_ready})
        lines = await asyncio.gather(*[ask(client, name, value, turn) for name in names])
    print(f"{len(names)} models")
    for line in lines:
        print(line)
    for model in models:
        if not model.is_ready:
            print(f"{model.name}/{model.version} is {model.state}: {model.reason}")


def main() -> None:
    """Read the command line."""
    if len(sys.argv) != 3:
        sys.exit("usage: python ask_all.py URL VALUE")
    try:
        asyncio.run(ask_all(sys.argv[1], float(sys.argv[2])))
    except ClientError as error:
        sys.exit(f"{sys.argv[1]}: {error}")


if __name__ == "__main__":
    main()
