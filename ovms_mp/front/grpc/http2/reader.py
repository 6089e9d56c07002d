# SPDX-License-Identifier: Apache-2.0
"""From octets to frames: the preface, frames and field blocks that are cut anywhere, and the end of a turn.

RFC 9113, 3.4, 4.1 to 4.3 and 6.10. DATA and frames without meaning are passed on or skipped as they come
(``receiver``); others wait here until they are whole, which a peer can make us keep no more than one field block for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ovms_mp.front.grpc.http2 import frames
from ovms_mp.front.grpc.http2.faults import ErrorCode, Fault, StreamFault
from ovms_mp.front.grpc.http2.field_blocks import BlockAssembler
from ovms_mp.front.grpc.http2.limits import Hit, Limits
from ovms_mp.front.grpc.http2.receiver import Receiver

_TLS_HANDSHAKE = b"\x16\x03"
"""How a client begins that takes us for a TLS server (RFC 8446, 5.1)."""
_ANY = -1


def never() -> bool:
    """The clock of a turn that does not end."""
    return False


class FrameTarget(Protocol):
    """What a connection does about frames. All but ``is_closed`` may raise Fault or StreamFault."""

    is_closed: bool

    def take_frame(self, kind: int, flags: int, stream_id: int, payload: memoryview) -> None:
        """A whole SETTINGS, PING, WINDOW_UPDATE or RST_STREAM; the payload is valid during the call only."""

    def take_block(self, flags: int, stream_id: int, block: bytes) -> None:
        """A whole field block, with the flags of its HEADERS."""

    def take_ignored(self, kind: int, length: int) -> None:
        """The header of a frame that has no meaning for us."""

    def end_faulty(self, stream_id: int, code: ErrorCode) -> None:
        """A frame for this stream raised a StreamFault."""


class Reader:
    """Cuts what a peer sends into frames. Octets that it keeps are copied; all others are free after ``read``.

    Attributes:
        is_stranger: Whether the preface has not come, or something else in its place.
        is_behind: Whether whole frames were left because the turn was over: ``read`` again with nothing.
        frames_received: How many frames were begun, without those of the receiver's runs.
    """

    def __init__(self, limits: Limits, receiver: Receiver, target: FrameTarget) -> None:
        self.is_stranger = True
        self.is_behind = False
        self.frames_received = 0
        self._limits = limits
        self._receiver = receiver
        self._target = target
        self._block = BlockAssembler(limits)
        self._only = frames.SETTINGS
        """The one type that may come next: SETTINGS behind the preface, CONTINUATION in a field block; or any."""
        self._tail: bytes | memoryview = b""
        """The start of a frame that is not whole, or frames that were left for the next turn."""

    @property
    def is_mid_frame(self) -> bool:
        """Whether the rest of a frame or of a field block is due, or the first SETTINGS."""
        return len(self._tail) > 0 or self._receiver.is_in_payload or self._only != _ANY

    def read(self, data: bytes | memoryview, is_over: Callable[[], bool]) -> None:
        """Take frames.

        Args:
            data: What was received; valid during the call only.
            is_over: Asked between frames; True if others have their turn now.

        Raises:
            Fault: The connection must end.
        """
        tail = self._tail
        self._tail = b""
        self.is_behind = False
        is_kept = len(tail) > 0
        octets = tail or data
        if is_kept and data:
            octets = b"".join((tail, data))
        if self._target.is_closed:
            return
        view = memoryview(octets)
        rest = view[self._take_frames(view, is_over) :]
        if is_kept and self.is_behind:
            self._tail = rest  # Ours already: not copied again for each turn.
        else:
            self._tail = bytes(rest)

    def _take_frames(self, view: memoryview, is_over: Callable[[], bool]) -> int:
        """Take all that is whole, and payloads as far as they are there; the position behind it."""
        target = self._target
        receiver = self._receiver
        end = len(view)
        position = 0
        if self.is_stranger:
            position = self._take_preface(view)
        while not target.is_closed and not self.is_stranger:
            if receiver.is_in_payload:
                position = receiver.take_payload(view, position, end)
                if position == end:
                    break
                continue
            if end - position < frames.HEADER_SIZE:
                break
            if position and is_over():  # Something is taken whatever the clock says.
                self.is_behind = True
                break
            after = position
            if self._only == _ANY:
                after = receiver.take_run(view, position, end)
            if after == position:
                after = self._take_frame(view, position, end)
            if after == position:
                break
            position = after
        return position

    def _take_frame(self, view: memoryview, position: int, end: int) -> int:
        """Take one frame, or the header of one whose payload may come in pieces; the same position if it is cut off."""
        word, flags, stream_id = frames.parse_header(view, position)
        length = word >> 8
        kind = word & 0xFF
        stream_id &= frames.LARGEST_STREAM_ID  # The reserved bit is ignored (4.1).
        self._check_next(kind, stream_id, length)
        body = position + frames.HEADER_SIZE
        is_padded = kind == frames.DATA and flags & frames.PADDED != 0 and length > 0
        if kind in frames.WHOLE:
            after = body + length
        elif is_padded:
            after = body + 1
        else:
            after = body
        if after > end:
            return position
        self.frames_received += 1
        try:
            if kind == frames.DATA:
                self._receiver.begin_data(flags, stream_id, length, view[body] if is_padded else None)
            elif kind in frames.WHOLE:
                self._take_whole(kind, flags, stream_id, view[body:after])
            else:
                self._receiver.begin_skipping(length)
                self._target.take_ignored(kind, length)
        except StreamFault as fault:
            self._target.end_faulty(stream_id, fault.code)
        return after

    def _take_whole(self, kind: int, flags: int, stream_id: int, payload: memoryview) -> None:
        if kind == frames.HEADERS:
            self._block.begin(flags, stream_id, frames.block_fragment(flags, payload))
        elif kind == frames.CONTINUATION:
            self._block.go_on(stream_id, payload)
        else:
            self._target.take_frame(kind, flags, stream_id, payload)
            self._only = _ANY
            return
        self._only = frames.CONTINUATION
        if flags & frames.END_HEADERS:
            self._only = _ANY
            block = self._block.end()
            self._target.take_block(self._block.flags, stream_id, block)

    def _take_preface(self, view: memoryview) -> int:
        """Look for the preface (3.4); the position behind it, or 0 while it is not whole."""
        start = bytes(view[: len(frames.PREFACE)])
        if not frames.PREFACE.startswith(start):
            hit = Hit.TLS_HELLO if start.startswith(_TLS_HANDSHAKE) else Hit.NOT_HTTP2
            raise Fault(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 connection preface", hit)
        self.is_stranger = start != frames.PREFACE
        return 0 if self.is_stranger else len(start)

    def _check_next(self, kind: int, stream_id: int, length: int) -> None:
        """Check a frame by its header, before anything of it is kept; raises Fault."""
        frames.check_header(kind, stream_id, length, self._limits.max_frame_bytes)
        is_next = kind == self._only
        if self._only == _ANY:
            is_next = kind != frames.CONTINUATION
        if not is_next:
            raise Fault(ErrorCode.PROTOCOL_ERROR, "a frame where it may not be")
        if kind in frames.WHOLE and length + self._block.nbytes > self._limits.max_header_block_bytes:
            raise Fault(ErrorCode.ENHANCE_YOUR_CALM, "the header block is too long", Hit.HEADER_BLOCK)
