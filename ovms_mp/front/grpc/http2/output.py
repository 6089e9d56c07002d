# SPDX-License-Identifier: Apache-2.0
"""What a connection has to write: control frames at once, DATA as windows allow (RFC 9113, 6.9).

The owner of the socket takes it. Views are referenced, not copied; once they are written their releases are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ovms_mp.front.grpc.http2 import frames
from ovms_mp.front.grpc.http2.faults import ErrorCode, Fault
from ovms_mp.front.grpc.http2.settings import PeerSettings
from ovms_mp.front.grpc.http2.stream import Hook, Stream
from ovms_mp.front.grpc.http2.window import Window

Pieces = list[bytes | memoryview]

_CRUMB_BYTES = 1 << 10
"""A window that lets less through is one that the peer wants us to be busy with."""


class Output:
    """The sending half of a connection. Streams without room wait here and take turns, a frame each.

    Attributes:
        nbytes: Octets of frames that wait for the owner of the socket.
        waiting: Streams with an outbox, by identifier.
        initial_window: What the peer grants new streams.
        frame_size: The longest payload of a DATA frame.
        earning_frames: DATA frames and answers so far that give a peer reason for frames of its own.
    """

    def __init__(
        self,
        on_end: Callable[[Stream], None],
        hold: Callable[[int], None],
        max_bytes: int,
        max_frame_bytes: int,
    ) -> None:
        """Start with nothing to write.

        Args:
            on_end: Told of a stream whose last frame is ready.
            hold: Told of octets that wait for window, and less than nothing when they go.
            max_bytes: With so many octets ready DATA waits in its stream.
            max_frame_bytes: No frame's payload is longer, whatever the peer takes.
        """
        self.nbytes = 0
        self.earning_frames = 0
        self.waiting: dict[int, Stream] = {}
        self.initial_window = frames.DEFAULT_WINDOW
        self.frame_size = frames.DEFAULT_FRAME_SIZE
        self._window = Window(frames.DEFAULT_WINDOW, Fault)
        self._on_end = on_end
        self._hold = hold
        self._max_bytes = max_bytes
        self._max_frame_bytes = max_frame_bytes
        self._chunks: Pieces = []
        self._releases: list[Hook] = []

    def write(self, octets: bytes) -> None:
        """Append whole frames that need no window."""
        self._chunks.append(octets)
        self.nbytes += len(octets)

    def take(self) -> tuple[Pieces, list[Hook]]:
        """Hand over everything that is ready, and what is to be called when it is written."""
        taken = (self._chunks, self._releases)
        self._chunks = []
        self._releases = []
        self.nbytes = 0
        return taken

    def headers(self, stream: Stream, block: bytes, *, is_end: bool) -> None:
        """Send a block that fits every peer's frames (4.2); one that ends the stream waits for the data before it."""
        flags = frames.END_HEADERS
        if is_end:
            flags |= frames.END_STREAM
        octets = frames.frame(frames.HEADERS, flags, stream.id, block)
        if is_end and stream.outbox:
            stream.trailers = octets
            return
        self.write(octets)
        if is_end:
            self._on_end(stream)

    def has_room(self, stream: Stream, nbytes: int) -> bool:
        """Whether so much data would be framed at once."""
        is_window = nbytes <= self._window.size and nbytes <= stream.send_window.size
        return is_window and self.nbytes < self._max_bytes

    def data(self, stream: Stream, pieces: Pieces, release: Hook) -> None:
        """Send data, not empty, now or as windows open. ``release`` is called when it is written or given up."""
        nbytes = 0
        for piece in pieces:
            if len(piece):
                stream.outbox.append(piece)
                nbytes += len(piece)
        stream.outbox_bytes += nbytes
        self._hold(nbytes)
        stream.releases.append(release)
        self.waiting[stream.id] = stream
        self._pump_stream(stream)

    @property
    def _may_send(self) -> bool:
        return bool(self.waiting) and self._window.size > 0 and self.nbytes < self._max_bytes

    def pump(self) -> None:
        """Send what waits as far as windows allow and the socket takes it, in rounds of one frame for each stream."""
        has_progress = True
        while has_progress and self._may_send:
            has_progress = False
            for stream in list(self.waiting.values()):
                if self._send_frame(stream):
                    has_progress = True

    def _pump_stream(self, stream: Stream) -> None:
        """Send what waits of one stream. The others wait for something that this changes nothing about."""
        while self._may_send and self._send_frame(stream):
            pass

    def _send_frame(self, stream: Stream) -> bool:
        """Frame the next octets of an outbox; False if there are none or no window for them."""
        size = min(self._window.size, stream.send_window.size, self.frame_size, stream.outbox_bytes)
        if size <= 0:
            return False
        self._chunks.append(frames.data_header(size, stream.id))
        left = size
        while left:
            piece = stream.outbox.popleft()
            if len(piece) > left:
                view = memoryview(piece)
                stream.outbox.appendleft(view[left:])
                piece = view[:left]
            self._chunks.append(piece)
            left -= len(piece)
        self.nbytes += size + frames.HEADER_SIZE
        if size == stream.outbox_bytes or size >= _CRUMB_BYTES:
            self.earning_frames += 1
        self._window.size -= size
        stream.send_window.size -= size
        stream.outbox_bytes -= size
        self._hold(-size)
        stream.stalled_since_ns = 0
        if not stream.outbox:
            self._end_outbox(stream)
        return True

    def _end_outbox(self, stream: Stream) -> None:
        """Go on behind data that has left its stream: with the end, or with what the stream has next."""
        trailers = stream.trailers
        self.drop(stream)
        if trailers:
            self.write(trailers)
            self._on_end(stream)
        else:
            stream.drained()

    def drop(self, stream: Stream) -> None:
        """Forget what a stream has not sent, or that it has sent all."""
        self.waiting.pop(stream.id, None)
        self._releases += stream.releases  # Earlier pieces of the same memory may still wait for the socket.
        stream.releases.clear()
        stream.outbox.clear()
        self._hold(-stream.outbox_bytes)
        stream.outbox_bytes = 0
        stream.trailers = b""

    def widen(self, increment: int) -> None:
        """Apply a WINDOW_UPDATE of the connection, or raise the Fault that it is."""
        self._window.widen(increment)
        self.pump()

    def widen_stream(self, stream: Stream, increment: int) -> None:
        """Apply a WINDOW_UPDATE of a stream, or raise the StreamFault that it is."""
        stream.send_window.widen(increment)
        stream.drained()
        self._pump_stream(stream)

    def apply(self, settings: PeerSettings, streams: Iterable[Stream]) -> None:
        """Apply the peer's settings. What a larger window lets go is not sent yet: call ``pump``.

        Args:
            settings: What the peer takes.
            streams: Those that are open. Their windows change as the initial one does (6.9.2).

        Raises:
            Fault: A stream's window becomes larger than any may be.
        """
        # C-core offers 8 MiB and more, which would be all that may wait for the socket in one piece.
        self.frame_size = min(settings.max_frame_size, self._max_frame_bytes)
        change = settings.initial_window_size - self.initial_window
        if not change:
            return
        self.initial_window = settings.initial_window_size
        largest = 0
        for stream in streams:
            stream.send_window.size += change
            stream.drained()
            largest = max(largest, stream.send_window.size)
        if largest > frames.LARGEST_WINDOW:
            raise Fault(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
