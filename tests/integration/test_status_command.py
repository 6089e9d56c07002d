# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp status`` and what may answer it: a status, something else, or nobody."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from ovms_mp.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    [(404, b"", "answers 404: no ovms_mp of this release"), (200, b"hello", "something else than a status")],
)
def test_something_else_answers(
    status: int, body: bytes, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(status, body) as port:
        assert main(["status", "--rest_port", str(port)]) == 3

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"ovms_mp: error: http://127.0.0.1:{port}/v1/status ")
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

    assert "nothing answers at" in capsys.readouterr().err
