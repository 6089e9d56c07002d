# SPDX-License-Identifier: Apache-2.0
"""The container image: built once, and run as its users run it. Asked for by ``--image``; minutes on two cores."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
import yaml

from ovms_mp import __version__
from ovms_mp.client import PredictionServiceStub, PredictRequest, make_ndarray, make_tensor_proto
from tests.support import rest_client
from tests.support.certificates import make_authority, make_certificate
from tests.support.container import Container
from tests.support.image import Image, build, in_memory, missing_tools, size_bytes
from tests.support.server import free_ports
from tests.support.tls import ClientTls
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ovms_mp.model.dtypes import AnyArray
    from tests.support.models import ModelZoo

pytestmark = [pytest.mark.image, pytest.mark.timeout(1200)]

LARGEST_BYTES = 500 << 20
"""Beyond the base."""
START_PROCESSOR_S = 3.0
"""In 3 s, says the purpose; so many of one core are half of what two cores have in that time."""
X = np.arange(10, dtype=np.float32)[None]
NOBODY_KNOWN = "314159:271828"
MODEL = ("--model_name", "tiny", "--model_path", "/models/tiny")
COMPOSE = Path(__file__).parents[2] / "deploy/compose.yaml"
KEY = "s3cret-of-somebody"
LEGACY = ("/ie-serving-py/start_server.sh", "ie_serving")


@pytest.fixture(scope="module")
def image(pytestconfig: pytest.Config) -> Iterator[Image]:
    if reason := missing_tools():
        pytest.skip(reason)
    cache = pytestconfig.cache
    assert cache is not None
    with in_memory() as directory:
        yield build(directory, cache.mkdir("image"))


@pytest.fixture(scope="module")
def models(zoo: ModelZoo) -> Iterator[Path]:
    """``tiny``, ``slow`` and a configuration file, in a directory that everybody may read."""
    directory = Path(tempfile.mkdtemp(prefix="ovms_mp-models-"))
    for name in ("tiny", "slow"):
        shutil.copytree(zoo.base_path(name), directory / name)
    entries = [{"config": {"name": "tiny", "base_path": "/models/tiny"}}]
    (directory / "config.json").write_text(json.dumps({"model_config_list": entries}))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@dataclass(frozen=True)
class Secrets:
    """What the server keeps from others, in a directory that only the image's user may read.

    Attributes:
        flags: Have the server use it from where it is mounted, ``/secrets``.
        tls: What clients need.
    """

    directory: Path
    flags: list[str]
    tls: ClientTls


@pytest.fixture
def secrets(tmp_path: Path) -> Iterator[Secrets]:
    authority = make_authority("authority")
    (tmp_path / "ca.pem").write_bytes(authority.chain)
    directory = Path(tempfile.mkdtemp(prefix="ovms_mp-secrets-"))
    certificate, key = make_certificate("localhost", authority).write(directory, "server")
    keys = directory / "keys"
    keys.touch(mode=0o600)
    keys.write_text(f"somebody {KEY}\n")
    for path in (directory, certificate, key, keys):
        os.chown(path, 5000, 5000)
    flags = [
        *("--tls_cert", f"/secrets/{certificate.name}", "--tls_key", f"/secrets/{key.name}"),
        *("--api_key_file", "/secrets/keys"),
    ]
    yield Secrets(directory, flags, ClientTls(tmp_path / "ca.pem", None))
    shutil.rmtree(directory)


def predict_request(name: str, x: AnyArray) -> PredictRequest:
    request = PredictRequest()
    request.model_spec.name = name
    request.inputs["x"].CopyFrom(make_tensor_proto(x))
    return request


def predict(port: int, name: str, x: AnyArray) -> AnyArray:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        response = PredictionServiceStub(channel).Predict(predict_request(name, x), timeout=60)
    return make_ndarray(response.outputs["y"])


def assert_serves(port: int, rest_port: int) -> None:
    assert predict(port, "tiny", X).tolist() == (X + 1).tolist()
    reply = rest_client.predict(rest_port, "tiny", {"inputs": X.tolist()})
    assert (reply.status, reply.json()) == (200, {"outputs": (X + 1).tolist()})


def with_ports(command: Sequence[str]) -> tuple[list[str], int, int]:
    port, rest_port = free_ports(2)
    return [*command, "--port", str(port), "--rest_port", str(rest_port)], port, rest_port


# --- what it is ---


def test_its_description(image: Image) -> None:
    settings = image.settings
    assert settings["User"] == "5000:5000"
    assert settings["Healthcheck"]["Test"] == ["CMD", "ovms_mp", "status"]
    labels = settings["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_its_size(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    beyond = size_bytes(image.root) - image.base_bytes
    with capsys.disabled():
        sys.stdout.write(
            f"\nimage: {beyond / 1e6:.0f} MB beyond its base of {image.base_bytes / 1e6:.0f} MB\n"
        )
    assert 0 < beyond <= LARGEST_BYTES


def test_what_is_not_in_it(image: Image) -> None:
    site = next((image.root / "opt/ovms_mp/lib").glob("python3.*/site-packages"))
    assert (site / "ovms_mp/cli.py").exists()
    for name in ("pip", "setuptools", "openvino/tools", "openvino/libs/libopenvino_intel_gpu_plugin.so"):
        assert not (site / name).exists(), name
    assert not [path for path in site.rglob("tests") if path.is_dir()]
    programs = ("gcc", "cc", "g++", "ld", "curl", "pip", "pip3")
    places = ("usr/bin", "usr/local/bin", "opt/ovms_mp/bin")
    assert not [name for name in programs for place in places if (image.root / place / name).exists()]
    for name in ("root/.cache", "build", "run/secrets/ca"):
        assert not (image.root / name).exists(), name
    assert not list((image.root / "var/lib/apt/lists").glob("*"))


# --- whom it serves ---


@pytest.mark.parametrize(
    ("command", "user", "has_tmp"),
    [
        pytest.param(MODEL, "", True, id="own user"),
        pytest.param(MODEL, NOBODY_KNOWN, True, id="random user"),
        pytest.param(MODEL, NOBODY_KNOWN, False, id="random user, nothing writable"),
        pytest.param(MODEL, "0:0", True, id="root"),
        pytest.param(("--config_path", "/models/config.json"), "", True, id="config"),
        pytest.param((*LEGACY, "model", *MODEL), "", True, id="legacy model"),
        pytest.param(
            (*LEGACY, "config", "--config_path", "/models/config.json"), "", True, id="legacy config"
        ),
        pytest.param(("/ovms/bin/ovms", *MODEL), "", True, id="path of OVMS's program"),
    ],
)
def test_it_serves_and_stops(
    command: Sequence[str],
    user: str,
    has_tmp: bool,
    image: Image,
    models: Path,
    log_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Over both protocols, without any capability, on a read-only root and without /dev/shm."""
    argv, port, rest_port = with_ports(command)
    with Container(image, argv, log_path, user, {"/models": models}, has_tmp) as container:
        processor_s = container.processor_s()
        assert_serves(port, rest_port)
        asked = time.monotonic()
        assert container.stop() == 0
        stopped_after_s = time.monotonic() - asked
    with capsys.disabled():
        sys.stdout.write(
            f"\ncontainer: ready after {container.ready_after_s:.1f} s with {processor_s:.1f} s of processor time, "
            f"stopped after {stopped_after_s:.1f} s\n"
        )
    assert processor_s < START_PROCESSOR_S
    assert "Traceback" not in container.log()


