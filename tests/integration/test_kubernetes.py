# SPDX-License-Identifier: Apache-2.0
"""The manifests below ``deploy/kubernetes``: they are right, and what they start serves.

There is no cluster: each container's command runs here on files that it cannot write, with its paths and ports
replaced by ones of the test, as the manifest's user where the tests may become that, and its probes are asked as the
kubelet does.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import kserve_client, kserve_rest, manifests, rest_client
from tests.support.certificates import make_certificate
from tests.support.server import START_WITHIN_S, free_ports
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.models import ModelZoo
    from tests.support.tfs_client import TfsClient

X = np.arange(10, dtype=np.float32)[None]
USER = 5000
TEXTS = manifests.read_all()
RUNS = manifests.runs(manifests.documents(TEXTS))
MODEL_OF = {
    "ovms-mp": "tiny",
    "digits-s3": "flat",
    "digits-gs": "flat onnx",
    "digits-pvc": "tiny",
    "digits-to-zero": "flat",
}
STARTED = [name for name in RUNS if name in MODEL_OF]
"""Canaries are started by the same flags as the others."""


def test_every_manifest_is_right() -> None:
    assert manifests.problems(TEXTS) == []


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("base/deployment.yaml", "readinessProbe:", "redinessProbe:"),
        ("base/deployment.yaml", "port: rest}", "port: http}"),
        ("base/deployment.yaml", "- {name: tmp, mountPath", "- {name: temp, mountPath"),
        ("base/deployment.yaml", "terminationGracePeriodSeconds: 45", "terminationGracePeriodSeconds: 30"),
        ("base/deployment.yaml", "drop: [ALL]", "drop: [NET_RAW]"),
        ("base/deployment.yaml", "name: ovms-mp-config", "name: ovms-config"),
        ("base/service.yaml", "targetPort: grpc", "targetPort: gprc"),
        ("base/service.yaml", "selector: {app.kubernetes.io/name", "selector: {app.kubernetes.io/nam"),
        ("base/poddisruptionbudget.yaml", "maxUnavailable", "maxUnavailble"),
        ("base/horizontalpodautoscaler.yaml", "name: ovms-mp}", "name: ovms}"),
        ("base/kustomization.yaml", "- service.yaml", "- services.yaml"),
        ("base/deployment.yaml", 'prometheus.io/port: "8000"', 'prometheus.io/port: "8080"'),
        ("servicemonitor.yaml", "port: rest", "port: http"),
        (
            "servicemonitor.yaml",
            "matchLabels: {app.kubernetes.io/name",
            "matchLabels: {app.kubernetes.io/nam",
        ),
        ("secure/kustomization.yaml", "{name: tls, mountPath", "{name: tsl, mountPath"),
        ("secure/kustomization.yaml", "secretName: ovms-mp-tls", "secretname: ovms-mp-tls"),
        ("clusterservingruntime.yaml", "supportedModelFormats", "suportedModelFormats"),
        ("clusterservingruntime.yaml", "periodSeconds: 2", "periodSecond: 2"),
        ("clusterservingruntime.yaml", "grpc-v2]", "grpc-v3]"),
        ("clusterservingruntime.yaml", "autoSelect: true", "autoselect: true"),
        ("clusterservingruntime.yaml", "--stop_grace_s=20", "--stop_grace_s=30"),
        ("inferenceservices/s3.yaml", "storageUri", "storageURI"),
        ("inferenceservices/s3.yaml", "serviceAccountName: s3-reader", "serviceAccountName: reader"),
        ("inferenceservices/gs.yaml", "runtime: ovms-mp", "runtime: ovms"),
        ("inferenceservices/gs.yaml", "name: onnx", "name: onx"),
        ("inferenceservices/pvc.yaml", "pvc://models/digits", "pvc:/models/digits"),
        ("inferenceservices/canary.yaml", "trafficPercent: 10", "trafficPercent: 101"),
        ("inferenceservices/canary.yaml", "name: v2", "nam: v2"),
        ("inferenceservices/canary.yaml", "Mode: Standard", "Mode: Knative"),
        ("inferenceservices/canary-knative.yaml", "canaryTrafficPercent", "canaryTraficPercent"),
        ("inferenceservices/canary-knative.yaml", "Mode: Knative", "Mode: Standard"),
        ("inferenceservices/scale-to-zero.yaml", "runtime: ovms-mp-knative", "runtime: ovms-mp"),
        ("inferenceservices/scale-to-zero.yaml", "scaleMetric: concurrency", "scaleMetric: requests"),
        ("clusterservingruntime-knative.yaml", "/v2/models/{{.Name}}/ready", "/v2/health/ready"),
        ("clusterservingruntime-knative.yaml", "drop: [ALL]", "drop: [NET_RAW]"),
    ],
)
def test_a_typo_is_caught(file: str, right: str, wrong: str) -> None:
    assert right in TEXTS[file]
    assert manifests.problems({**TEXTS, file: TEXTS[file].replace(right, wrong)})


@pytest.fixture
def volumes(zoo: ModelZoo, request: pytest.FixtureRequest) -> Iterator[Path]:
    """What a pod has: ``models``, read-only, and ``cache`` and ``tmp``, which its user may write to."""
    directory = Path(tempfile.mkdtemp())
    kind = MODEL_OF[request.param]
    if kind == "tiny":
        shutil.copytree(zoo.base_path("tiny"), directory / "models" / "digits")
    else:
        shutil.copytree(
            zoo.base_path("onnx_tiny" if "onnx" in kind else "tiny") / "1", directory / "models" / "digits"
        )
    config = (manifests.ROOT / "base" / "config.json").read_text()
    (directory / "config.json").write_text(config.replace("/models/", f"{directory}/models/"))
    for path in (directory / "models").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    directory.chmod(0o755)
    for name in ("cache", "tmp"):
        (directory / name).mkdir()
        (directory / name).chmod(0o777)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize(("name", "volumes"), [(name, name) for name in STARTED], indirect=["volumes"])
def test_what_a_manifest_starts_serves(name: str, volumes: Path, log_path: Path, tfs: TfsClient) -> None:
    run = RUNS[name]
    numbers = sorted(set(run.ports.values()))
    ports = dict(zip(numbers, free_ports(len(numbers)), strict=True))
    rest_port = ports[run.probes["readinessProbe"][0]]
    command = [sys.executable, "-m", "ovms_mp", *mapped(run.args, volumes, ports)]
    environment = {**os.environ, "TMPDIR": str(volumes / "tmp")}
    with log_path.open("wb") as log:
        process = subprocess.Popen([*as_user(), *command], stdout=log, stderr=log, env=environment)
    try:
        for kind, (port, path) in run.probes.items():
            eventually(lambda: answer(ports[port], path, process, log_path) == 200, START_WITHIN_S, kind)  # noqa: B023
        reply = rest_client.predict(rest_port, run.name, {"inputs": X.tolist()})
        assert (reply.status, reply.json()) == (200, {"outputs": (X + 1).tolist()})
        assert (kserve_rest.outputs(kserve_rest.infer(rest_port, run.name, {"x": X}))["y"] == X + 1).all()
        for grpc_port in {*ports.values()} - {rest_port}:
            answered = kserve_client.infer(tfs, grpc_port, kserve_client.infer_request(run.name, {"x": X}))
            assert answered.code == "OK", (answered.details, log_path.read_text())
            assert (answered.outputs()["y"] == X + 1).all()
        assert answer(rest_port, "/v2/models/other/ready", process, log_path) == 404
        assert answer(rest_port, "/metrics", process, log_path) == 200
        process.terminate()
        assert process.wait(timeout=30) == 0, log_path.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(timeout=10)
    log_text = log_path.read_text()
    assert "Traceback" not in log_text
    assert "event=configuration" not in log_text, "a manifest's flags give no cause for a notice"
    assert any((volumes / "cache").iterdir())


@pytest.mark.parametrize("volumes", ["ovms-mp"], indirect=True)
def test_what_the_secure_overlay_starts_asks_for_keys_over_tls(volumes: Path, log_path: Path) -> None:
    run = manifests.secure_run(manifests.documents(TEXTS))
    ports = dict(zip(sorted(set(run.ports.values())), free_ports(2), strict=True))
    certificate, key, admin_key = make_certificate("localhost"), "c" * 32, "a" * 32
    (volumes / "tls").mkdir()
    (volumes / "keys").mkdir()
    contents = {"tls/tls.crt": certificate.chain, "tls/tls.key": certificate.key}
    contents |= {"keys/api_keys": key.encode(), "keys/admin_api_keys": admin_key.encode()}
    for name, content in contents.items():
        path = volumes / name
        path.write_bytes(content)
        path.chmod(0o440)
        if os.geteuid() == 0:
            os.chown(path, 0, USER)  # As fsGroup does it.
    command = [sys.executable, "-m", "ovms_mp", *mapped(run.args, volumes, ports)]
    environment = {**os.environ, "TMPDIR": str(volumes / "tmp")}
    ca, _ = certificate.write(volumes, "ca")
    with log_path.open("wb") as log:
        process = subprocess.Popen([*as_user(), *command], stdout=log, stderr=log, env=environment)
    try:
        for kind in manifests.PROBES:
            port, path_asked = run.probes[kind]
            ask = functools.partial(https_answer, ports[port], ca, path_asked, "", process, log_path)
            eventually(lambda: ask() == 200, START_WITHIN_S, kind)  # noqa: B023
        rest_port = ports[run.probes["readinessProbe"][0]]
        for path_asked, given, status in (
            ("/v2/models/digits", "", 401),
            ("/v2/models/digits", key, 200),
            ("/metrics", key, 200),
            ("/metrics", "", 401),
        ):
            assert https_answer(rest_port, ca, path_asked, given, process, log_path) == status, path_asked
        process.terminate()
        assert process.wait(timeout=30) == 0, log_path.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(timeout=10)
    assert "Traceback" not in log_path.read_text()


def https_answer(
    port: int, ca: Path, path: str, key: str, process: subprocess.Popen[bytes], log_path: Path
) -> int:
    """As :func:`answer`, over TLS."""
    assert process.poll() is None, log_path.read_text()
    try:
        return rest_client.https_status(port, ca, path, key)
    except ConnectionError:
        return 0


def mapped(args: tuple[str, ...], volumes: Path, ports: dict[int, int]) -> Iterator[str]:
    """The flags of a manifest with this test's paths and ports."""
    places = {
        "/mnt/models": volumes / "models" / "digits",
        "/config/": f"{volumes}/",
        "/opt/cache/": f"{volumes}/cache/",
        "/tls/": f"{volumes}/tls/",
        "/keys/": f"{volumes}/keys/",
    }
    for arg in args:
        flag, _, value = arg.partition("=")
        for place, path in places.items():
            if value.startswith(place):
                value = value.replace(place, str(path), 1)
        if flag in ("--port", "--rest_port"):
            value = str(ports[int(value)])
        yield f"{flag}={value}"


def as_user() -> list[str]:
    """Become the manifest's user, who may still read this checkout and its Python, wherever they are."""
    if os.geteuid() != 0:
        return []
    reading = "+dac_read_search"
    return [
        *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"),
        *(f"--inh-caps={reading}", f"--ambient-caps={reading}", f"--bounding-set=-all,{reading}", "--"),
    ]


def answer(port: int, path: str, process: subprocess.Popen[bytes], log_path: Path) -> int:
    """The status with which a probe is answered; 0 while nobody listens."""
    assert process.poll() is None, log_path.read_text()
    try:
        return rest_client.request(port, "GET", path).status
    except ConnectionError:
        return 0
