# SPDX-License-Identifier: Apache-2.0
"""The other end of a connection, as octets: builders of frames and blocks, and a record of all reactions.

Frames and blocks are built here from the RFCs' layouts, not by the package, so that both cannot be wrong together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.grpc.http2.connection import Http2Connection
from ovms_mp.front.grpc.http2.faults import ErrorCode
from ovms_mp.front.grpc.http2.limits import Guard, Limits
from ovms_mp.front.grpc.http2.stream import Stream
from ovms_mp.front.sinks import fill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.grpc.http2.headers import RequestHead

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
REQUEST = ((":method", "POST"), (":scheme", "http"), (":path", "/a"), (":authority", "host"))
OK = b"\x88"
SECOND = 1_000_000_000
PLACE_BYTES = 2 << 20


def frame(
    kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", length: int | None = None
) -> bytes:
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def text(value: str | bytes) -> bytes:
    raw = value.encode("latin-1") if isinstance(value, str) else value
    if len(raw) < 127:
        return bytes((len(raw),)) + raw
    rest, octets = len(raw) - 127, bytearray((127,))
    while rest >= 128:
        octets.append(rest % 128 + 128)
        rest //= 128
    return bytes(octets) + bytes((rest,)) + raw


def literal(name: str | bytes, value: str | bytes, first: int = 0x00) -> bytes:
    """RFC 7541, 6.2: 0x40 with, 0x00 without, 0x10 never indexed."""
    return bytes((first,)) + text(name) + text(value)


def block(fields: Sequence[tuple[str, str]] = REQUEST) -> bytes:
    return b"".join(literal(name, value) for name, value in fields)


def headers(stream: int = 1, fields: Sequence[tuple[str, str]] = REQUEST, *, end: bool = True) -> bytes:
    return frame(1, 0x5 if end else 0x4, stream, block(fields))


def changed(*pairs: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """The request with pseudo headers replaced."""
    new = dict(pairs)
    return tuple((name, new.get(name, value)) for name, value in REQUEST)


def without(name: str) -> tuple[tuple[str, str], ...]:
    return tuple(field for field in REQUEST if field[0] != name)


def data(payload: bytes, stream: int = 1, *, end: bool = False) -> bytes:
    return frame(0, 0x1 if end else 0, stream, payload)


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(4, 0, 0, b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in pairs))


def window(stream: int, increment: int) -> bytes:
    return frame(8, 0, stream, increment.to_bytes(4, "big"))


def reset(stream: int, code: int = 8) -> bytes:
    return frame(3, 0, stream, code.to_bytes(4, "big"))


def ping(payload: bytes = b"12345678", *, ack: bool = False) -> bytes:
    return frame(6, int(ack), 0, payload)


SETTINGS_ACK = frame(4, 1)


def cut(octets: bytes) -> list[tuple[int, int, int, bytes]]:
    """Octets as frames: type, flags, stream, payload."""
    found = []
    while octets:
        size = int.from_bytes(octets[:3], "big")
        assert len(octets) >= 9 + size, "the output ends inside of a frame"
        found.append((octets[3], octets[4], int.from_bytes(octets[5:9], "big"), octets[9 : 9 + size]))
        octets = octets[9 + size :]
    return found


def described(kind: int, flags: int, stream: int, payload: bytes) -> str:
    number = int.from_bytes(payload[:4], "big")
    if kind == 7:
        return f"goaway {number} {ErrorCode(int.from_bytes(payload[4:8], 'big')).name}"
    words = {
        0: f"DATA {stream} {len(payload)}",
        1: f"HEADERS {stream}" + (" end" if flags & 1 else ""),
        3: f"rst {stream} " + (ErrorCode(number).name if kind == 3 else ""),
        4: "settings-ack" if flags & 1 else "settings",
        6: ("pong " if flags & 1 else "PING ") + payload.decode("latin-1"),
        8: f"window {stream} {number}",
    }
    return words[kind]


class Place:
    """A sink that has room for all that is sent to it."""

    def __init__(self) -> None:
        self.place: memoryview | None = memoryview(bytearray(PLACE_BYTES))
        self.filled = 0

    def advance(self, nbytes: int) -> None:
        self.filled += nbytes

    def feed(self, piece: memoryview) -> int:
        raise AssertionError("there is a place")

    def finish(self) -> bytes:
        assert self.place is not None
        return bytes(self.place[: self.filled])

    def abort(self) -> None:
        self.place = None


class Recorder(Stream):
    """Notes what it is told. What it does besides is in the request's path."""

    def __init__(self, peer: Peer, connection: Http2Connection, number: int, head: RequestHead) -> None:
        limits = connection.limits
        super().__init__(
            number,
            limits.stream_window_bytes,
            connection.output.initial_window,
            head.content_length,
            connection.now_ns,
        )
        self.peer, self.connection, self.head = peer, connection, head
        self.body = b""
        self.is_reading = head.path != b"/unread"

    def opened(self) -> None:
        self.peer.events.append(f"request {self.id}")
        if self.head.path == b"/placed":
            self.sink, self.missing = Place(), PLACE_BYTES
        if self.head.path == b"/early":
            self.connection.output.headers(self, OK, is_end=True)

    def data(self, piece: memoryview) -> None:
        if self.sink is not None:
            fill(self.sink, piece)
            self.missing -= len(piece)
            return
        self.body += piece
        self.peer.events.append(f"data {self.id} {len(piece)}")
        if self.head.path == b"/refuse":
            self.connection.reset(self.id, ErrorCode.REFUSED_STREAM)

    def ended(self) -> None:
        self.peer.events.append(f"end {self.id}")
        if self.head.path == b"/answer":
            self.connection.output.headers(self, OK, is_end=True)

    def was_reset(self) -> None:
        self.peer.events.append(f"gone {self.id}")

    def advance(self, nbytes: int) -> None:
        raise AssertionError("nothing was wanted")

    def tick(self, now_ns: int) -> None:
        self.peer.events.append(f"tick {self.id} {now_ns}")

    def drained(self) -> None:
        self.peer.events.append(f"drained {self.id}")


class Peer:
    """A connection, what its streams were told, and what it wrote."""

    def __init__(self, limits: Limits | None = None, *, shakes_hands: bool = True) -> None:
        self.guard = Guard(limits if limits is not None else Limits())
        self.events: list[str] = []
        self.recorders: dict[int, Recorder] = {}
        self.now_ns = SECOND
        self.released = 0
        self.connection = Http2Connection(self._new_stream, self.guard, self.now_ns)
        if shakes_hands:
            self.send(PREFACE + settings() + SETTINGS_ACK)
            self.written()

    def _new_stream(self, connection: Http2Connection, number: int, head: RequestHead) -> Stream:
        self.recorders[number] = Recorder(self, connection, number, head)
        return self.recorders[number]

    def send(self, octets: bytes) -> None:
        self.connection.receive(octets, self.now_ns)

    def octets(self) -> bytes:
        chunks, releases = self.connection.output.take()
        for release in releases:
            release()
        return b"".join(chunks)

    def written(self) -> list[str]:
        return [described(*parts) for parts in cut(self.octets())]

    def release(self) -> None:
        self.released += 1
