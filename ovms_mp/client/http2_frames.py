# SPDX-License-Identifier: Apache-2.0
"""Frames and error codes of HTTP/2 (RFC 9113, 4, 6 and 7)."""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING

from ovms_mp.client.errors import ClientError, Failed, error_of, unreadable
from ovms_mp.client.exchange import lost, not_sent
from ovms_mp.codes import Code

if TYPE_CHECKING:
    from ovms_mp.client.exchange import Exchange

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0,
    1,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0x0, 0x1, 0x7, 0x8, 0xB
TABLE_SIZE, PUSHES, MOST_STREAMS, WINDOW_SIZE, FRAME_SIZE, HEADER_BYTES = range(1, 7)
HEAD = struct.Struct(">HBBBI")
WINDOW = struct.Struct(">I")
GOAWAY_HEAD = struct.Struct(">II")
SETTING = struct.Struct(">HI")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST_WINDOW = (1 << 31) - 1
DEFAULT_WINDOW = 65535
DEFAULT_FRAME = 16384
OUR_FRAME = 1 << 20
LONGEST_BLOCK = 256 << 10


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A frame with a payload that is shorter than 16 MB."""
    size = len(payload)
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def unpadded(buffer: bytes, start: int, end: int) -> tuple[int, int]:
    """Where the payload of a padded frame really begins and ends (6.1)."""
    if start == end or start + 1 + buffer[start] > end:
        raise broken("padding that is longer than its frame")
    return start + 1, end - buffer[start]


def checked_settings(payload: bytes) -> list[tuple[int, int]]:
    """The settings of a frame (6.5.2).

    Raises:
        Failed: One has a value that it may not have.
    """
    if len(payload) % SETTING.size:
        raise broken("settings of another length")
    settings = list(SETTING.iter_unpack(payload))
    for identifier, value in settings:
        if identifier == WINDOW_SIZE and value > LARGEST_WINDOW:
            raise broken("a window that is too large")
        if identifier == FRAME_SIZE and not DEFAULT_FRAME <= value < 1 << 24:
            raise broken("a frame size that may not be")
    return settings


def our_opening() -> bytes:
    """What a client begins with: no table, no pushes, and room for whatever is answered."""
    settings = {
        TABLE_SIZE: 0,
        PUSHES: 0,
        WINDOW_SIZE: LARGEST_WINDOW,
        FRAME_SIZE: OUR_FRAME,
        HEADER_BYTES: 64 << 10,
    }
    payload = b"".join(SETTING.pack(*setting) for setting in settings.items())
    window = WINDOW.pack(LARGEST_WINDOW - DEFAULT_WINDOW)
    return PREFACE + frame(SETTINGS, 0, 0, payload) + frame(WINDOW_UPDATE, 0, 0, window)


def broken(what: str) -> Failed:
    """The failure of a connection whose peer does what it may not."""
    return unreadable(f"{what}, which HTTP/2 does not allow")


def no_frame(buffer: bytes, at: int, length: int) -> Failed:
    """The failure of a connection whose peer sends a frame that is too long, or does not speak HTTP/2 at all."""
    if buffer.startswith(b"HTTP/", at):
        return unreadable("it speaks HTTP/1.1 and not gRPC; give http:// instead of grpc://")
    if buffer.startswith(b"\x15\x03", at):
        return unreadable("it speaks TLS; give grpcs:// instead of grpc://")
    return broken(f"a frame of {length} bytes")


def reset_failure(code: int) -> ClientError:
    """The failure of a request that the server has reset."""
    if code == REFUSED_STREAM:
        return not_sent("the server has refused the request before it looked at it")
    if code == CANCEL:
        return error_of(Code.CANCELLED, "the server has cancelled the request")
    if code == ENHANCE_YOUR_CALM:
        return error_of(Code.RESOURCE_EXHAUSTED, "the server wants fewer requests of this client")
    return lost(f"the server has reset the request (HTTP/2 error {code})")


class Stream:
    """What of an exchange is still to be sent, and how much the peer lets us."""

    __slots__ = ("exchange", "has_head", "is_whole", "received", "unsent", "window")

    def __init__(self, exchange: Exchange, window: int) -> None:
        self.exchange = exchange
        self.window = window
        self.unsent: deque[memoryview] = deque()
        self.is_whole = False
        self.has_head = False
        self.received = 0


class HeaderBlock:
    """A header block until it is whole; it may come in several frames, between which no other may be (6.10).

    Attributes:
        is_open: Whether more of it has to come.
    """

    __slots__ = ("_flags", "_fragments", "_stream_id", "is_open")

    def __init__(self) -> None:
        self.is_open = False
        self._flags = self._stream_id = 0
        self._fragments = b""

    def take(
        self, kind: int, flags: int, stream_id: int, buffer: bytes, start: int, end: int
    ) -> tuple[int, int, bytes] | None:
        """Take a frame; the first frame's flags, the stream and the block if it is whole.

        Raises:
            Failed: It may not be here, or the block is too long.
        """
        if kind == CONTINUATION:
            if not self.is_open or self._stream_id != stream_id:
                raise broken("a continuation of nothing")
            first_flags, block = self._flags, self._fragments + buffer[start:end]
        else:
            if flags & PADDED:
                start, end = unpadded(buffer, start, end)
            start += 5 if flags & PRIORITY else 0
            first_flags, block = flags, buffer[start:end]
        self.is_open = not flags & END_HEADERS
        if not self.is_open:
            self._fragments = b""
            return first_flags, stream_id, block
        if len(block) > LONGEST_BLOCK:
            raise broken("headers that do not end")
        self._flags, self._stream_id, self._fragments = first_flags, stream_id, block
        return None
