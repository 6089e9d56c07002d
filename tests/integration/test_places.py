# SPDX-License-Identifier: Apache-2.0
"""Places that are not made for it: odd working directories, nothing writable, sandboxes, old kernels, low limits."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import rest_client
from tests.support.server import Server, free_ports
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.models import ModelZoo
    from tests.support.tfs_client import TfsClient

X = np.arange(10, dtype=np.float32)[None]
NOTICED_S = 15.0
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may change its mounts")


def tiny(zoo: ModelZoo) -> list[str]:
    return ["model", "--model_name", "tiny", "--model_path", str(zoo.base_path("tiny"))]


def two(zoo: ModelZoo, directory: Path) -> list[str]:
    """Of several versions each is tried before it is loaded."""
    config = directory / "config.json"
    entries = [
        {"config": {"name": name, "base_path": str(zoo.base_path("tiny"))}} for name in ("tiny", "other")
    ]
    config.write_text(json.dumps({"model_config_list": entries}))
    return ["config", "--config_path", str(config)]


def assert_serves(server: Server, name: str = "tiny") -> None:
    reply = rest_client.predict(server.rest_port, name, {"inputs": X.tolist()})
    assert reply.status == 200, reply.body
    assert reply.json() == {"outputs": (X + 1).tolist()}


def run_in(place: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program in a place until its end, which it must find by itself."""
    ports = free_ports(2)
    command = [sys.executable, "-m", "tests.support.place", *place, "--", sys.executable, "-m", "ovms_mp"]
    flags = ("--port", str(ports[0]), "--rest_port", str(ports[1]))
    return subprocess.run(
        [*command, *arguments, *flags], capture_output=True, text=True, timeout=60, check=False
    )


# --- working directories ---


@pytest.mark.parametrize("deed", ["--remove-directory", "--close-directory"])
def test_a_working_directory_that_cannot_be_entered(
    deed: str, zoo: ModelZoo, tmp_path: Path, log_path: Path
) -> None:
    directory = tmp_path / "away"
    directory.mkdir()
    place = ["--directory", str(directory), deed]
    # The package is found in the working directory of the tests, as in a checkout.
    environment = {"PYTHONPATH": os.getcwd()}
    with Server(tiny(zoo), log_path, environment, place=place) as server:
        assert_serves(server)
        places = {os.readlink(f"/proc/{pid}/cwd") for pid in server.all_pids()[1:]}
    assert places == {"/"}
    assert "Traceback" not in server.log()


@pytest.mark.parametrize(
    ("flag", "value"), [("--model_path", "tiny"), ("--log_path", "log"), ("--cache_dir", "cache")]
)
def test_a_relative_path_in_a_deleted_working_directory(
    flag: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "away").mkdir()
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    place = ["--directory", str(tmp_path / "away"), "--remove-directory"]
    done = run_in(place, "model", "--model_name", "m", "--model_path", "/nonexistent", flag, value)
    assert done.returncode == 2
    assert f"{flag}: {value} is relative, and the working directory cannot be told" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_lies_in_the_working_directory_is_found_by_relative_paths_and_never_imported(
    zoo: ModelZoo, tmp_path: Path, log_path: Path
) -> None:
    directory = tmp_path / "home"
    zoo.install("tiny", directory / "models" / "tiny", 1)
    for name in ("json", "logging", "enum", "numpy", "openvino", "zmq", "gunicorn", "secrets"):
        (directory / f"{name}.py").write_text("raise SystemExit('imported from the working directory')")
    arguments = ["model", "--model_name", "tiny", "--model_path", "models/tiny", "--cache_dir", "cache"]
    environment = {"PYTHONPATH": os.getcwd(), "LOG_PATH": "server_too.log"}
    place = ["--directory", str(directory)]
    with Server(arguments, log_path, environment, place=place) as server:
        assert_serves(server)
    assert "imported from the working directory" not in server.log()
    second = (directory / "server_too.log").read_text()
    assert all(f"[{kind}" in second for kind in ("manager", "grpc")), second
    assert any((directory / "cache").iterdir())


# --- nothing writable ---


@needs_root
def test_it_serves_where_nothing_is_writable(zoo: ModelZoo, tmp_path: Path, log_path: Path) -> None:
    """A read-only root, /tmp and /dev/shm: without a cache, with one notice."""
    with Server(two(zoo, tmp_path), log_path, rest_workers=2, place=["--read-only"]) as server:
        assert_serves(server)
    log = server.log()
    assert log.count("event=no_cache") == 1
    assert "Traceback" not in log


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's name."""
    directory = Path(tempfile.mkdtemp())
    yield directory
    shutil.rmtree(directory)


def test_directories_of_killed_servers_are_swept(
    zoo: ModelZoo, temporary: Path, tmp_path: Path, log_path: Path
) -> None:
    """Killed while a trial runs, so that there are all; also of one that was process 1, which lives for ever."""
    environment = {"TMPDIR": str(temporary)}
    arguments = two(zoo, tmp_path)  # One alone has no trial.
    server = Server(arguments, log_path, environment)
    with server.launched():
        eventually(lambda: len(list(temporary.iterdir())) == 2, NOTICED_S, "one for caches, one for sockets")
    left = [
        path.rename(path.with_name(path.name.replace(str(server.process.pid), "1", 1)))
        for path in temporary.iterdir()
    ]
    with Server(arguments, log_path, environment) as server:
        assert_serves(server)
        assert len(left) == 2
        assert not any(path.exists() for path in left)
    assert list(temporary.iterdir()) == []


