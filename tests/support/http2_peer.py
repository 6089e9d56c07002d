# SPDX-License-Identifier: Apache-2.0
"""A client that speaks HTTP/2 in frames and need not be polite: octets out as told, the server's frames in."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import Counter
from typing import TYPE_CHECKING

from tests.unit.front.grpc.http2.peer import PREFACE, block, cut, data, frame, literal, settings, window

if TYPE_CHECKING:
    from collections.abc import Iterable

PREDICT = "/tensorflow.serving.PredictionService/Predict"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
CODES = (
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
    "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
)  # fmt: skip
_RECEIVE_BYTES = 1 << 18


def request_fields(path: str = PREDICT, extra: Iterable[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """Header fields of a gRPC request."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "hostile/1"),
        *extra,
    ]


REQUEST_BLOCK = block(request_fields())


def opening(stream: int, *, end: bool = False, fields: bytes = REQUEST_BLOCK) -> bytes:
    """A HEADERS frame of a call."""
    return frame(1, 0x5 if end else 0x4, stream, fields)


def message(body: bytes, declared: int | None = None) -> bytes:
    """A gRPC message; its declared length may be a lie."""
    return b"\0" + struct.pack(">I", len(body) if declared is None else declared) + body


class Closed(Exception):
    """The server has ended the connection."""


class Attacker:
    """One connection of a hostile client.

    Attributes:
        reactions: What the server said, e.g. ``goaway ENHANCE_YOUR_CALM``, ``rst NO_ERROR``, ``status 8``.
    """

    def __init__(self, port: int, reactions: Counter[str], greeting: bytes | None = None) -> None:
        """Connect and greet, with an acknowledgement of the server's settings in advance."""
        self.reactions = reactions
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.setblocking(False)
        self._received = b""
        self.sent_bytes = 0
        self.send(PREFACE + (settings() if greeting is None else greeting) + frame(4, 1))

    def send(self, octets: bytes, within_s: float = 20.0, *, reads: bool = True) -> None:
        """Send all, and read meanwhile; raises Closed as soon as the server has said goodbye."""
        view, give_up_at = memoryview(octets), time.monotonic() + within_s
        while view:
            ready = self._wait(select.POLLOUT | (select.POLLIN if reads else 0), 1.0)
            if ready & select.POLLIN:
                self.take()
            if ready & ~select.POLLIN:
                try:
                    sent = self.socket.send(view[:_RECEIVE_BYTES])
                except BlockingIOError:
                    continue
                except OSError as error:
                    self._read_rest()
                    raise Closed from error
                self.sent_bytes += sent
                view = view[sent:]
            if time.monotonic() > give_up_at:
                self.reactions["takes no more"] += 1
                raise Closed

    def take(self) -> None:
        """Read what is there and note it."""
        try:
            octets = self.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.reactions["reset"] += 1
            raise Closed from error
        if not octets:
            self.reactions["closed"] += 1
            raise Closed
        self._note(octets)

    def listen(self, for_s: float) -> None:
        """Read for so long."""
        until = time.monotonic() + for_s
        while (left := until - time.monotonic()) > 0:
            if self._wait(select.POLLIN, left):
                self.take()

    def _wait(self, events: int, within_s: float) -> int:
        """Which events are there; ``select`` itself knows no descriptors above 1023."""
        poll = select.poll()
        poll.register(self.socket, events)
        return sum(found for _, found in poll.poll(within_s * 1000))

    def close(self) -> None:
        """Leave."""
        self.socket.close()

    def _read_rest(self) -> None:
        try:
            self.listen(2.0)
        except Closed:
            return

    def _note(self, octets: bytes) -> None:
        received = self._received + octets
        end = 0
        while len(received) >= end + 9:
            size = int.from_bytes(received[end : end + 3], "big")
            if len(received) < end + 9 + size:
                break
            end += 9 + size
        for kind, flags, _, payload in cut(received[:end]):
            self._note_frame(kind, flags, payload)
        self._received = received[end:]

    def _note_frame(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == 7:
            self.reactions[f"goaway {CODES[int.from_bytes(payload[4:8], 'big')]}"] += 1
        elif kind == 3:
            self.reactions[f"rst {CODES[int.from_bytes(payload[:4], 'big')]}"] += 1
        elif kind == 1 and flags & 1:
            at = payload.find(b"grpc-status")
            status = payload[at + 12 : at + 12 + payload[at + 11]] if at >= 0 else payload[:4]
            self.reactions[f"status {status.decode('latin-1')}"] += 1


__all__ = ["PREDICT", "REQUEST_BLOCK", "STATUS", "Attacker", "Closed", "block", "data", "frame", "literal", "message",
           "opening", "request_fields", "settings", "window"]  # fmt: skip
