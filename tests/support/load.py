# SPDX-License-Identifier: Apache-2.0
"""Clients that keep asking the ``tiny`` model on both protocols and judge every answer."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import numpy as np

from ovms_mp.front.tfs._proto import tensorflow_framework_pb2 as framework
from ovms_mp.front.tfs._proto import tensorflow_serving_pb2 as serving

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from tests.support.tls import ClientTls

HUNG_AFTER_S = 20.0
"""Longest time a client waits; an answer later than that is a hang."""
PREDICT = "/tensorflow.serving.PredictionService/Predict"


@dataclass
class Outcome:
    """What all clients saw.

    Attributes:
        counts: right, wrong, unavailable (UNAVAILABLE or 503 with a reason), reset (of the client's own connection),
            turned_away (CANCELLED before a handler had the call),
            hung, other.
        others: Texts of the unexplained failures.
        slowest_failure_s: Longest time to an UNAVAILABLE or 503.
    """

    counts: Counter[str] = field(default_factory=Counter)
    others: list[str] = field(default_factory=list)
    slowest_failure_s: float = 0.0

    @property
    def right_share(self) -> float:
        """Share of right answers."""
        total = sum(self.counts.values())
        return self.counts["right"] / total if total else 0.0


class Load:
    """Threads with a connection each: half gRPC, half REST. Use as a context; the outcome is complete at its end.

    Args:
        port: gRPC's.
        rest_port: REST's.
        clients: How many threads.
        pause_s: What each waits after an answer; 0 where the load itself is what matters.
        tls: What the clients trust and show; None where ports are plain.
    """

    def __init__(
        self,
        port: int,
        rest_port: int,
        clients: int = 16,
        pause_s: float = 0.0,
        tls: ClientTls | None = None,
    ) -> None:
        self.outcome = Outcome()
        self.asked: Counter[int] = Counter()
        """Requests that each client has begun."""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._pending: dict[int, grpc.CallFuture[serving.PredictResponse]] = {}
        self._threads = [
            threading.Thread(
                target=self._ask_grpc if index % 2 else self._ask_rest, args=(index,), daemon=True
            )
            for index in range(clients)
        ]
        self._pause_s = pause_s
        self._tls = tls
        self._port = port
        self._rest_port = rest_port
        self._is_server_gone = False

    def __enter__(self) -> Self:
        """Start asking."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop asking and wait for the last answers."""
        self.stop()

    def stop(self, *, server_is_gone: bool = False) -> None:
        """Stop asking and wait for the last answers; where no server is left, let go of those who wait for one."""
        self._stopping.set()
        if server_is_gone:
            with self._lock:
                self._is_server_gone = True
                for call in self._pending.values():
                    call.cancel()  # type: ignore[no-untyped-call]  # the stubs leave it untyped
        for thread in self._threads:
            thread.join(HUNG_AFTER_S + 5.0)
            if thread.is_alive():
                self._note("hung", "a client thread did not end")

    def right_answers(self) -> int:
        """Right answers so far."""
        with self._lock:
            return self.outcome.counts["right"]

    def _note(self, what: str, text: str = "", seconds: float = 0.0) -> None:
        with self._lock:
            self.outcome.counts[what] += 1
            if what in ("other", "wrong", "hung"):
                self.outcome.others.append(text)
            if what == "unavailable":
                self.outcome.slowest_failure_s = max(self.outcome.slowest_failure_s, seconds)

    def _ask_grpc(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        options = (("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200),
                   ("grpc.min_reconnect_backoff_ms", 50), ("grpc.use_local_subchannel_pool", 1))  # fmt: skip
        address = f"127.0.0.1:{self._port}"
        with (
            grpc.secure_channel(address, self._tls.credentials(), options)
            if self._tls
            else grpc.insecure_channel(address, options)
        ) as channel:
            call = channel.unary_unary(
                PREDICT,
                request_serializer=serving.PredictRequest.SerializeToString,
                response_deserializer=serving.PredictResponse.FromString,
            )
            while not self._stopping.wait(self._pause_s):
                values = random.integers(-1000, 1000, (1, 10)).astype(np.float32)
                request = serving.PredictRequest()
                request.model_spec.name = "tiny"
                tensor = request.inputs["x"]
                tensor.dtype = framework.DT_FLOAT
                for size in values.shape:
                    tensor.tensor_shape.dim.add().size = size
                tensor.tensor_content = values.tobytes()
                self.asked[seed] += 1
                start = time.monotonic()
                pending = call.future(request, timeout=HUNG_AFTER_S, wait_for_ready=True)
                with self._lock:
                    self._pending[seed] = pending
                    if self._is_server_gone:  # This call began behind those that stop() let go of.
                        pending.cancel()  # type: ignore[no-untyped-call]  # the stubs leave it untyped
                try:
                    response = pending.result()
                except grpc.FutureCancelledError:
                    return
                except grpc.RpcError as error:
                    if self._stopping.is_set() and error.code() is grpc.StatusCode.CANCELLED:
                        return  # By stop(), as it says.
                    self._note(*_judge_rpc(error), time.monotonic() - start)
                    continue
                answer = np.frombuffer(response.outputs["y"].tensor_content, np.float32)
                is_right = np.array_equal(answer, values[0] + 1)
                self._note("right" if is_right else "wrong", f"gRPC: asked {values}, got {answer}")

    def _ask_rest(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        connection = (
            self._tls.connection(self._rest_port, HUNG_AFTER_S)
            if self._tls
            else http.client.HTTPConnection("127.0.0.1", self._rest_port, timeout=HUNG_AFTER_S)
        )
        while not self._stopping.wait(self._pause_s):
            values = [int(value) for value in random.integers(-1000, 1000, 10)]
            self.asked[seed] += 1
            start = time.monotonic()
            try:
                connection.request("POST", "/v1/models/tiny:predict", json.dumps({"instances": [values]}))
                response = connection.getresponse()
                body = response.read()
            except TimeoutError:
                connection.close()
                self._note("hung", "REST: no answer")
                continue
            except (OSError, http.client.HTTPException):
                connection.close()
                self._note("reset")
                # A refused connection comes back at once; the next try should find a server.
                self._stopping.wait(0.01)
                continue
            if response.status == 503 and b"error" in body:
                self._note("unavailable", "", time.monotonic() - start)
            elif response.status != 200:
                self._note("other", f"REST {response.status}: {body[:300]!r}")
            else:
                is_right = json.loads(body) == {"predictions": [[value + 1.0 for value in values]]}
                self._note("right" if is_right else "wrong", f"REST: asked {values}, got {body[:300]!r}")
        connection.close()


def _judge_rpc(error: grpc.RpcError) -> tuple[str, str]:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        # Texts of grpcio's own for a broken connection; everything else the server has said.
        of_transport = (
            "Socket closed",
            "recvmsg",
            "Connection reset",
            "connection",
            "GOAWAY",
            "sendmsg",
            "transport",
        )
        if any(text.lower() in details.lower() for text in of_transport):
            return "reset", details
        return ("unavailable", details) if details else ("other", "UNAVAILABLE without a reason")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "hung", details
    if code is grpc.StatusCode.CANCELLED:
        # grpcio's server does so to calls that it has read from the wire and given to no handler when it stops.
        return "turned_away", details
    return "other", f"gRPC {code}: {details}"
