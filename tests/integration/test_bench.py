# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp bench`` and ``ovms_mp tune`` at real servers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from ovms_mp.demo import digits
from ovms_mp.model.own_metrics import STARTED
from tests.support import rest_client
from tests.support.certificates import make_authority, make_certificate
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.server import Server, free_ports
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MODEL = digits.MODEL_NAME
SHORT = ("--seconds", "0.3", "--warmup", "0.1")
PATIENCE_S = 60.0
MOST_OF_A_CLIENT = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Both protocols on ports and Unix sockets, with metrics, and a limit that loads can pass."""
    place = tmp_path_factory.mktemp("bench")
    before = Ledger.take()
    arguments = [
        *("model", "--model_name", MODEL, "--model_path", str(digits.model_directory()), "--metrics_enable"),
        *("--max_requests_per_client", str(MOST_OF_A_CLIENT)),
        *("--grpc_bind_address", f"127.0.0.1,unix:{place}/grpc"),
        *("--rest_bind_address", f"127.0.0.1,unix:{place}/rest"),
    ]
    with Server(arguments, place / "server.log") as made:
        yield made
        assert made.stop() == 0
    assert_nothing_left(before)


def url_of(server: Server, kind: str) -> str:
    place = server.log_path.parent
    return {
        "grpc": f"grpc://127.0.0.1:{server.port}",
        "http": f"http://127.0.0.1:{server.rest_port}",
        "unix": f"unix:{place}/grpc",
        "unix rest": f"unix://{place}/rest?protocol=rest",
    }[kind]


def started(server: Server) -> float:
    """Inferences that the server has run."""
    page = rest_client.request(server.rest_port, "GET", "/metrics").text()
    return sum(
        float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(f"{STARTED}{{")
    )


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ovms_mp", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def bench(*words: str) -> dict[str, Any]:
    done = run("bench", *words, *SHORT, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize(
    ("kind", "api", "generator"),
    [
        ("grpc", "kserve", "own"),
        ("grpc", "tfs", "h2load"),
        ("http", "kserve", "h2load"),
        ("http", "kserve_json", "own"),
        ("http", "tfs", "own"),
        ("unix", "tfs", "own"),
        ("unix rest", "kserve", "h2load"),
    ],
)
def test_every_api_is_loaded(server: Server, kind: str, api: str, generator: str) -> None:
    report = bench(url_of(server, kind), MODEL, "--api", api, "--generator", generator, "--concurrency", "2")

    (level,) = report["levels"]
    assert level["answered"] > 0
    assert level["errors"] == {}
    assert level["generator"] == generator
    latency = level["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99.9"] <= latency["max"]
    assert level["rate_per_s"] == pytest.approx(level["answered"] / 0.3)


def test_stages_in_the_server_are_shown(server: Server) -> None:
    """By an http URL without being asked, of every load, however short: fronts write them once a second."""
    for level in bench(url_of(server, "http"), MODEL, "--concurrency", "1,1,1,1")["levels"]:
        assert {"receive", "decode", "queue", "infer", "handover", "encode"} <= level["stages_ms"].keys()
        assert level["stages_ms"]["infer"] > 0


def test_an_open_loop_and_a_sweep_are_shown_with_a_plot(server: Server, tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    metrics = ("--metrics", url_of(server, "http"))
    open_loop = run(
        "bench", url_of(server, "grpc"), MODEL, "--rate", "100,200", *SHORT, *metrics, "--svg", str(plot)
    )

    assert (open_loop.returncode, open_loop.stderr) == (0, "")
    assert "sent/s" in open_loop.stdout
    assert "p99 ms" in open_loop.stdout
    assert plot.read_text().startswith("<svg")


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load sees no gRPC status, which is the point")
def test_refused_requests_are_told_by_code(server: Server) -> None:
    report = bench(url_of(server, "grpc"), MODEL, "--concurrency", "32")

    (level,) = report["levels"]
    assert level["errors"].keys() == {"RESOURCE_EXHAUSTED"}
    assert level["generator"] == "own"
    assert "measured again by our own generator" in level["notes"][-1]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["grpc", MODEL, "--concurrency", "0"], "--concurrency '0'; accepted"),
        (["grpc", "nothing"], "no model has this name"),
        (["http", "nothing", "--api", "tfs"], "no model has this name"),
        (["grpc", MODEL, "--model_version", "7"], "refuses the first metadata request"),
        (["grpc", MODEL, "--input", "image=[[1]]"], "refuses the first inference request"),
        (["http at gRPC's port", MODEL], "speaks gRPC and not REST; give grpc://"),
        (["grpc at REST's port", MODEL], "speaks HTTP/1.1 and not gRPC; give http://"),
        (["nobody", MODEL], "nobody listens there"),
        (["grpcs at a plain port", MODEL], "no TLS connection"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(server: Server, words: Sequence[str], text: str) -> None:
    (free,) = free_ports(1)
    url = {
        "grpc": url_of(server, "grpc"),
        "http": url_of(server, "http"),
        "http at gRPC's port": f"http://127.0.0.1:{server.port}",
        "grpc at REST's port": f"grpc://127.0.0.1:{server.rest_port}",
        "nobody": f"grpc://127.0.0.1:{free}",
        "grpcs at a plain port": f"grpcs://127.0.0.1:{server.port}",
    }[words[0]]

    done = run("bench", url, *words[1:])

    assert done.returncode == (2 if "--concurrency" in words else 3)
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("generator", ["own", "h2load"])
def test_an_interrupt_shows_what_was_measured_so_far(server: Server, tmp_path: Path, generator: str) -> None:
    place = ("--generator", generator, "--concurrency", "1,2", "--warmup", "0")
    command = ["bench", url_of(server, "grpc"), MODEL, *place, "--seconds", "30"]
    out = tmp_path / "out"
    with out.open("wb") as to_out:
        process = subprocess.Popen([sys.executable, "-m", "ovms_mp", *command], stdout=to_out, stderr=to_out)
    enough = started(server) + 200
    eventually(lambda: started(server) > enough, PATIENCE_S, "the generator makes load")
    (maker,) = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)

    assert process.wait(PATIENCE_S) == 130
    lines = out.read_text().splitlines()
    assert lines[-1] == "interrupted; these are the figures so far"
    assert [line for line in lines if line.startswith("1 ")], lines
    assert not maker.is_running()


def test_tls_and_keys(tmp_path: Path) -> None:
    authority = make_authority("test authority")
    certificate, key = make_certificate("server", authority).write(tmp_path, "server")
    ca, _ = authority.write(tmp_path, "ca")
    api_key = tmp_path / "api-key"
    api_key.write_text("# whose it is\nalice a-key-of-at-least-some-length\n")
    api_key.chmod(0o600)
    arguments = [
        *("model", "--model_name", MODEL, "--model_path", str(digits.model_directory())),
        *("--tls_cert", str(certificate), "--tls_key", str(key), "--api_key_file", str(api_key)),
    ]
    with Server(arguments, tmp_path / "log", is_patient=False) as made:
        urls = f"grpcs://127.0.0.1:{made.port}", f"https://127.0.0.1:{made.rest_port}"
        shown = ("--tls_ca", str(ca), "--api_key", f"@{api_key}")
        for url in urls:
            (level,) = bench(url, MODEL, *shown, "--concurrency", "2")["levels"]
            assert level["answered"] > 0
            assert level["generator"] == "own", "h2load would show the key to everybody"
        refusals = [
            (run("bench", urls[0], MODEL, "--api_key", f"@{api_key}"), "its certificate is not trusted"),
            (run("bench", urls[0], MODEL, "--tls_ca", str(ca)), "give --api_key"),
            (run("bench", urls[1].replace("https", "http"), MODEL), "error: http://"),
        ]
    for done, text in refusals:
        assert done.returncode == 3
        assert text in done.stderr
        assert done.stderr.count("\n") == 1


def test_tune_finds_a_setting_and_says_what_to_write(tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    done = run(
        "tune",
        str(digits.model_directory()),
        "--name",
        "d",
        "--budget",
        "1",
        "--target",
        "throughput@2",
        "--svg",
        str(plot),
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == "first look ...\nfinal ...\n" or done.stderr.startswith("first look ...\n")
    assert "nothing set" in done.stdout
    assert "Best for most answers a second with 2 requests in flight" in done.stdout
    (entry,) = [line for line in done.stdout.splitlines() if line.startswith('  {"config"')]
    assert json.loads(entry)["config"]["base_path"] == str(digits.model_directory())
    assert plot.read_text().startswith("<svg")


def test_an_interrupted_tune_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ovms_mp", "tune", str(digits.model_directory())]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    out = tmp_path / "out"
    with out.open("wb") as to_out:
        process = subprocess.Popen(command, stdout=to_out, stderr=to_out, env=environment)
    family = eventually(
        lambda: psutil.Process(process.pid).children(recursive=True)[2:], PATIENCE_S, "it serves"
    )
    process.send_signal(signal.SIGINT)

    assert process.wait(PATIENCE_S) == 130
    eventually(lambda: not any(child.is_running() for child in family), PATIENCE_S, "all processes are gone")
    assert os.listdir(tmp_path) == ["out"]


def test_a_model_that_cannot_be_served_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"this is no model")

    done = run("tune", str(tmp_path / "model.onnx"), "--budget", "1")

    assert done.returncode == 3
    assert "the model cannot be served: cannot read model.onnx" in done.stderr
