# SPDX-License-Identifier: Apache-2.0
"""Probes of all kinds: what they are told as models load and fail, the server stops, and the manager is silent."""

from __future__ import annotations

import base64
import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ovms_mp.front.health._proto import grpc_health_pb2 as health
from tests.support import rest_client
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.models import ModelZoo
    from tests.support.tfs_client import Call, TfsClient

CLIENT = Path(__file__).parents[1] / "support" / "clients" / "standard_services.py"
CLIENT_WITHIN_S = 60.0
NOTICED_S = 15.0
X = np.arange(10, dtype=np.float32)[None]
SERVICES = (
    "inference.GRPCInferenceService",
    "tensorflow.serving.ModelService",
    "tensorflow.serving.PredictionService",
)
FRONTS = pytest.mark.parametrize("front", ["native", "grpcio"])


def with_a_broken_model(zoo: ModelZoo, directory: Path) -> str:
    """A configuration of tiny, which is served, and of one that cannot be read."""
    (directory / "broken" / "1").mkdir(parents=True)
    (directory / "broken" / "1" / "model.xml").write_text("this is no model")
    (directory / "broken" / "1" / "model.bin").write_bytes(b"")
    paths = {"tiny": zoo.base_path("tiny"), "broken": directory / "broken"}
    entries = [{"config": {"name": name, "base_path": str(path)}} for name, path in paths.items()]
    config = directory / "config.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    return str(config)


def serving(zoo: ModelZoo, *flags: str) -> list[str]:
    return ["model", "--model_name", "tiny", "--model_path", str(zoo.base_path("tiny")), *flags]


def probe(server: Server, what: str) -> tuple[int, str]:
    """A REST probe's status, and what it says."""
    reply = rest_client.request(server.rest_port, "GET", f"/v2/health/{what}")
    return reply.status, reply.text()


def check(tfs: TfsClient, server: Server, name: str = "") -> str:
    """The status that the standard service has for a name."""
    request = health.HealthCheckRequest(service=name).SerializeToString()
    reply = tfs.start_raw(server.port, "/grpc.health.v1.Health/Check", request).wait()
    assert reply.code == "OK", reply
    answer = health.HealthCheckResponse.FromString(base64.b64decode(reply.response["body"]))
    return str(health.HealthCheckResponse.ServingStatus.Name(answer.status))


def watch(tfs: TfsClient, server: Server, name: str = "") -> Call:
    request = health.HealthCheckRequest(service=name).SerializeToString()
    return tfs.start_raw_stream(server.port, "/grpc.health.v1.Health/Watch", [request])


def watched(call: Call) -> tuple[str, list[str]]:
    """How a watch ended, and what it was told."""
    reply = call.wait()
    told = [
        health.HealthCheckResponse.FromString(base64.b64decode(body)).status
        for body in reply.response["bodies"]
    ]
    return reply.code, [str(health.HealthCheckResponse.ServingStatus.Name(status)) for status in told]


