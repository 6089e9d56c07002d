# SPDX-License-Identifier: Apache-2.0
"""Frames: numbers, layouts and the rules for a single frame's header (RFC 9113, sections 3.4, 4 and 6)."""

from __future__ import annotations

import struct
from collections.abc import Callable

from ovms_mp.front.grpc.http2.faults import ErrorCode, Fault

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Types (section 6).
DATA = 0x0
HEADERS = 0x1
PRIORITY = 0x2
RST_STREAM = 0x3
SETTINGS = 0x4
PUSH_PROMISE = 0x5
PING = 0x6
GOAWAY = 0x7
WINDOW_UPDATE = 0x8
CONTINUATION = 0x9

# Flags. The same bit has different names in different types.
END_STREAM = 0x01
ACK = 0x01
END_HEADERS = 0x04
PADDED = 0x08
HAS_PRIORITY = 0x20

HEADER_SIZE = 9
PRIORITY_SIZE = 5
DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_SIZE = 16_384
LARGEST_FRAME_SIZE = (1 << 24) - 1
LARGEST_WINDOW = (1 << 31) - 1
LARGEST_STREAM_ID = (1 << 31) - 1

WHOLE = frozenset((HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION))
"""Types that are handled when the whole frame is there. DATA is passed on as it comes, all others are skipped."""

_ON_CONNECTION = frozenset((SETTINGS, PING, GOAWAY))
_ON_STREAM = frozenset((DATA, HEADERS, PRIORITY, RST_STREAM, CONTINUATION))
_FIXED_SIZES = {RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
_LEAST_GOAWAY_SIZE = 8

parse_header: Callable[[memoryview, int], tuple[int, int, int]] = struct.Struct(">IBI").unpack_from
"""A frame's header as three numbers: ``length << 8 | type``, flags, ``reserved bit << 31 | stream``.

PERF: the first number is not taken apart here, as the fast path compares it as it is.
"""


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A whole frame (4.1)."""
    return b"%b%c%c%b%b" % (len(payload).to_bytes(3), kind, flags, stream_id.to_bytes(4), payload)


def data_header(length: int, stream_id: int) -> bytes:
    """The header of a DATA frame without flags (6.1)."""
    return (length << 16).to_bytes(5) + stream_id.to_bytes(4)


def check_header(kind: int, stream_id: int, length: int, max_frame_size: int) -> None:
    """Check what a frame's header alone tells: its length, and whether it may be on a stream (4.2 and section 6).

    Raises:
        Fault: The frame breaks a rule. A wrong length of PRIORITY is a fault of its stream only (6.3), so it is not
            checked here.
    """
    is_size = length <= max_frame_size and length == _FIXED_SIZES.get(kind, length)
    if not is_size or (kind == GOAWAY and length < _LEAST_GOAWAY_SIZE):
        raise Fault(ErrorCode.FRAME_SIZE_ERROR, "a frame's length")
    misplaced = _ON_CONNECTION if stream_id else _ON_STREAM
    if kind in misplaced or kind == PUSH_PROMISE:
        raise Fault(ErrorCode.PROTOCOL_ERROR, "a frame where it may not be")


def block_fragment(flags: int, payload: memoryview) -> memoryview:
    """The field block fragment of HEADERS, without padding and the deprecated priority fields (6.2).

    Raises:
        Fault: The payload is too short for what its flags say.
    """
    start = 0
    if flags & PADDED:
        start += 1
    if flags & HAS_PRIORITY:
        start += PRIORITY_SIZE
    if len(payload) < start:
        raise Fault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS lacks its pad length or priority")
    end = len(payload)
    if flags & PADDED:
        end -= payload[0]
    if end < start:
        raise Fault(ErrorCode.PROTOCOL_ERROR, "padding longer than HEADERS")
    return payload[start:end]
