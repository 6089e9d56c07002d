# SPDX-License-Identifier: Apache-2.0
"""Error codes, and the two ways in which a peer can break a rule (RFC 9113, sections 5.4 and 7)."""

from __future__ import annotations

import enum
import logging

from ovms_mp.front.grpc.http2.limits import Hit

peer_log = logging.getLogger(__package__)
"""What peers do wrong, a line each. They can do so often: who configures logging bounds how many lines pass."""


class ErrorCode(enum.IntEnum):
    """Codes of RST_STREAM and GOAWAY that we send (RFC 9113, section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class Fault(Exception):
    """The peer broke a rule and the connection must end (RFC 9113, 5.4.1).

    Attributes:
        code: What GOAWAY says.
        text: GOAWAY's debug data, for the peer's log.
        hit: What the fault is counted as.
    """

    def __init__(self, code: ErrorCode, text: str, hit: Hit = Hit.PROTOCOL) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.hit = hit


class StreamFault(Fault):
    """The peer broke a rule and only the stream must end, by RST_STREAM (RFC 9113, 5.4.2)."""