@pytest.mark.skipif(
    importlib.util.find_spec("grpc_health") is None or importlib.util.find_spec("grpc_reflection") is None,
    reason="needs grpcio-health-checking and grpcio-reflection",
)
@FRONTS
def test_the_standard_clients(zoo: ModelZoo, tmp_path: Path, log_path: Path, front: str) -> None:
    config = with_a_broken_model(zoo, tmp_path)
    names = ("", *SERVICES, "tiny", "broken", "nobody")
    with Server(["config", "--config_path", config, "--grpc_front", front], log_path) as server:
        done = subprocess.run(
            [sys.executable, str(CLIENT), f"127.0.0.1:{server.port}", *names],
            capture_output=True,
            text=True,
            timeout=CLIENT_WITHIN_S,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    heard = json.loads(done.stdout)
    statuses = dict.fromkeys(("", *SERVICES, "tiny"), "SERVING") | {"broken": "NOT_SERVING"}
    assert heard["check"] == statuses | {"nobody": "NOT_FOUND"}
    assert heard["watch"] == statuses | {"nobody": "SERVICE_UNKNOWN"}
    assert heard["list"] == statuses
    reflections = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
    assert heard["services"] == ["grpc.health.v1.Health", *reflections, *SERVICES]
    assert heard["predict"] == ["tensorflow.serving.PredictRequest", "tensorflow.serving.PredictResponse"]
    assert heard["files"]["inference.GRPCInferenceService.ModelInfer"].endswith("kserve.proto")
    assert (heard["not.there"], heard["google.protobuf.FileDescriptorSet"]) == ("missing", "missing")


@pytest.mark.parametrize(
    ("ready_when", "status", "text"), [("loaded", 200, ""), ("all", 503, "--ready_when all")]
)
def test_a_broken_model_matters_where_all_are_asked_for(
    zoo: ModelZoo, tmp_path: Path, log_path: Path, tfs: TfsClient, ready_when: str, status: int, text: str
) -> None:
    config = with_a_broken_model(zoo, tmp_path)
    flags = ("--ready_when", ready_when, "--file_system_poll_wait_seconds", "1")
    with Server(["config", "--config_path", config, *flags], log_path) as server:
        assert probe(server, "live")[0] == 200
        assert probe(server, "ready")[0] == status
        watching = watch(tfs, server)
        # Asked behind the other call, on one connection, so that the watcher is there when anything changes.
        assert check(tfs, server) == ("SERVING" if status == 200 else "NOT_SERVING")
        zoo.install("tiny", tmp_path / "broken", 2)
        eventually(lambda: probe(server, "ready")[0] == 200, NOTICED_S, "all models are available")
        server.stop()
        code, told = watched(watching)
        assert code == "UNAVAILABLE"
        assert told == (["NOT_SERVING"] if text else []) + ["SERVING", "NOT_SERVING"]
        tfs.forget(server.port)


@FRONTS
def test_a_server_that_stops_says_so_while_it_still_answers(
    zoo: ModelZoo, log_path: Path, tfs: TfsClient, front: str
) -> None:
    flags = ("--stop_notice_s", "5", "--grpc_front", front)
    with Server(serving(zoo, *flags), log_path) as server:
        watching = watch(tfs, server, "tiny")
        assert probe(server, "ready")[0] == 200
        assert (check(tfs, server), check(tfs, server, "tiny")) == ("SERVING", "SERVING")
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: check(tfs, server) == "NOT_SERVING", NOTICED_S, "readiness is false")
        assert check(tfs, server, "tiny") == "NOT_SERVING"
        assert probe(server, "ready")[0] == 503
        assert probe(server, "live")[0] == 200
        assert tfs.predict(server.port, "tiny", {"x": X}).outputs()["y"].tolist() == (X + 1).tolist()
        reply = rest_client.predict(server.rest_port, "tiny", {"instances": X.tolist()})
        assert reply.json() == {"predictions": (X + 1).tolist()}
        assert watched(watching) == ("UNAVAILABLE", ["SERVING", "NOT_SERVING"])
        tfs.forget(server.port)
        assert server.process.wait(30.0) == 0


def test_a_manager_that_is_stopped_is_not_live(zoo: ModelZoo, log_path: Path, tfs: TfsClient) -> None:
    flags = ("--heartbeat_timeout_s", "1.5", "--heartbeat_interval_s", "0.2")
    with Server(serving(zoo, *flags), log_path) as server:
        assert probe(server, "live")[0] == 200
        server.process.send_signal(signal.SIGSTOP)
        try:
            eventually(lambda: probe(server, "live")[0] == 503, NOTICED_S, "liveness is false")
            # What needs no manager is answered all the same.
            assert tfs.predict(server.port, "tiny", {"x": X}).outputs()["y"].tolist() == (X + 1).tolist()
            assert probe(server, "ready")[0] == 200
        finally:
            server.process.send_signal(signal.SIGCONT)
        eventually(lambda: probe(server, "live")[0] == 200, NOTICED_S, "liveness is true again")
        tfs.forget(server.port)


def test_a_load_does_not_delay_liveness_and_a_model_is_ready_when_it_can_be_asked(
    zoo: ModelZoo, tmp_path: Path, log_path: Path, tfs: TfsClient
) -> None:
    config = with_a_broken_model(zoo, tmp_path)
    with Server(["config", "--config_path", config], log_path) as server:
        watching = watch(tfs, server, "broken")
        assert check(tfs, server, "broken") == "NOT_SERVING"
        zoo.install("plus_two", tmp_path / "broken", 2)
        eventually(lambda: check(tfs, server, "broken") == "SERVING", NOTICED_S, "the new version is ready")
        assert probe(server, "live")[0] == 200
        watching.cancel()
        assert watching.wait().code == "CANCELLED"
        tfs.forget(server.port)
