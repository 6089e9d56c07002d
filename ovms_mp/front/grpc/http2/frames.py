# SPDX-License-Identifier: Apache-2.0
"""Frames: numbers and layouts of RFC 9113, sections 4, 6 and 7, and the two ways in which a peer can break them."""

import enum
import struct

from ovms_mp.front.grpc.http2.limits import Hit

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TLS_HANDSHAKE = b"\x16\x03"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)
ACK = END_STREAM = 0x1
END_HEADERS, PADDED, HAS_PRIORITY = 0x4, 0x8, 0x20
ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = range(2, 6)
HEADER_SIZE, DEFAULT_WINDOW, DEFAULT_FRAME_SIZE, LARGEST_FRAME_SIZE = 9, 65_535, 16_384, (1 << 24) - 1
LARGEST_WINDOW = LARGEST_STREAM_ID = (1 << 31) - 1
parse_header = struct.Struct(">IBI").unpack_from  # (length << 8 | type, flags, reserved bit and stream)


class ErrorCode(enum.IntEnum):
    """RFC 9113, section 7; those that we send."""

    NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = range(4)
    STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM = 0x5, 0x6, 0x7
    COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 0x9, 0xB


class Fault(Exception):
    """The peer broke a rule; the connection must end (RFC 9113, 5.4.1)."""

    def __init__(self, code: ErrorCode, text: str, hit: Hit = Hit.PROTOCOL) -> None:
        super().__init__(text)
        self.code, self.text, self.hit = code, text, hit


class StreamFault(Fault):
    """The peer broke a rule; only the stream must end (RFC 9113, 5.4.2)."""


def require(condition: bool, code: ErrorCode, text: str, fault: type[Fault] = Fault) -> None:
    """Raise the fault that it is if the condition does not hold."""
    if not condition:
        raise fault(code, text)


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return b"%b%c%c%b%b" % (len(payload).to_bytes(3), kind, flags, stream_id.to_bytes(4), payload)


def unpadded(flags: int, payload: memoryview) -> memoryview:
    """A HEADERS payload without its padding and its deprecated priority fields (6.2)."""
    start = bool(flags & PADDED) + (5 if flags & HAS_PRIORITY else 0)
    require(len(payload) >= start, ErrorCode.FRAME_SIZE_ERROR, "HEADERS lacks its pad length or priority")
    end = len(payload) - (payload[0] if flags & PADDED else 0)
    require(end >= start, ErrorCode.PROTOCOL_ERROR, "padding longer than HEADERS")
    return payload[start:end]
