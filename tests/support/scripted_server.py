# SPDX-License-Identifier: Apache-2.0
"""A server that does what a test says, in threads of the test: for clients of HTTP/2 that have to live with any."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from typing import TYPE_CHECKING

from ovms_mp.client import hpack
from ovms_mp.client.http2_frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS,
    frame,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType
    from typing import Self

DEADLINE_S = 20.0
OK = hpack.encode([(":status", "200"), ("content-type", "application/grpc")])
DONE = hpack.encode([("grpc-status", "0")])


class ScriptedServer:
    """Listens on a port of its own.

    Attributes:
        count: Connections that have come.
    """

    def __init__(self, serve: Callable[[Http2Peer], None], tls: ssl.SSLContext | None = None) -> None:
        """Listen; connections are served within the context.

        Args:
            serve: Called with each connection, in a thread of its own.
            tls: Makes it secure; what fails in handshakes is the client's affair.
        """
        self.count = 0
        self._serve = serve
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._open: list[socket.socket] = []

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        """Serve."""
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.count += 1
            connection.settimeout(DEADLINE_S)
            self._open.append(connection)
            thread = threading.Thread(target=self._run, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _run(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), connection:
            if self._tls is None:
                self._serve(Http2Peer(connection))
                return
            with self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as secure:
                try:
                    secure.do_handshake()
                except ssl.SSLError:
                    # A reset would take the alert back.
                    socket.socket.shutdown(secure, socket.SHUT_WR)
                    while socket.socket.recv(secure, 4096):
                        pass
                    return
                self._serve(Http2Peer(secure))


class Http2Peer:
    """A server's end of a connection, frame by frame."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection

    def greet(self, settings: Mapping[int, int] | None = None) -> None:
        """Exchange settings."""
        self._receive(len(PREFACE))
        payload = b"".join(struct.pack(">HI", *setting) for setting in (settings or {}).items())
        self.say(frame(SETTINGS, 0, 0, payload) + frame(SETTINGS, ACK, 0))

    def say(self, octets: bytes) -> None:
        """Send octets."""
        self.socket.sendall(octets)

    def frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Kind, flags, stream and payload of each frame that comes, to the end."""
        while True:
            high, low, kind, flags, stream_id = struct.unpack(">HBBBI", self._receive(9))
            yield kind, flags, stream_id, self._receive(high << 8 | low)

    def requests(self) -> Iterator[tuple[int, Mapping[str, str]]]:
        """Stream and headers of each request whose body is whole."""
        headers: dict[int, Mapping[str, str]] = {}
        for kind, flags, stream_id, payload in self.frames():
            if kind == HEADERS:
                headers[stream_id] = hpack.BlockDecoder().decode(payload)
            if kind in (HEADERS, DATA) and flags & END_STREAM:
                yield stream_id, headers.pop(stream_id)

    def answer(self, stream_id: int, message: bytes) -> None:
        """Answer a request with a message."""
        body = struct.pack(">BI", 0, len(message)) + message
        self.say(
            frame(HEADERS, END_HEADERS, stream_id, OK)
            + frame(DATA, 0, stream_id, body)
            + frame(HEADERS, END_HEADERS | END_STREAM, stream_id, DONE)
        )

    def _receive(self, nbytes: int) -> bytes:
        parts = bytearray()
        while len(parts) < nbytes:
            part = self.socket.recv(nbytes - len(parts))
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)
