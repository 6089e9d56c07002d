# SPDX-License-Identifier: Apache-2.0
"""SETTINGS: what we announce and what the peer does (RFC 9113, 6.5)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ovms_mp.front.grpc.http2 import frames
from ovms_mp.front.grpc.http2.faults import ErrorCode, Fault
from ovms_mp.front.grpc.http2.limits import Hit, Limits

# Identifiers (6.5.2).
ENABLE_PUSH = 0x2
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4
MAX_FRAME_SIZE = 0x5
MAX_HEADER_LIST_SIZE = 0x6

_setting = struct.Struct(">HI")


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """What of the peer's SETTINGS concerns a server that pushes nothing and uses no dynamic table."""

    initial_window_size: int = frames.DEFAULT_WINDOW
    max_frame_size: int = frames.DEFAULT_FRAME_SIZE


def our_settings(limits: Limits) -> bytes:
    """The payload of the SETTINGS that we send."""
    announced = {
        MAX_CONCURRENT_STREAMS: limits.max_streams,
        INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
        MAX_FRAME_SIZE: limits.max_frame_bytes,
        MAX_HEADER_LIST_SIZE: limits.max_header_list_bytes,
    }
    return b"".join(_setting.pack(identifier, value) for identifier, value in announced.items())


def check_size(nbytes: int, max_settings: int, *, is_ack: bool) -> None:
    """Check the length of a SETTINGS payload.

    Raises:
        Fault: It is no whole number of settings, an acknowledgement that is not empty, or has too many settings.
    """
    if nbytes % _setting.size or (is_ack and nbytes):
        raise Fault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of another length")
    if nbytes > _setting.size * max_settings:
        raise Fault(ErrorCode.ENHANCE_YOUR_CALM, "too many settings", Hit.SETTINGS)


def parse(payload: memoryview, before: PeerSettings) -> PeerSettings:
    """The peer's settings after a SETTINGS frame, of which each entry is applied in its order (6.5.3).

    Args:
        payload: Of a length that was checked.
        before: What the peer has said so far.

    Raises:
        Fault: A value that its setting may not have (6.5.2).
    """
    initial_window_size = before.initial_window_size
    max_frame_size = before.max_frame_size
    for identifier, value in _setting.iter_unpack(payload):
        if identifier == INITIAL_WINDOW_SIZE:
            initial_window_size = value
        elif identifier == MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME_SIZE <= value <= frames.LARGEST_FRAME_SIZE:
                raise Fault(ErrorCode.PROTOCOL_ERROR, "a frame size that cannot be")
            max_frame_size = value
        elif identifier == ENABLE_PUSH and value > 1:
            raise Fault(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        # Others limit what we never do, or are unknown and ignored.
    if initial_window_size > frames.LARGEST_WINDOW:
        raise Fault(ErrorCode.FLOW_CONTROL_ERROR, "an initial window beyond 2^31-1")
    return PeerSettings(initial_window_size, max_frame_size)
