# SPDX-License-Identifier: Apache-2.0
"""Open-loop clients in a process of their own: requests leave at their rate, whatever becomes of those before them.

``python -m tests.support.overload_client '[{load}, ...]'`` runs all loads at once and writes a JSON list of what each
has seen.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc
import grpc.aio

PREDICT = "/tensorflow.serving.PredictionService/Predict"
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
_PATIENCE_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """One client.

    Attributes:
        protocol: ``grpc``, on one connection, or ``rest``, on as many as it takes.
        port: Of that protocol.
        body: The request: a PredictRequest in hexadecimal digits, or JSON.
        rate: Requests a second.
        seconds: For so long.
        deadline_s: After which it gives up: by its call's deadline, or by closing its connection.
        says_deadline: Whether it tells the server of its deadline over REST, too, and waits for what that says then.
        source: Its address.
        model: For REST.
    """

    protocol: str
    port: int
    body: str
    rate: float
    seconds: float
    deadline_s: float = 60.0
    says_deadline: bool = False
    source: str = "127.0.0.1"
    model: str = ""


@dataclass
class Seen:
    """What a load has seen: seconds from a request's start to each kind of end.

    Attributes:
        answered: Right answers.
        refused: RESOURCE_EXHAUSTED or 429.
        pushed_back: Those of them that say after what time to try again, in seconds.
        expired: The client's own deadline.
        others: Texts of all other ends.
    """

    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    pushed_back: list[float] = field(default_factory=list)
    expired: list[float] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def run(*loads: Load) -> list[Seen]:
    """Run loads at once in a process of their own."""
    longest_s = max(load.seconds for load in loads)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.overload_client", json.dumps([asdict(load) for load in loads])],
        stdout=subprocess.PIPE,
        text=True,
        timeout=longest_s + _PATIENCE_S,
        check=True,
    )
    return [
        Seen(**{**document, "others": Counter(document["others"])}) for document in json.loads(done.stdout)
    ]


async def _run(load: Load) -> Seen:
    seen = Seen()
    client = _Grpc(load, seen) if load.protocol == "grpc" else _Rest(load, seen)
    begun_s = time.monotonic()
    tasks = []
    for number in range(max(1, int(load.rate * load.seconds))):
        await asyncio.sleep(begun_s + number / load.rate - time.monotonic())
        tasks.append(asyncio.create_task(client.ask()))
    await asyncio.gather(*tasks)
    await client.close()
    return seen


class _Grpc:
    def __init__(self, load: Load, seen: Seen) -> None:
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{load.port}", options=_OPTIONS)
        self._call = self._channel.unary_unary(PREDICT, request_serializer=None, response_deserializer=None)
        self._body = bytes.fromhex(load.body)
        self._deadline_s, self._seen = load.deadline_s, seen

    async def ask(self) -> None:
        begun_s = time.monotonic()
        try:
            await self._call(self._body, timeout=self._deadline_s)
        except grpc.aio.AioRpcError as error:
            took_s = time.monotonic() - begun_s
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                self._seen.refused.append(took_s)
                metadata: Any = error.trailing_metadata()  # Any: the stubs take it for a tuple.
                pushback_ms = metadata.get("grpc-retry-pushback-ms")
                if pushback_ms is not None:
                    self._seen.pushed_back.append(int(pushback_ms) / 1000)
            elif error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self._seen.expired.append(took_s)
            else:
                self._seen.others[f"{error.code().name}: {error.details()}"] += 1
        else:
            self._seen.answered.append(time.monotonic() - begun_s)

    async def close(self) -> None:
        await self._channel.close(None)


class _Rest:
    def __init__(self, load: Load, seen: Seen) -> None:
        self._load, self._seen = load, seen
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        body = load.body.encode()
        deadline = f"X-Request-Timeout-Seconds: {load.deadline_s:.6f}\r\n" if load.says_deadline else ""
        head = (
            f"POST /v1/models/{load.model}:predict HTTP/1.1\r\nHost: t\r\n{deadline}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._request = head.encode() + body
        self._patience_s = load.deadline_s + (_PATIENCE_S / 4 if load.says_deadline else 0.0)

    async def ask(self) -> None:
        begun_s = time.monotonic()
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(self._patience_s):
                if not self._idle:
                    self._idle.append(
                        await asyncio.open_connection(
                            "127.0.0.1", self._load.port, local_addr=(self._load.source, 0)
                        )
                    )
                reader, writer = self._idle.pop()
                writer.write(self._request)
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
                text = (await reader.readexactly(int(fields["content-length"]))).decode()
        except TimeoutError:
            self._seen.expired.append(time.monotonic() - begun_s)
            if writer is not None:
                writer.close()
            return
        except (OSError, asyncio.IncompleteReadError) as error:
            self._seen.others[repr(error)] += 1
            return
        took_s, status = time.monotonic() - begun_s, int(head.split()[1])
        self._idle.append((reader, writer))
        if status == 200:
            self._seen.answered.append(took_s)
        elif status == 429:
            self._seen.refused.append(took_s)
            self._seen.pushed_back.append(float(fields["retry-after"]))
        elif status == 504:
            self._seen.expired.append(took_s)
        else:
            self._seen.others[f"{status}: {text}"] += 1

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


async def _main() -> None:
    loads = [Load(**document) for document in json.loads(sys.argv[1])]
    seen = await asyncio.gather(*map(_run, loads))
    json.dump([asdict(each) for each in seen], sys.stdout)


if __name__ == "__main__":
    asyncio.run(_main())
