# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp status`` and what may answer it: a status, something else, or nobody."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from ovms_mp import __version__
from ovms_mp.cli import main
from ovms_mp.status_command import local_servers
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.models import ModelZoo


@contextlib.contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    """An HTTP server with one answer for ``/v1/status``; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/v1/status"
            self.send_response(status if found else 404)
            self.end_headers()
            self.wfile.write(body if found else b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join(10)


def test_a_status_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # Not for this machine's own servers.
    body = json.dumps({"plan": ["one core"], "models": {"m": {"default_version": 1}}}).encode()
    with answering(200, body) as port:
        assert main(["status", "--rest_port", str(port)]) == 0

    out, err = capsys.readouterr()
    assert (out, err) == ("one core\n\nm: default version 1\n", "")


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (404, b"", "answers 404: no ovms_mp of this release"),
        (200, b"hello", "the answer is not a status document"),
    ],
)
def test_something_else_answers(
    status: int, body: bytes, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(status, body) as port:
        assert main(["status", "--rest_port", str(port)]) == 3

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ovms_mp: error: ")
    assert text in err


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "no such host", "a\nb"])
def test_nobody_answers(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound and not listening: connections are refused.
        port = taken.getsockname()[1]
        assert main(["status", "--host", host, "--rest_port", str(port)]) == 3

    out, err = capsys.readouterr()
    assert out == ""
    assert "nothing answers at" in err
    assert "--rest_port" in err
    assert err.count("\n") == 1


def test_what_answers_is_no_http(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)

        def speak() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"\x00\x00\x12\x04 not http\r\n\r\n")

        thread = threading.Thread(target=speak)
        thread.start()
        assert main(["status", "--rest_port", str(listener.getsockname()[1])]) == 3
        thread.join(10)

    err = capsys.readouterr().err
    assert "does not speak HTTP" in err
    assert "--rest_port" in err
    assert err.isprintable() or err.count("\n") == 1


# A server on this machine, asked by its status socket.


@pytest.fixture(scope="module")
def grpc_only(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without a REST port, whose second model does not exist."""
    directory = tmp_path_factory.mktemp("grpc_only")
    config = directory / "config.json"
    entries = [
        {"name": "tiny", "base_path": str(zoo.base_path("tiny"))},
        {"name": "typo", "base_path": "/typo"},
    ]
    config.write_text(json.dumps({"model_config_list": [{"config": entry} for entry in entries]}))
    server = Server(["config", "--config_path", str(config)], directory / "log", has_rest=False)
    with server:
        yield server


def status(*arguments: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ovms_mp", "status", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        user=user,
        cwd="/",
    )


def test_a_server_without_rest_tells_its_status(grpc_only: Server) -> None:
    done = status("--port", str(grpc_only.port))

    assert (done.returncode, done.stderr) == (0, "")
    assert "tiny: default version 1" in done.stdout
    assert "AVAILABLE" in done.stdout
    assert "typo: no default version" in done.stdout


def test_the_document_is_for_programs(grpc_only: Server) -> None:
    done = status("--json", "--port", str(grpc_only.port))

    document = json.loads(done.stdout)
    assert document["server"] == {"version": __version__, "is_draining": False}
    assert document["models"]["tiny"]["versions"][0]["state"] == "AVAILABLE"


def test_it_answers_before_anything_is_loaded(zoo: ModelZoo, tmp_path: Path) -> None:
    server = Server(
        ["model", "--model_name", "slow", "--model_path", str(zoo.base_path("tiny"))], tmp_path / "log"
    )
    server.launch()
    try:
        eventually(lambda: f"-{server.port}-" in Path("/proc/net/unix").read_text(), 10, "status socket")
        done = status("--port", str(server.port))
        assert done.returncode == 0, done.stderr
        assert "slow: " in done.stdout
        server.wait_ready()
    finally:
        server.stop()


def test_several_servers_are_told_apart_by_their_ports(grpc_only: Server, shared_server: Server) -> None:
    done = status()

    assert done.returncode == 3
    assert f"gRPC {grpc_only.port}" in done.stderr
    assert f"REST {shared_server.rest_port}" in done.stderr
    assert status("--rest_port", str(shared_server.rest_port)).stdout.count("resnet50: ") == 1
    assert "resnet50" not in status("--port", str(grpc_only.port)).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_another_user_is_told_nothing(grpc_only: Server) -> None:
    # Not by running the command: that user may not be able to read this checkout.
    (found,) = [server for server in local_servers() if server.port == grpc_only.port]
    script = (
        "import os, socket, sys; os.setresuid(65534, 65534, 65534); s = socket.socket(socket.AF_UNIX); "
        "s.connect(sys.argv[1].replace('@', chr(0))); print(socket.recv_fds(s, 1, 1)[:2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, found.address.replace("\0", "@")],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert done.stdout == "(b'', [])\n"


def test_who_asks_in_a_loop_costs_the_manager_little(grpc_only: Server) -> None:
    (found,) = [server for server in local_servers() if server.port == grpc_only.port]
    before = psutil.Process(grpc_only.process.pid).cpu_times()
    count, ends_at = 0, time.monotonic() + 1.0
    while time.monotonic() < ends_at:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5.0)
            connection.connect(found.address)
            _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
            os.close(descriptors[0])
            count += 1
    after = psutil.Process(grpc_only.process.pid).cpu_times()

    assert 2 <= count <= 100
    assert after.user + after.system - before.user - before.system < 0.5


def test_names_of_others_in_the_kernel_s_table_are_passed_over(tmp_path: Path) -> None:
    table = tmp_path / "unix"
    row = "0000000000000000: 00000002 00000000 00010000 0001 01 14715 "
    names = [
        "@ovms_mp-status-12-9000-0",
        "@ovms_mp-status-x-1-2",
        "@ovms_mp-status-1-2",
        "/run/ovms_mp-status-1-2-3",
    ]
    table.write_text(
        "Num RefCount Protocol Flags Type St Inode Path\n" + "".join(f"{row}{name}\n" for name in names)
    )

    (found,) = local_servers(str(table))

    assert (found.pid, found.port, found.rest_port) == (12, 9000, 0)
    assert found.address == "\0ovms_mp-status-12-9000-0"
    assert found.text() == "pid 12 (gRPC 9000)"
    assert local_servers(str(tmp_path / "missing")) == []


STRANGER = """
import os, socket, sys
os.setuid(65534)
held = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(200)]
for each in held:
    each.connect_ex("\\0" + sys.argv[1])
print("connected", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may be another user")
def test_strangers_keep_nobody_from_the_status(
    shared_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"ovms_mp-status-{shared_server.process.pid}-{shared_server.port}-{shared_server.rest_port}"
    with subprocess.Popen(
        [sys.executable, "-c", STRANGER, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "connected\n"
        assert main(["status", "--port", str(shared_server.port)]) == 0
        stranger.communicate("", timeout=10)
    assert "tiny: default version 1" in capsys.readouterr().out
