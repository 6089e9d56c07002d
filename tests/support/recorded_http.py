# SPDX-License-Identifier: Apache-2.0
"""A small HTTP server on this machine that answers as a test says, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes:
        path: With its query; a whole URL where it was asked as a proxy.
        headers: By lower-case name.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Reply:
    """Its answer."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class RecordedHttp:
    """The server, while it runs."""

    port: int
    asked: list[Asked] = field(default_factory=list)


@contextlib.contextmanager
def recorded_http(
    answer: Callable[[Asked], Reply], tls: ssl.SSLContext | None = None
) -> Iterator[RecordedHttp]:
    """A server with these answers, over TLS where that is given."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", "0")))
            asked = Asked(self.command, self.path, headers, body)
            recorded.asked.append(asked)
            reply = answer(asked)
            self.send_response(reply.status)
            length = {"Content-Length": str(len(reply.body)), "Connection": "close"}
            for name, value in {**length, **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

        do_GET = do_HEAD = do_PUT = do_POST = handle_any  # the library's names

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing is logged."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        recorded = RecordedHttp(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield recorded
        finally:
            server.shutdown()
            thread.join()
