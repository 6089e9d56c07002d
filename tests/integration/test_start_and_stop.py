# SPDX-License-Identifier: Apache-2.0
"""How the program starts, says that it is ready, refuses to start, and stops."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import rest_client
from tests.support.refusals import refusal
from tests.support.server import Server, free_ports
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.models import ModelZoo
    from tests.support.tfs_client import TfsClient

X = np.arange(10, dtype=np.float32)[None]
NOTICED_S = 15.0


def run(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The program until its end, which it must find by itself."""
    return subprocess.run(
        [sys.executable, "-m", "ovms_mp", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )


def tiny_arguments(zoo: ModelZoo) -> list[str]:
    return ["--model_name", "tiny", "--model_path", str(zoo.base_path("tiny"))]


# --- starting and stopping cleanly ---


def test_model_command_starts_logs_and_stops(
    zoo: ModelZoo, tmp_path: Path, log_path: Path, tfs: TfsClient
) -> None:
    """The log lines that scripts wait for, LOG_LEVEL and LOG_PATH, exit code 0."""
    second_log = tmp_path / "second.log"
    environment = {"LOG_LEVEL": "debug", "LOG_PATH": str(second_log)}
    with Server(["model", *tiny_arguments(zoo)], log_path, environment) as server:
        assert (
            f"gRPC server listens on port {server.port} and will be serving models: ['tiny']" in server.log()
        )
        assert f"REST server listens on port {server.rest_port} and will be serving" in server.log()
        assert tfs.predict(server.port, "tiny", {"x": X}).outputs()["y"].tolist() == (X + 1).tolist()
        tfs.forget(server.port)
        assert server.stop() == 0
    for log in (server.log(), second_log.read_text()):
        assert " - DEBUG - " in log
        assert "server listens on port" in log
        assert "event=stopping reason=SIGTERM" in log
        assert "event=stopped" in log
        for kind in ("manager", "arbiter", "rest"):
            assert f"[{kind} pid=" in log, kind
        assert "Traceback" not in log


def test_flat_form_stops_cleanly_on_sigint(zoo: ModelZoo, log_path: Path) -> None:
    with Server(tiny_arguments(zoo), log_path) as server:
        reply = rest_client.predict(server.rest_port, "tiny", {"instances": X.tolist()})
        assert reply.json() == {"predictions": (X + 1).tolist()}
        assert server.stop(number=signal.SIGINT) == 0
    assert "event=stopping reason=SIGINT" in server.log()


def test_second_signal_stops_at_once(zoo: ModelZoo, log_path: Path, tfs: TfsClient) -> None:
    arguments = ["model", "--model_name", "slow", "--model_path", str(zoo.base_path("slow")), "--nireq", "1"]
    with Server(arguments, log_path) as server:
        calls = [tfs.start_predict(server.port, "slow", {"x": np.ones(1, np.float32)}) for _ in range(20)]
        # Answered after the slow ones have arrived, as all came by one connection.
        assert tfs.call(server.port, "GetModelStatus", {"modelSpec": {"name": "slow"}}).code == "OK"
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: "event=stopping" in server.log(), NOTICED_S, "draining")
        assert server.process.poll() is None
        assert server.stop() == 128 + signal.SIGTERM
        # The latter where the machine is so busy that the last of them would be answered too late.
        ends = {"OK", "UNAVAILABLE", "CANCELLED", "INTERNAL", "RESOURCE_EXHAUSTED"}
        assert {call.wait().code for call in calls} <= ends
        tfs.forget(server.port)
    assert "event=stop_now" in server.log()


def test_missing_base_path_is_waited_for(
    zoo: ModelZoo, tmp_path: Path, log_path: Path, tfs: TfsClient
) -> None:
    """The server starts without it, warns once, and serves a version soon after it has appeared."""
    base_path = tmp_path / "later" / "tiny"
    base_path.parent.mkdir()
    environment = {"FILE_SYSTEM_POLL_WAIT_SECONDS": "0.1"}
    arguments = ["model", "--model_name", "tiny", "--model_path", str(base_path)]
    with Server(arguments, log_path, environment) as server:
        reply = tfs.predict(server.port, "tiny", {"x": X})
        assert (reply.code, "Servable not found for request: Specific(tiny, 0)" in reply.details) == (
            "NOT_FOUND",
            True,
        )
        assert rest_client.predict(server.rest_port, "tiny", {"inputs": X.tolist()}).status == 404
        zoo.install("tiny", base_path, 1)
        eventually(
            lambda: tfs.predict(server.port, "tiny", {"x": X}).code == "OK",
            NOTICED_S,
            "the new version serves",
        )
        tfs.forget(server.port)
    text = server.log()
    assert (
        len([line for line in text.splitlines() if "event=repository" in line and "waiting for it" in line])
        == 1
    )
    assert text.count("Listening, but serving nothing: tiny (") == 1
    # Scripts of OVMS users are told when something is on its way, not before.
    nothing, promise, ready = (
        text.index(line) for line in ("Listening, but", "gRPC server listens on", "Ready: ")
    )
    assert nothing < promise < ready


