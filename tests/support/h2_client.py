# SPDX-License-Identifier: Apache-2.0
"""A gRPC client on the ``h2`` library: what the gRPC libraries hide, and calls that stop half way."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Self

_DEADLINE_S = 20
_FRAME_BYTES = 16_384


@dataclass
class Answer:
    """What came for a call so far."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_over: bool = False


def message(body: bytes, flags: int = 0) -> bytes:
    """A gRPC message in its frame."""
    return struct.pack(">BI", flags, len(body)) + body


class H2Client:
    """One connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._answers: dict[int, Answer] = {}
        self._socket: socket.socket

    def __enter__(self) -> Self:
        """Connect and exchange settings."""
        self._socket = socket.create_connection(("127.0.0.1", self._port), _DEADLINE_S)
        self._h2.initiate_connection()
        self._flush()
        self._read_until(lambda: self._h2.remote_settings.initial_window_size > 65_535)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Hang up."""
        self._socket.close()

    @property
    def local_port(self) -> int:
        """Where the connection comes from."""
        port: int = self._socket.getsockname()[1]
        return port

    def open(self, path: str, extra: Iterable[tuple[str, str]] = ()) -> int:
        """Begin a call; its stream."""
        stream = self._h2.get_next_available_stream_id()
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")]
        fields += [("te", "trailers"), ("content-type", "application/grpc"), *extra]
        self._h2.send_headers(stream, fields)
        self._answers[stream] = Answer()
        self._flush()
        return stream

    def send(self, stream: int, octets: bytes, *, is_end: bool = True) -> None:
        """Send octets of the call as the server's windows allow."""
        view = memoryview(octets)
        while view:
            self._read_until(lambda: self._h2.local_flow_control_window(stream) > 0)
            room = min(
                self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size, _FRAME_BYTES
            )
            self._h2.send_data(stream, bytes(view[:room]))
            view = view[room:]
            self._flush()
        if is_end:
            self._h2.end_stream(stream)
            self._flush()

    def reset(self, stream: int) -> None:
        """Cancel the call."""
        self._h2.reset_stream(stream, 8)
        self._flush()

    def wait(self, stream: int) -> Answer:
        """The call's answer, whole."""
        answer = self._answers[stream]
        self._read_until(lambda: answer.is_over)
        return answer

    def ask(self, path: str, octets: bytes, extra: Iterable[tuple[str, str]] = ()) -> Answer:
        """Make a call."""
        stream = self.open(path, extra)
        self.send(stream, octets)
        return self.wait(stream)

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())

    def _read_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            octets = self._socket.recv(1 << 16)
            assert octets, "the server hung up"
            for event in self._h2.receive_data(octets):
                self._note(event)
            self._flush()

    def _note(self, event: h2.events.Event) -> None:
        stream = getattr(event, "stream_id", None)
        answer = self._answers.get(stream or 0, Answer())
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            answer.headers.update((str(name), str(value)) for name, value in event.headers or ())
        elif isinstance(event, h2.events.DataReceived):
            answer.body += event.data or b""
            self._h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
        elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
            answer.is_over = True