def test_a_runtime_of_buildah_runs_it(image: Image) -> None:
    command = ("ovms_mp", "demo", "--once", "--port", "0", "--rest_port", "0")
    shown = image.store.run("run", "--isolation=chroot", "--user=5000:5000", image.container, "--", *command)
    assert "gRPC" in shown


def test_a_shell_is_run_in_place_of_the_server(image: Image, tmp_path: Path) -> None:
    container = Container(image, ("/bin/sh", "-c", "ie_serving --version; exit 7"), tmp_path / "log")
    container.launch()
    assert container.process.wait(timeout=60) == 7
    assert __version__ in container.log()


def test_the_command_of_compose_with_tls_keys_and_metrics(
    image: Image, models: Path, secrets: Secrets, log_path: Path
) -> None:
    """As the image's own user, with secrets that are mounted."""
    command = yaml.safe_load(COMPOSE.read_text())["services"]["ovms_mp"]["command"]
    port, rest_port = free_ports(2)
    given = [{"9000": str(port), "8000": str(rest_port)}.get(word, word) for word in command]
    assert given != command
    volumes = {"/models": models, "/secrets": secrets.directory}
    with Container(image, [*given, *secrets.flags], log_path, volumes=volumes) as container:
        for url, headers, status in (
            ("/v1/models/tiny", {"Authorization": f"Bearer {KEY}"}, 200),
            ("/v1/models/tiny", {}, 401),
            ("/metrics", {"Authorization": f"Bearer {KEY}"}, 200),
            ("/v2/health/ready", {}, 200),
        ):
            connection = secrets.tls.connection(rest_port, 30.0)
            connection.request("GET", url, headers=headers)
            reply = connection.getresponse()
            text = reply.read().decode()
            connection.close()
            assert reply.status == status, text
            assert url != "/metrics" or "ovms_requests_success" in text
        with grpc.secure_channel(f"127.0.0.1:{port}", secrets.tls.credentials()) as channel:
            response = PredictionServiceStub(channel).Predict(
                predict_request("tiny", X), timeout=60, metadata=(("authorization", f"Bearer {KEY}"),)
            )
        assert make_ndarray(response.outputs["y"]).tolist() == (X + 1).tolist()
        assert container.stop() == 0
        assert KEY not in container.log()