def test_poll_interval_0_looks_only_when_asked(zoo: ModelZoo, tmp_path: Path, log_path: Path) -> None:
    """SIGHUP asks."""
    zoo.install("tiny", tmp_path / "model", 1)
    environment = {"FILE_SYSTEM_POLL_WAIT_SECONDS": "0"}
    arguments = ["--model_name", "m", "--model_path", str(tmp_path / "model")]
    with Server(arguments, log_path, environment) as server:
        zoo.install("plus_two", tmp_path / "model", 2)

        def answer() -> list[list[float]]:
            reply = rest_client.predict(server.rest_port, "m", {"inputs": X.tolist()})
            found: list[list[float]] = reply.json()["outputs"]
            return found

        assert answer() == (X + 1).tolist()
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: answer() == (X + 2).tolist(), NOTICED_S, "version 2 after SIGHUP")


def test_devices_built_from_the_cpu_answer(
    zoo: ModelZoo, tmp_path: Path, log_path: Path, tfs: TfsClient
) -> None:
    """And with a configuration file, a device that does not exist is that model's status, not the server's end."""
    devices = {
        "auto": "AUTO",
        "auto_gpu": "AUTO:GPU,CPU",
        "multi": "MULTI:CPU",
        "hetero": "HETERO:CPU",
        "batch": "BATCH:CPU(4)",
        "gpu": "GPU",
    }
    entries = [
        {"name": name, "base_path": str(zoo.base_path("tiny")), "target_device": device, "nireq": 1}
        for name, device in devices.items()
    ]
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_config_list": [{"config": entry} for entry in entries]}))
    with Server(["config", "--config_path", str(config)], log_path) as server:
        for name in ("auto", "auto_gpu", "multi", "hetero", "batch"):
            reply = tfs.predict(server.port, name, {"x": X})
            assert reply.code == "OK", (name, reply.details)
            assert reply.outputs()["y"].tolist() == (X + 1).tolist()
        failed = tfs.predict(server.port, "gpu", {"x": X})
        assert failed.code == "UNAVAILABLE"
        assert "GPU is not available on this machine (available: CPU" in failed.details
        tfs.forget(server.port)
    assert server.log().count("AUTO goes without GPU and takes AUTO:CPU") == 1


def test_autos_list_of_a_single_model_may_name_a_missing_device(zoo: ModelZoo, log_path: Path) -> None:
    arguments = ["model", *tiny_arguments(zoo), "--target_device", "AUTO:CPU,GPU"]
    with Server(arguments, log_path) as server:
        assert rest_client.predict(server.rest_port, "tiny", {"inputs": X.tolist()}).status == 200


# --- refusing to start ---


@pytest.mark.parametrize("protocol", ["gRPC", "REST"])
def test_busy_port(protocol: str, zoo: ModelZoo, shared_server: Server) -> None:
    """The other server notices nothing."""
    (free,) = free_ports(1)
    is_grpc = protocol == "gRPC"
    ports = (shared_server.port, free) if is_grpc else (free, shared_server.rest_port)
    done = run("model", *tiny_arguments(zoo), "--port", str(ports[0]), "--rest_port", str(ports[1]))
    assert done.returncode == 3
    assert f"Failed to start {protocol} server" in done.stderr
    assert "port is busy: another ovms_mp has it" in done.stderr
    assert f"choose another --{'port' if is_grpc else 'rest_port'}" in done.stderr
    assert rest_client.predict(shared_server.rest_port, "tiny", {"inputs": X.tolist()}).status == 200


def test_second_instance_on_the_same_ports(zoo: ModelZoo, shared_server: Server) -> None:
    """With the very flags of the first, which shares its gRPC port among its own fronts."""
    done = run(
        *tiny_arguments(zoo),
        *(
            "--port",
            str(shared_server.port),
            "--rest_port",
            str(shared_server.rest_port),
            "--grpc_workers",
            "2",
        ),
    )
    assert done.returncode == 3
    assert "Failed to start gRPC server" in done.stderr
    assert shared_server.process.poll() is None