def connect_as_nobody(path: Path) -> int:
    """The system's answer to another user who connects to a socket."""
    with socket.socket(socket.AF_UNIX) as client:
        os.seteuid(65534)
        try:
            return client.connect_ex(str(path))
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("length", [20, 200])
def test_sockets_are_files_in_a_private_directory_where_their_paths_are_short_enough(
    length: int, zoo: ModelZoo, temporary: Path, log_path: Path
) -> None:
    directory = temporary / ("d" * length)
    directory.mkdir()
    with Server(tiny(zoo), log_path, {"TMPDIR": str(directory)}) as server:
        assert_serves(server)
        private = list(directory.glob("ovms_mp-sockets-*"))
        assert [path.stat().st_mode & 0o777 for path in private] == ([0o700] if length == 20 else [])
        for path in private if os.geteuid() == 0 else ():
            temporary.chmod(0o755)
            assert {connect_as_nobody(name) for name in path.iterdir()} == {errno.EACCES}
        os.kill(server.pids("worker")[0], signal.SIGKILL)
        eventually(lambda: server.log().count("event=loaded") == 2, NOTICED_S, "a successor")
        assert_serves(server)
    assert ("event=abstract_sockets" in server.log()) is (length == 200)
    assert list(directory.iterdir()) == []


# --- sandboxes and old kernels ---


@pytest.mark.parametrize(
    ("refused", "texts"),
    [
        (["pidfd_open:ENOSYS", "pidfd_send_signal:ENOSYS", "setpriority:EPERM"], []),
        (["pidfd_open:EPERM", "sched_setscheduler:EPERM", "sched_setaffinity:EPERM"], ["event=not_confined"]),
        (["sched_setscheduler:ENOSYS", "sched_setaffinity:ENOSYS"], ["event=not_confined"]),
    ],
    ids=lambda value: "-".join(value),
)
def test_system_calls_that_are_refused(
    refused: list[str], texts: list[str], zoo: ModelZoo, log_path: Path
) -> None:
    """It serves, notices the death of every kind of child, and stops cleanly."""
    place = [word for call in refused for word in ("--refuse", call)]
    with Server([*tiny(zoo), "--cpu_workers", "2"], log_path, place=place) as server:
        assert_serves(server)
        for kind in ("worker", "rest", "grpc"):
            before = server.pids(kind)
            os.kill(before[0], signal.SIGKILL)
            eventually(
                lambda kind=kind, before=before: len(set(server.pids(kind)) - {before[0]}) == len(before),  # type: ignore[misc]  # mypy infers no lambda with defaults
                NOTICED_S,
                f"a new {kind}",
            )
        eventually(
            lambda: rest_client.predict(server.rest_port, "tiny", {"inputs": X.tolist()}).status == 200,
            NOTICED_S,
            "it serves again",
        )
        assert server.stop() == 0
    log = server.log()
    assert [text for text in texts if text not in log] == []
    assert "Traceback" not in log


# --- limits ---


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        ("NOFILE:32", "(RLIMIT_NOFILE, ulimit -Hn) is 32; at least 80 are needed"),
        ("NOFILE:64", "(RLIMIT_NOFILE, ulimit -Hn) is 64; at least 80 are needed"),
        ("AS:2000000000", "4 arenas of --arena_size_mb 4096 MiB and OpenVINO; --arena_size_mb 220 would fit"),
        (
            "AS:8000000000",
            "4 arenas of --arena_size_mb 4096 MiB and OpenVINO; --arena_size_mb 1651 would fit",
        ),
    ],
)
def test_limits_that_cannot_be_enough(limit: str, text: str, zoo: ModelZoo) -> None:
    done = run_in(["--limit", limit], *tiny(zoo))
    assert (done.returncode, text in done.stderr) == (3, True), done.stderr
    assert "Traceback" not in done.stderr


def test_limits_that_are_just_enough(zoo: ModelZoo, log_path: Path) -> None:
    """And of all processes the kernel ends the manager last when memory runs out, the worker before the fronts."""
    place = ["--limit", "NOFILE:80", "--limit", "AS:8000000000"]
    with Server([*tiny(zoo), "--arena_size_mb", "1651"], log_path, place=place) as server:
        assert_serves(server)
        points = {
            kind: int(Path(f"/proc/{server.pids(kind)[0]}/oom_score_adj").read_text())
            for kind in ("worker", "grpc", "arbiter", "rest")
        }
        manager = int(Path(f"/proc/{server.process.pid}/oom_score_adj").read_text())
    assert manager < points["grpc"] == points["rest"] == points["arbiter"] < points["worker"] < 1000


# --- addresses ---


@pytest.mark.parametrize("front", ["native", "grpcio"])
def test_addresses_of_both_families(front: str, zoo: ModelZoo, log_path: Path, tfs: TfsClient) -> None:
    both = ("--rest_bind_address", "0.0.0.0,::", "--grpc_bind_address", "0.0.0.0,::", "--grpc_front", front)
    with Server([*tiny(zoo), *both], log_path) as server:
        assert_serves(server)
        for host in ("127.0.0.1", "::1"):
            for port in (server.port, server.rest_port):
                with socket.create_connection((host, port), timeout=5):
                    pass
        assert tfs.predict(server.port, "tiny", {"x": X}).code == "OK"
        tfs.forget(server.port)