# --- process 1 ---


def test_what_is_in_flight_is_answered_before_the_stop(image: Image, models: Path, log_path: Path) -> None:
    model = ("--model_name", "slow", "--model_path", "/models/slow", "--nireq", "1", "--stop_grace_s", "120")
    argv, port, _ = with_ports(model)
    request = predict_request("slow", np.ones(1, dtype=np.float32))
    with (
        Container(image, argv, log_path, volumes={"/models": models}) as container,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = PredictionServiceStub(channel)
        calls = [stub.Predict.future(request, timeout=120) for _ in range(5)]
        calls[0].result()
        assert not calls[-1].done(), "one after the other"
        assert container.stop() == 0
        assert [call.code() for call in calls] == [grpc.StatusCode.OK] * len(calls)


def test_orphans_are_collected(image: Image, models: Path, log_path: Path) -> None:
    argv, _, _ = with_ports(MODEL)
    with Container(image, argv, log_path, volumes={"/models": models}) as container:
        left = container.execute("sh", "-c", "sleep 0.2 & sleep 0.2 & echo $!")
        assert left.returncode == 0, left.stderr
        orphan = f"/proc/{left.stdout.strip()}"
        eventually(
            lambda: container.execute("test", "-e", orphan).returncode == 1, 30, "the last orphan is gone"
        )
        assert container.zombies() == []
        assert container.stop() == 0


@pytest.mark.parametrize("is_secured", [False, True])
def test_its_health_check(
    image: Image, models: Path, secrets: Secrets, log_path: Path, is_secured: bool
) -> None:
    """In a network of its own, as else it would see this machine's other servers."""
    argv, _, _ = with_ports((*MODEL, *secrets.flags) if is_secured else MODEL)
    check = image.settings["Healthcheck"]["Test"][1:]
    volumes = {"/models": models, "/secrets": secrets.directory}
    with Container(image, argv, log_path, volumes=volumes, has_network=False) as container:
        done = container.execute(*check)
        assert done.returncode == 0, done.stderr
        assert "AVAILABLE" in done.stdout
        assert container.stop() == 0