@pytest.mark.parametrize("device", ["GPU", "XYZ", "HETERO:GPU,CPU", "AUTO:GPU"])
def test_missing_device_of_a_single_model(device: str, zoo: ModelZoo) -> None:
    """The text names the device and those that there are."""
    ports = free_ports(2)
    done = run(
        *("model", *tiny_arguments(zoo), "--target_device", device),
        *("--port", str(ports[0]), "--rest_port", str(ports[1])),
    )
    assert done.returncode == 3
    missing = "XYZ" if device == "XYZ" else "GPU"
    assert (
        f"target_device '{device}': {missing} is not available on this machine (available: CPU" in done.stderr
    )
    assert "Traceback" not in done.stderr


def test_unsupported_plugin_config_key_of_a_single_model(zoo: ModelZoo) -> None:
    ports = free_ports(2)
    done = run(
        *("model", *tiny_arguments(zoo), "--plugin_config", '{"NO_SUCH_KEY": "1"}'),
        *("--port", str(ports[0]), "--rest_port", str(ports[1])),
    )
    assert done.returncode == 3
    assert "NO_SUCH_KEY is not supported by CPU" in done.stderr
    assert "NUM_STREAMS" in done.stderr


MODEL = ("--model_name", "m", "--model_path", "/nonexistent")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("serve",), "unknown command 'serve'"),
        (("model", "--model_name", "m"), "--model_path is missing"),
        (("model", "--model_path", "/m"), "--model_name is missing"),
        (("config",), "--config_path"),
        (("--port", "9000"), "--config_path FILE"),
        (("model", *MODEL, "--no_such_flag", "1"), "--no_such_flag"),
        (("model", *MODEL, "--port", "text"), "'text' is not an integer"),
        (("model", *MODEL, "--port", "65536"), "--port: 65536 is out of range"),
        (("model", *MODEL, "--port", "9000", "--rest_port", "9000"), "cannot have the same values"),
        (MODEL, "port and rest_port cannot both be unset"),
        (("model", *MODEL, "--plugin_config", "{"), "is not JSON"),
        (("model", *MODEL, "--plugin_config", "[]"), "--plugin_config"),
        (("model", *MODEL, "--model_version_policy", '{"latests": {}}'), "--model_version_policy"),
        (("model", *MODEL, "--log_level", "LOUD"), "'LOUD' is unknown"),
        (("model", *MODEL, "--shape", "(1,x)"), "--shape"),
        (("model", *MODEL, "--target_device", "MYRIAD"), "MYRIAD"),
        (("--config_path", "/nonexistent.json", "--port", "9000"), "No such file"),
        (("--config_path", "/c.json", "--port", "9000", "--nireq", "4"), "exclusive with the config file"),
        (("devices", "--all"), "--all"),
        (("demo", "--port", "text"), "--port: 'text' is not an integer"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_usage_errors(arguments: tuple[str, ...], text: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, one line that names flag, value and what is accepted; no traceback."""
    assert text in refusal(capfd, *arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "usage: ovms_mp"),
        (("model", *MODEL, "--nireq", "-1"), "--nireq"),
        (("model", *MODEL, "--log_path", "/nonexistent/log"), "--log_path /nonexistent/log"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_usage_errors_of_the_program(arguments: tuple[str, ...], text: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("", "is empty"),
        ("{", "JSON"),
        ("[]", "$: [] is not valid"),
        ("{}", "model_config_list is missing"),
        ('{"model_config_list": {}}', "$.model_config_list"),
        ('{"model_config_list": [{}]}', "$.model_config_list[0]"),
        ('{"model_config_list": [{"config": {"name": "m"}}]}', "$.model_config_list[0].config.base_path"),
        ('{"model_config_list": [{"config": {"name": "", "base_path": "/m"}}]}', "config.name"),
        (
            '{"model_config_list": [{"config": {"name": "m", "base_path": "/m", "nireq": "x"}}]}',
            "config.nireq",
        ),
        (
            '{"model_config_list": [{"config": {"name": "m", "base_path": "/m", "nireq": -1}}, '
            '{"config": {"name": "m", "base_path": "/n"}}]}',
            "$.model_config_list[1].config.name",
        ),
    ],
)
def test_bad_configuration_files(
    document: str, text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.json"
    config.write_text(document)
    assert text in refusal(capfd, "config", "--config_path", str(config))


# --- asking the program ---


def test_help_names_commands_and_flags() -> None:
    done = run("--help")
    assert done.returncode == 0
    for text in ("  demo ", "  model ", "  config ", "  devices ", "  install-service ", "exit codes"):
        assert text in done.stdout
    assert "--arena_size_mb" in run("--help", "all").stdout
    assert "--model_path" in run("model", "--help").stdout
    assert "--config_path" in run("config", "--help").stdout


def test_version_names_openvino_too() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("ovms_mp ")
    assert "OpenVINO 20" in done.stdout


def test_devices_lists_the_cpu() -> None:
    done = run("devices")
    assert done.returncode == 0
    assert "\nCPU\n" in done.stdout
    assert "full name: " in done.stdout
