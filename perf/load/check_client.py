# SPDX-License-Identifier: Apache-2.0
"""Program that sends requests and compares every answer with the expected one.

Requests differ, and so do their answers.

It runs beside h2load, which compares nothing: a server that mixes up answers, repeats an old one or answers a
partly overwritten tensor is caught here. gRPC by grpc.aio, REST by http.client in threads. Bounded in time
and in count.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy.typing as npt
from google.protobuf.message import DecodeError

from perf.load.bodies import (
    HEAD_LENGTH,
    RestRequest,
    grpc_output,
    infer_body,
    infer_body_output,
    infer_output,
    infer_request,
    predict_request,
    rest_body,
    rest_output,
)
from perf.load.h2load import GRPC_METHODS, REST_PATHS, Protocol, percentile
from perf.models.declared import MODELS, Float32Array, ModelSpec, is_expected, load_reference

_FORMS: Mapping[Protocol, tuple[Callable[..., bytes], Callable[..., npt.NDArray[Any]]]] = {
    "grpc": (predict_request, grpc_output),
    "kserve_grpc": (infer_request, infer_output),
}
_MOST_NOTES = 5


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The program's answer, one JSON line; fields as in :class:`perf.report.records.Check`."""

    right: int
    wrong: int
    failed: int
    p50_ms: float | None
    p99_ms: float | None
    answer_bytes: int | None
    notes: tuple[str, ...]


class Tally:
    """Counts answers; shared by the client's threads."""

    def __init__(self, spec: ModelSpec, expected: Float32Array) -> None:
        self._spec = spec
        self._expected = expected
        self._lock = threading.Lock()
        self._right = self._wrong = self._failed = 0
        self._latencies_ms: list[float] = []
        self._answer_bytes: int | None = None
        self._notes: list[str] = []

    def answered(self, index: int, output: npt.NDArray[Any], elapsed_s: float, answer_bytes: int) -> None:
        """Compare the answer to request ``index``."""
        is_right = is_expected(self._spec, output, self._expected[index])
        with self._lock:
            if is_right:
                self._right += 1
                self._latencies_ms.append(elapsed_s * 1000)
                if index == 0:
                    self._answer_bytes = answer_bytes
            else:
                self._wrong += 1
                self._note(
                    f"request {index}: shape {output.shape}, begins {output.ravel()[:4].tolist()}, "
                    f"{self._whose(output)}"
                )

    def malformed(self, index: int, error: Exception) -> None:
        """An answer with a good status that cannot be read is a wrong one."""
        with self._lock:
            self._wrong += 1
            self._note(f"request {index}: {type(error).__name__}: {error}")

    def failed(self, index: int, reason: str) -> None:
        """The call ended with an error."""
        with self._lock:
            self._failed += 1
            self._note(f"request {index}: {reason}")

    def outcome(self) -> Outcome:
        """The counts."""
        ordered = sorted(self._latencies_ms)
        return Outcome(
            right=self._right,
            wrong=self._wrong,
            failed=self._failed,
            p50_ms=percentile(ordered, 0.5),
            p99_ms=percentile(ordered, 0.99),
            answer_bytes=self._answer_bytes,
            notes=tuple(self._notes),
        )

    def _whose(self, output: npt.NDArray[Any]) -> str:
        others = [n for n, expected in enumerate(self._expected) if is_expected(self._spec, output, expected)]
        return f"the answer to request {others[0]}" if others else "nobody's answer"

    def _note(self, text: str) -> None:
        if len(self._notes) < _MOST_NOTES:
            self._notes.append(text)


class Schedule:
    """Hands out the numbers of the next requests until time or count is used up; shared by threads."""

    def __init__(self, references: int, seconds: float, max_requests: int) -> None:
        self._ends_s = time.monotonic() + seconds
        self._numbers = itertools.islice(itertools.cycle(range(references)), max_requests)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[int]:
        """Numbers for one client; several may iterate at once."""
        while time.monotonic() < self._ends_s:
            with self._lock:
                index = next(self._numbers, None)
            if index is None:
                return
            yield index


