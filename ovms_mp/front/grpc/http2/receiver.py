# SPDX-License-Identifier: Apache-2.0
"""Payloads that are passed on or skipped as they come: DATA, with its windows and padding, and frames without meaning.

RFC 9113, 4.1, 6.1 and 6.9.
"""

from __future__ import annotations

from typing import Protocol

from ovms_mp.front.grpc.http2 import frames
from ovms_mp.front.grpc.http2.faults import ErrorCode, Fault, StreamFault
from ovms_mp.front.grpc.http2.limits import Hit, Limits
from ovms_mp.front.grpc.http2.stream import Stream
from ovms_mp.front.grpc.http2.streams import Streams
from ovms_mp.front.grpc.http2.window import ReceiveWindow
from ovms_mp.front.sinks import wanted

_MOST_RUN_FRAMES = 16
"""Frames that are taken until somebody looks at the clock again."""


class DataTarget(Protocol):
    """What a connection does about the data of its streams."""

    def count(self, hit: Hit, text: str) -> None:
        """Count what costs us more than the peer; raises Fault if it is too much."""

    def grant_stream(self, stream: Stream) -> None:
        """Give window back, if it is time to."""

    def end_remotely(self, stream: Stream) -> None:
        """The peer has ended the stream."""


class Receiver:
    """The payload that is on its way, if there is one, and the connection's receive window.

    Attributes:
        window: What the peer may send on the whole connection.
        is_in_payload: Whether octets of a payload or of its padding are due.
        last_data_bytes: The payload's length of the last DATA frame, but for those of runs.
        run_frames: How many frames runs have taken.
    """

    def __init__(self, limits: Limits, streams: Streams, target: DataTarget) -> None:
        # A quarter used is worth a WINDOW_UPDATE: several streams may wait for this one window.
        capacity = limits.connection_window_bytes
        self.window = ReceiveWindow(capacity, capacity * 3 // 4, Fault)
        self.is_in_payload = False
        self.last_data_bytes = 0
        self.run_frames = 0
        self._max_frame_bytes = limits.max_frame_bytes
        self._streams = streams
        self._target = target
        self._stream: Stream | None = None
        """Whose data it is; None if it is only skipped."""
        self._left = 0
        self._padding = 0
        self._is_last = False

    def begin_skipping(self, length: int) -> None:
        """Skip a payload that has no meaning for us, or no stream (4.1 and 5.5)."""
        self._begin(None, length, 0)

    def begin_data(self, flags: int, stream_id: int, length: int, pad_length: int | None) -> None:
        """Take a DATA frame's header.

        Args:
            flags: The frame's.
            stream_id: The frame's.
            length: Of its payload, with padding and pad length.
            pad_length: The payload's first octet if the frame is padded and has one.

        Raises:
            Fault: The connection must end.
            StreamFault: The stream must end; the payload is skipped.
        """
        self.window.take(length)
        padding = 0
        nbytes = length
        if flags & frames.PADDED:
            if pad_length is None:
                raise Fault(ErrorCode.FRAME_SIZE_ERROR, "DATA lacks its pad length")
            padding = pad_length
            nbytes = length - 1 - padding
            if nbytes < 0:
                raise Fault(ErrorCode.PROTOCOL_ERROR, "padding longer than DATA")
        is_last = flags & frames.END_STREAM != 0
        if not nbytes and not is_last:
            self._target.count(Hit.EMPTY_DATA, "too many empty DATA frames")
        self.last_data_bytes = length
        self._is_last = is_last
        self._begin(None, nbytes, padding)
        stream = self._streams.open.get(stream_id)
        if stream is None:
            self._streams.check_ended(stream_id)
            return
        if not stream.is_remote_open:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "DATA after the end")
        stream.receive_window.take(length)
        if stream.expected >= 0:
            if stream.expected < nbytes:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "more data than content-length")
            stream.expected -= nbytes
        self._stream = stream

    def _begin(self, stream: Stream | None, nbytes: int, padding: int) -> None:
        self._stream = stream
        self._left = nbytes
        self._padding = padding
        self.is_in_payload = True

    def take_payload(self, view: memoryview, position: int, end: int) -> int:
        """Pass on what is there of a payload, skip what is there of its padding; the position behind both."""
        taken = min(self._left, end - position)
        self._left -= taken
        if taken and self._stream is not None:
            self._stream.data(view[position : position + taken])
        position += taken
        skipped = min(self._padding, end - position)
        self._padding -= skipped
        if not self._left and not self._padding:
            self._end()
        return position + skipped

    def _end(self) -> None:
        # Read again: what the stream was given may have ended it.
        stream = self._stream
        self._stream = None
        self.is_in_payload = False
        if stream is None:
            return
        if self._is_last:
            self._target.end_remotely(stream)
        else:
            self._target.grant_stream(stream)

    def take_run(self, view: memoryview, position: int, end: int) -> int:
        """Take a run of whole DATA frames for places of sinks; the position behind it. PERF: no hook is called.

        It ends before the first frame of which anything else must come than octets in a place and counts in windows:
        ``begin_data`` takes that one. So nothing here is a fault of the peer.
        """
        streams = self._streams.open
        parse = frames.parse_header
        # The connection's window is written back once.
        room = most = min(self.window.size, self._max_frame_bytes)
        for taken in range(_MOST_RUN_FRAMES):  # noqa: B007  # counted for what follows the loop
            body = position + frames.HEADER_SIZE
            if body > end:
                break
            word, flags, stream_id = parse(view, position)
            stream = streams.get(stream_id)
            length = word >> 8
            # Neither flags nor another type than DATA, which is 0.
            if stream is None or flags or word & 0xFF or not 0 < length <= room or body + length > end:
                break
            sink = stream.sink
            window = stream.receive_window
            left = window.size - length
            if (
                sink is None
                or left <= window.low_size
                or 0 <= stream.expected < length
                or not stream.is_remote_open
            ):
                break
            place = sink.place
            filled = sink.filled + length
            if place is None or filled >= len(place):
                break
            place[sink.filled : filled] = view[body : body + length]
            position = body + length
            room -= length
            window.size = left
            sink.filled = filled
            stream.missing -= length
            stream.expected -= length
        else:
            taken = _MOST_RUN_FRAMES
        self.run_frames += taken
        self.window.size -= most - room
        return position

    def wanted(self, least_bytes: int) -> memoryview | None:
        """Memory of a sink that the next octets belong into, if at least so many are due for it."""
        if self._left < least_bytes or self._stream is None:
            return None
        target = wanted(self._stream.sink)
        if target is None or len(target) < least_bytes:
            return None
        return target[: self._left]

    def advance(self, nbytes: int) -> None:
        """Know that the wanted memory has received octets."""
        self._left -= nbytes
        if self._stream is not None:
            self._stream.advance(nbytes)

    def leave(self, stream: Stream) -> None:
        """Skip the rest of what comes for a stream that has ended."""
        if self._stream is stream:
            self._stream = None
