# SPDX-License-Identifier: Apache-2.0
"""SIGTERM while requests are in flight on both protocols."""

from __future__ import annotations

import http.client
import json
import signal
import threading
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest

from ovms_mp.front.tfs._proto import tensorflow_framework_pb2 as framework
from ovms_mp.front.tfs._proto import tensorflow_serving_pb2 as serving
from tests.support.load import PREDICT, Load
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.models import ModelZoo


def slow_request() -> bytes:
    request = serving.PredictRequest()
    request.model_spec.name = "slow"
    tensor = request.inputs["x"]
    tensor.dtype = framework.DT_FLOAT
    tensor.tensor_shape.dim.add().size = 1
    tensor.tensor_content = np.array([0.5], np.float32).tobytes()
    return bytes(request.SerializeToString())


def slow_server(zoo: ModelZoo, log_path: Path, *flags: str) -> Server:
    return Server(
        ["model", "--model_name", "slow", "--model_path", str(zoo.base_path("slow")), *flags], log_path
    )


class SlowCalls:
    """Calls on the slow model, one on each protocol at a time, each in a thread."""

    def __init__(self, server: Server, each: int) -> None:
        self.answers: list[str] = []
        self._server = server
        self._threads = [
            threading.Thread(target=target) for target in (self._grpc, self._rest) for _ in range(each)
        ]
        for thread in self._threads:
            thread.start()

    def join(self, within_s: float) -> None:
        for thread in self._threads:
            thread.join(within_s)
            assert not thread.is_alive()

    def _grpc(self) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self._server.port}") as channel:
            try:
                channel.unary_unary(PREDICT, None, None)(slow_request(), timeout=60)
                self.answers.append("right")
            except grpc.RpcError as error:
                self.answers.append(f"{error.code().name}: {error.details()}")

    def _rest(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.rest_port, timeout=60)
        try:
            connection.request("POST", "/v1/models/slow:predict", json.dumps({"inputs": {"x": [0.5]}}))
            response = connection.getresponse()
            body = response.read()
            self.answers.append("right" if response.status == 200 else f"{response.status}: {body!r}")
        except (OSError, http.client.HTTPException) as error:
            self.answers.append(f"broken: {error!r}")
        finally:
            connection.close()


@pytest.mark.timeout(120)
def test_requests_in_flight_are_finished(zoo: ModelZoo, log_path: Path) -> None:
    with slow_server(zoo, log_path, "--max_queue_tasks", "100") as server:
        calls = SlowCalls(server, each=2)
        # All four are in the worker's hands once its heartbeat says so; one at a time they take a second each.
        eventually(
            lambda: _connections(server.port) >= 1 and _connections(server.rest_port) >= 2, 10.0, "calls sent"
        )
        assert server.stop(within_s=40) == 0, server.log()
        calls.join(5.0)
        assert calls.answers == ["right"] * 4, server.log()


@pytest.mark.timeout(120)
def test_grace_bounds_the_stop(zoo: ModelZoo, log_path: Path) -> None:
    with slow_server(zoo, log_path, "--stop_grace_s", "0.5") as server:
        calls = SlowCalls(server, each=4)
        eventually(lambda: _connections(server.rest_port) >= 4, 10.0, "calls sent")
        assert server.stop() == 0, server.log()
        assert "--stop_grace_s" in server.log()
        calls.join(10.0)
        assert calls.answers.count("right") < 8, "they take half a second each, one after the other"
        assert not any(answer.startswith(("500", "INTERNAL")) for answer in calls.answers), calls.answers


@pytest.mark.timeout(120)
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_is_immediate(second: signal.Signals, zoo: ModelZoo, log_path: Path) -> None:
    with slow_server(zoo, log_path) as server:
        calls = SlowCalls(server, each=4)
        eventually(lambda: _connections(server.rest_port) >= 4, 10.0, "calls sent")
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: "event=stopping" in server.log(), 5.0, "first signal seen")
        server.process.send_signal(second)
        # A stop that the first one has come to its end of would be 0.
        assert server.process.wait(timeout=30) == 128 + second
        calls.join(10.0)


@pytest.mark.timeout(120)
def test_stop_under_load_loses_no_call_that_was_begun(zoo: ModelZoo, log_path: Path) -> None:
    server = Server(
        ["model", "--model_name", "tiny", "--model_path", str(zoo.base_path("tiny"))],
        log_path,
        grpc_workers=2,
        rest_workers=2,
    )
    with server, Load(server.port, server.rest_port) as load:
        eventually(lambda: load.right_answers() > 200, 20.0, "load under way")
        assert server.stop() == 0, server.log()
        load.stop(server_is_gone=True)
    counts = load.outcome.counts
    assert counts["wrong"] == counts["other"] == counts["unavailable"] == 0, load.outcome


def _connections(port: int) -> int:
    """Established connections to a local port."""
    with open("/proc/net/tcp") as four, open("/proc/net/tcp6") as six:
        rows = [line.split() for line in (*four.readlines()[1:], *six.readlines()[1:])]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)
