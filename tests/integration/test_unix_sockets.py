# SPDX-License-Identifier: Apache-2.0
"""Both protocols on Unix sockets: served, shared by fronts, replaced after a crash, refused, drained."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.support.h2_client import H2Client, message
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.models import ModelZoo

WITHIN_S = 120.0
X = [[float(number) for number in range(10)]]
Y = [[number + 1 for number in X[0]]]


class UnixConnection(http.client.HTTPConnection):
    """HTTP/1.1 over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30.0)
        self._path = str(path)

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass
class UnixServer:
    """A server that listens on two Unix sockets only."""

    directory: Path
    base_path: Path
    flags: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def grpc(self) -> Path:
        return self.directory / "grpc.sock"

    @property
    def rest(self) -> Path:
        return self.directory / "rest.sock"

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    def arguments(self) -> list[str]:
        return [
            *(sys.executable, "-m", "ovms_mp", "model", "--model_name", "tiny"),
            *("--model_path", str(self.base_path), "--port", "0"),
            *("--grpc_bind_address", f"unix:{self.grpc}", "--rest_bind_address", f"unix:{self.rest}"),
            *("--grpc_workers", "2", "--rest_workers", "2"),
            *self.flags,
        ]

    @contextlib.contextmanager
    def running(self) -> Iterator[UnixServer]:
        """Started, until it says that it is ready; ended by force if the test has not ended it."""
        told = self.log.read_text().count("Ready: ") if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            eventually(lambda: self.log.read_text().count("Ready: ") > told, WITHIN_S, "the server is ready")
            yield self
            self.stop()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10.0)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30.0)

    def predict(self) -> object:
        """One request over REST, on a connection of its own."""
        with contextlib.closing(UnixConnection(self.rest)) as connection:
            connection.request("POST", "/v1/models/tiny:predict", json.dumps({"instances": X}))
            return json.loads(connection.getresponse().read())

    def health(self) -> bytes:
        """The standard service's Check of the server, over gRPC."""
        with H2Client(str(self.grpc)) as client:
            return client.ask("/grpc.health.v1.Health/Check", message(b"")).body


@pytest.fixture
def server(zoo: ModelZoo, tmp_path: Path) -> UnixServer:
    return UnixServer(tmp_path, zoo.base_path("tiny"))


SERVING = message(b"\x08\x01")


def test_both_protocols_are_served_and_nothing_stays_behind(server: UnixServer) -> None:
    with server.running():
        assert (server.predict(), server.health()) == ({"predictions": Y}, SERVING)
        for path in (server.grpc, server.rest):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
        log = server.log.read_text()
        assert f"gRPC server listens on unix:{server.grpc} and will be serving models: ['tiny']" in log
        assert f"Ready: REST unix:{server.rest}  gRPC unix:{server.grpc}  serving tiny/1" in log
        assert f"Ask: curl --unix-socket {server.rest} " in log or "Ask:" not in log
        assert server.stop() == 0
    assert not server.grpc.exists()
    assert not server.rest.exists()
    with server.running():
        assert (server.predict(), server.health()) == ({"predictions": Y}, SERVING)
    assert "Traceback" not in server.log.read_text()


def test_mode_and_group(server: UnixServer) -> None:
    server.flags = ("--unix_socket_mode", "600", "--unix_socket_group", str(os.getgid()))
    with server.running():
        state = server.grpc.stat()
        assert (stat.S_IMODE(state.st_mode), state.st_gid) == (0o600, os.getgid())


def test_files_of_a_killed_server_are_replaced(server: UnixServer) -> None:
    with server.running():
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait(10.0)
        assert server.grpc.exists()
        # Its children end with it, and only then does nobody listen any more.
        eventually(lambda: not _listens(server.rest) and not _listens(server.grpc), 30.0, "nobody listens")
        with server.running():
            assert (server.predict(), server.health()) == ({"predictions": Y}, SERVING)
            return_code = server.stop()
        assert return_code == 0
    assert "event=stale_socket" in server.log.read_text()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def test_a_socket_in_use_is_an_error_that_names_it(server: UnixServer) -> None:
    with server.running():
        second = subprocess.run(server.arguments(), capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode != 0
        assert f"--grpc_bind_address unix:{server.grpc} is in use" in second.stderr
        assert (server.predict(), server.health()) == ({"predictions": Y}, SERVING)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--rest_bind_address", "unix:/" + "x" * 120), "has 107 bytes at most, this one has 121"),
        (("--grpc_front", "grpcio"), "use --grpc_front native"),
        (("--unix_socket_mode", "rw"), "--unix_socket_mode rw"),
        (("--rest_bind_address", "unix:{directory}/file"), "is there and is no socket"),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(
    server: UnixServer, flags: tuple[str, str], words: str
) -> None:
    (server.directory / "file").write_text("precious")
    server.flags = (flags[0], flags[1].format(directory=server.directory))
    done = subprocess.run(server.arguments(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert words in done.stderr
    assert (server.directory / "file").read_text() == "precious"
    assert not server.grpc.exists()


def test_a_front_that_dies_is_replaced_on_the_same_socket(server: UnixServer) -> None:
    with server.running():
        ready = server.log.read_text().count("event=ready child=grpc-")
        fronts = [line for line in server.log.read_text().splitlines() if "event=ready child=grpc-" in line]
        for line in fronts:
            os.kill(int(line.split("pid=")[-1].split()[0]), signal.SIGKILL)
        # Connections wait in the socket, which the manager holds.
        assert server.health() == SERVING
        eventually(
            lambda: server.log.read_text().count("event=ready child=grpc-") >= ready + 2,
            WITHIN_S,
            "both fronts are replaced",
        )
        assert server.health() == SERVING


def test_no_request_is_lost_in_a_stop(server: UnixServer) -> None:
    answers: list[object] = []
    failures: list[BaseException] = []
    begun = threading.Barrier(5)

    def ask_on(connection: UnixConnection) -> None:
        """Ask until the server wants the connection closed."""
        is_open = True
        while is_open:
            connection.request("POST", "/v1/models/tiny:predict", json.dumps({"instances": X}))
            reply = connection.getresponse()
            answers.append(json.loads(reply.read()))
            is_open = reply.getheader("connection") != "close"

    def ask() -> None:
        begun.wait(30.0)
        while True:
            with contextlib.closing(UnixConnection(server.rest)) as connection:
                try:
                    connection.connect()
                except (FileNotFoundError, ConnectionRefusedError):
                    return  # The server is gone, which no request has to suffer for.
                try:
                    ask_on(connection)
                except (OSError, http.client.HTTPException) as error:
                    failures.append(error)

    with server.running():
        threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        begun.wait(30.0)
        eventually(lambda: len(answers) > 50, WITHIN_S, "some answers")
        assert server.stop() == 0
        for thread in threads:
            thread.join(30.0)
    assert failures == []
    assert all(answer == {"predictions": Y} for answer in answers)
