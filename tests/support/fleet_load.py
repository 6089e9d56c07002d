# SPDX-License-Identifier: Apache-2.0
"""Clients of a fleet's one address that judge every answer: ``python -m tests.support.fleet_load HOST:PORT SECONDS``.

Two threads for each of both APIs over both protocols, each with a connection of its own; as a process of its own, so
that it can be on another machine. On standard output comes ``asking`` once all have begun, and at the end what they
saw as one JSON object.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import struct
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import grpc

from ovms_mp.front.kserve._proto import kserve_pb2 as kserve
from ovms_mp.front.tfs._proto import tensorflow_framework_pb2 as framework
from ovms_mp.front.tfs._proto import tensorflow_serving_pb2 as serving

if TYPE_CHECKING:
    from collections.abc import Callable

HUNG_AFTER_S = 30.0
SLOW_S = 2.0
_COUNT = 10
_CHANNEL = (
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)
_TRIES = 8
_AFTER_S = 0.25


class Failed(Exception):
    """A call has failed in a way that a client may see of a server that is gone."""


class Wrong(Exception):
    """An answer is not right, or there was none."""


def _grpc(
    target: str, method: str, body: bytes, read: Callable[[bytes], list[float]]
) -> Callable[[], list[float]]:
    channel = grpc.insecure_channel(target, options=[*_CHANNEL, ("grpc.use_local_subchannel_pool", 1)])
    call = channel.unary_unary(method, request_serializer=None, response_deserializer=None)

    def ask() -> list[float]:
        try:
            return read(call(body, timeout=HUNG_AFTER_S))
        except grpc.RpcError as error:
            text = f"{error.code().name}: {error.details()}"
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise Failed(text) from None
            raise Wrong(text) from None

    return ask


def _rest(
    target: str, path: str, body: bytes, read: Callable[[bytes], list[float]]
) -> Callable[[], list[float]]:
    connections: list[http.client.HTTPConnection] = []

    def ask() -> list[float]:
        if not connections:
            connections.append(http.client.HTTPConnection(target, timeout=HUNG_AFTER_S))
        try:
            connections[0].request("POST", path, body, {"content-type": "application/json"})
            response = connections[0].getresponse()
            content = response.read()
        except TimeoutError:
            connections.pop().close()
            raise Wrong("hung") from None
        except (OSError, http.client.HTTPException) as error:
            connections.pop().close()
            raise Failed(f"{type(error).__name__}: {error}") from None
        if response.status in (502, 503, 504):
            raise Failed(f"{response.status}: {content[:200]!r}")
        if response.status != 200:
            raise Wrong(f"{response.status}: {content[:200]!r}")
        return read(content)

    return ask


def asks(target: str, model: str, shift: int) -> dict[str, Callable[[], list[float]]]:
    """A function for each API and protocol, which gives the values of the answer."""
    values = [float(shift + index) for index in range(_COUNT)]
    raw = struct.pack(f"<{_COUNT}f", *values)
    shape = framework.TensorShapeProto(
        dim=[framework.TensorShapeProto.Dim(size=each) for each in (1, _COUNT)]
    )
    tensor = framework.TensorProto(dtype=framework.DT_FLOAT, tensor_shape=shape, tensor_content=raw)
    predict = serving.PredictRequest(model_spec=serving.ModelSpec(name=model), inputs={"x": tensor})
    infer = kserve.ModelInferRequest(
        model_name=model,
        inputs=[kserve.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, _COUNT])],
        raw_input_contents=[raw],
    )
    v2 = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, _COUNT], "data": values}]}

    def floats(content: bytes) -> list[float]:
        return list(struct.unpack(f"<{_COUNT}f", content))

    return {
        "tfs-grpc": _grpc(
            target,
            "/tensorflow.serving.PredictionService/Predict",
            predict.SerializeToString(),
            lambda body: floats(serving.PredictResponse.FromString(body).outputs["y"].tensor_content),
        ),
        "kserve-grpc": _grpc(
            target,
            "/inference.GRPCInferenceService/ModelInfer",
            infer.SerializeToString(),
            lambda body: floats(kserve.ModelInferResponse.FromString(body).raw_output_contents[0]),
        ),
        "tfs-rest": _rest(
            target,
            f"/v1/models/{model}:predict",
            json.dumps({"instances": [values]}).encode(),
            lambda body: json.loads(body)["predictions"][0],
        ),
        "kserve-rest": _rest(
            target,
            f"/v2/models/{model}/infer",
            json.dumps(v2).encode(),
            lambda body: json.loads(body)["outputs"][0]["data"],
        ),
    }


class Clients:
    """All threads, and what they saw."""

    def __init__(self, target: str, model: str, added: frozenset[int], tries: int, pause_s: float) -> None:
        self._target = target
        self._model = model
        self._added = added
        self._tries = tries
        self._pause_s = pause_s
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self.counts: Counter[str] = Counter()
        self.failures: list[tuple[float, float, str, str]] = []
        self.repeated: list[tuple[float, float, str, str]] = []
        self.wrong: list[str] = []
        self.slow: list[tuple[float, float, str]] = []
        self.slowest_s = 0.0
        self.changes: list[tuple[float, str, float | None, float]] = []

    def run(self, seconds: float, each: int) -> None:
        """Ask for so long."""
        threads = []
        for number in range(each):
            for kind, ask in asks(self._target, self._model, 100 * number).items():
                threads.append(
                    threading.Thread(target=self._keep_asking, args=(kind, ask, 100.0 * number), daemon=True)
                )
        for thread in threads:
            thread.start()
        sys.stdout.write("asking\n")
        sys.stdout.flush()
        self._stopping.wait(seconds)
        self.stop()
        deadline_s = time.monotonic() + HUNG_AFTER_S + 5
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
            self.counts["hung"] += thread.is_alive()

    def stop(self) -> None:
        """Ask nothing more."""
        self._stopping.set()

    def _keep_asking(self, kind: str, ask: Callable[[], list[float]], first: float) -> None:
        last: float | None = None
        while not self._stopping.wait(self._pause_s):
            started_s = time.monotonic()
            try:
                values = self._asked(kind, ask)
                added = {round(value - first - index, 3) for index, value in enumerate(values)}
                if len(added) != 1 or not added <= self._added:
                    raise Wrong(f"answer {values[:3]}")
            except Failed as error:
                took_s = time.monotonic() - started_s
                with self._lock:
                    self.slowest_s = max(self.slowest_s, took_s)
                    self.failures.append((time.time(), took_s, kind, str(error)))
                    self.counts[f"failed {kind}"] += 1
                continue
            except Exception as error:
                # Also what is no answer at all, which is not to end the thread.
                with self._lock:
                    self.wrong.append(f"{time.time():.2f} {kind}: {type(error).__name__} {error}")
                continue
            took_s, before = time.monotonic() - started_s, last
            last = added.pop()
            with self._lock:
                self.counts[f"right {kind}"] += 1
                self.counts[f"added {last:g}"] += 1
                if before not in (None, last):
                    self.changes.append((time.time(), kind, before, last))
                self.slowest_s = max(self.slowest_s, took_s)
                if took_s > SLOW_S:
                    self.slow.append((time.time(), took_s, kind))

    def _asked(self, kind: str, ask: Callable[[], list[float]]) -> list[float]:
        for _ in range(self._tries - 1):
            started_s = time.monotonic()
            try:
                return ask()
            except Failed as error:
                with self._lock:
                    self.repeated.append((time.time(), time.monotonic() - started_s, kind, str(error)))
                    self.counts["repeated"] += 1
            self._stopping.wait(_AFTER_S)
        return ask()


def main() -> None:
    """Ask, and print; less long where SIGTERM comes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--added", default="1", help="right differences between outputs and inputs")
    parser.add_argument("--retries", action="store_true")
    parser.add_argument("--each", type=int, default=2)
    parser.add_argument("--pause", type=float, default=0.02)
    given = parser.parse_args()
    added = frozenset(map(int, given.added.split(",")))
    clients = Clients(given.target, given.model, added, _TRIES if given.retries else 1, given.pause)
    signal.signal(signal.SIGTERM, lambda *_: clients.stop())
    clients.run(given.seconds, given.each)
    seen = {
        "counts": clients.counts,
        "failures": clients.failures,
        "repeated": clients.repeated,
        "wrong": clients.wrong[:50],
        "wrong_count": len(clients.wrong),
        "slow": clients.slow,
        "slowest_s": clients.slowest_s,
        "changes": clients.changes,
    }
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main()