async def check_grpc(
    protocol: Protocol,
    port: int,
    concurrency: int,
    timeout_s: float,
    spec: ModelSpec,
    inputs: Float32Array,
    tally: Tally,
    schedule: Schedule,
) -> None:
    """Call the protocol's method with ``concurrency`` calls in flight on one channel."""
    request_of, output_of = _FORMS[protocol]
    requests = [request_of(spec, image) for image in inputs]
    options = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        # Bytes in, bytes out: the decoding is not to count as the call's time.
        predict = channel.unary_unary(
            GRPC_METHODS[protocol], request_serializer=bytes, response_deserializer=bytes
        )

        async def one_client() -> None:
            for index in schedule:
                started_s = time.perf_counter()
                try:
                    response: bytes = await predict(requests[index], timeout=timeout_s)
                except grpc.aio.AioRpcError as error:
                    tally.failed(index, f"{error.code().name}: {error.details()}")
                    continue
                elapsed_s = time.perf_counter() - started_s
                try:
                    tally.answered(index, output_of(spec, response), elapsed_s, len(response))
                except (KeyError, ValueError, DecodeError) as error:
                    tally.malformed(index, error)

        await asyncio.gather(*(one_client() for _ in range(concurrency)))


def _rest_request(protocol: Protocol, spec: ModelSpec, image: Float32Array) -> RestRequest:
    return rest_body(image) if protocol == "rest" else infer_body(spec, image)


def _rest_output(spec: ModelSpec, answer: bytes, head_length: str | None) -> npt.NDArray[Any]:
    return rest_output(answer) if head_length is None else infer_body_output(spec, answer, int(head_length))


def check_rest(
    protocol: Protocol,
    port: int,
    concurrency: int,
    timeout_s: float,
    spec: ModelSpec,
    inputs: Float32Array,
    tally: Tally,
    schedule: Schedule,
) -> None:
    """POST with ``concurrency`` threads, each with a connection of its own."""
    requests = [_rest_request(protocol, spec, image) for image in inputs]
    path = REST_PATHS[protocol].format(model=spec.name)

    def one_client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        for index in schedule:
            started_s = time.perf_counter()
            try:
                connection.request("POST", path, *requests[index])
                response = connection.getresponse()
                answer = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                tally.failed(index, f"{type(error).__name__}: {error}")
                continue
            elapsed_s = time.perf_counter() - started_s
            if response.status != http.client.OK:
                tally.failed(index, f"HTTP {response.status}: {answer[:200]!r}")
                continue
            try:
                output = _rest_output(spec, answer, response.getheader(HEAD_LENGTH))
                tally.answered(index, output, elapsed_s, len(answer))
            except (KeyError, ValueError, TypeError) as error:
                tally.malformed(index, error)
        connection.close()

    clients = [threading.Thread(target=one_client) for _ in range(concurrency)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


def main() -> None:
    """Check and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--protocol", choices=(*GRPC_METHODS, *REST_PATHS), required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", choices=sorted(MODELS), required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--max-requests", type=int, default=20_000)
    parser.add_argument("--timeout-s", type=float, default=30.0)
    given = parser.parse_args()
    spec = MODELS[given.model]
    inputs, expected = load_reference(given.reference)
    tally = Tally(spec, expected)
    schedule = Schedule(len(inputs), given.seconds, given.max_requests)
    arguments = given.concurrency, given.timeout_s, spec, inputs, tally, schedule
    if given.protocol in REST_PATHS:
        check_rest(given.protocol, given.port, *arguments)
    else:
        asyncio.run(check_grpc(given.protocol, given.port, *arguments))
    sys.stdout.buffer.write(msgspec.json.encode(tally.outcome()) + b"\n")


if __name__ == "__main__":
    main()
