# SPDX-License-Identifier: Apache-2.0
"""Streams, and what a connection has to write: control frames at once, DATA as windows allow (RFC 9113, 6.9).

The owner of the socket takes it. Views are referenced, not copied; once they are written their releases are called.
"""

from collections import deque
from collections.abc import Callable

from ovms_mp.front.grpc.http2 import frames
from ovms_mp.front.grpc.http2.frames import ErrorCode, Fault, StreamFault, require
from ovms_mp.front.sinks import MessageSink

Pieces = list[bytes | memoryview]
Hook = Callable[[], None]
_CRUMB_BYTES = 1 << 10  # A window that lets less through is one that the peer wants us to be busy with.


class Stream:
    """One request and its answer, and the hooks by which it is told."""

    # What a subclass defines. The views that it is given are valid during the call only.
    opened: Hook  # The request's headers are valid.
    data: Callable[[memoryview], None]  # Octets of the body, but for those that are put into a sink's place.
    ended: Hook  # The body is complete.
    was_reset: Hook  # The stream is gone, whoever ended it; nothing can be sent any more.
    advance: Callable[[int], None]  # So many octets were received into the sink's place.
    drained: Hook  # All that was sent has left the stream, or its window has changed.
    tick: Callable[[int], None]  # Time to look at deadlines.

    def __init__(self, stream_id: int, receive_window: int, send_window: int, expected: int) -> None:
        self.id = stream_id
        self.expected = expected  # Octets still missing to content-length; negative if none were named.
        self.receive_window = receive_window  # What the peer may send.
        self.send_window = send_window  # Negative after the peer shrank its windows (6.9.2).
        self.is_remote_open = self.is_local_open = True  # The peer may still send; we may.
        self.is_reading = True  # More window than the present one may be granted.
        self.sink: MessageSink | None = None  # Takes the message on its way,
        self.missing = -1  # and so many octets of it are due; -1 while its length is not known.
        self.outbox: deque[bytes | memoryview] = deque()  # What waits for window,
        self.outbox_bytes, self.trailers = 0, b""  # and the frames behind it.
        self.releases: list[Hook] = []  # To be called once the outbox has been written.
        self.stalled_since_ns = 0  # When the outbox was first seen without progress.


class Output:
    """The sending half of a connection. Streams without room wait here and take turns, a frame each."""

    def __init__(self, on_end: Callable[[Stream], None], hold: Callable[[int], None], max_bytes: int) -> None:
        self.nbytes = self.earning_frames = 0  # Frames that a peer may answer by window updates.
        self.waiting: dict[int, Stream] = {}
        self.initial_window = self._window = frames.DEFAULT_WINDOW
        self.frame_size = frames.DEFAULT_FRAME_SIZE
        self._on_end, self._hold, self._max_bytes = on_end, hold, max_bytes
        self._chunks, self._releases = Pieces(), list[Hook]()

    def write(self, octets: bytes) -> None:
        """Append whole frames that need no window."""
        self._chunks.append(octets)
        self.nbytes += len(octets)

    def take(self) -> tuple[Pieces, list[Hook]]:
        """Hand over everything that is ready, and what is to be called when it is written."""
        taken = (self._chunks, self._releases)
        self._chunks, self._releases, self.nbytes = [], [], 0
        return taken

    def headers(self, stream: Stream, block: bytes, *, is_end: bool) -> None:
        """Send a block that fits every peer's frames (4.2); one that ends the stream waits for the data before it."""
        flags = frames.END_HEADERS | (frames.END_STREAM if is_end else 0)
        octets = frames.frame(frames.HEADERS, flags, stream.id, block)
        if is_end and stream.outbox:
            stream.trailers = octets
        else:
            self.write(octets)
            if is_end:
                self._on_end(stream)

    def has_room(self, stream: Stream, nbytes: int) -> bool:
        """Whether so much data would be framed at once."""
        return nbytes <= min(self._window, stream.send_window) and self.nbytes < self._max_bytes

    def data(self, stream: Stream, pieces: Pieces, release: Hook) -> None:
        """Send data, not empty, now or as windows open. ``release`` is called when it is written or given up."""
        stream.outbox.extend(piece for piece in pieces if len(piece))
        stream.outbox_bytes += (nbytes := sum(map(len, pieces)))
        self._hold(nbytes)
        stream.releases.append(release)
        self.waiting[stream.id] = stream
        self.pump(stream)

    def pump(self, *only: Stream) -> None:
        """Send what waits, or what waits of some streams, as far as windows allow and the socket takes it."""
        has_progress = True
        while has_progress and self.waiting and self._window > 0 and self.nbytes < self._max_bytes:
            has_progress = True in [self._send_frame(stream) for stream in only or [*self.waiting.values()]]

    def _send_frame(self, stream: Stream) -> bool:
        size = left = min(self._window, stream.send_window, self.frame_size, stream.outbox_bytes)
        if size <= 0:
            return False
        self._chunks.append((size << 16).to_bytes(5) + stream.id.to_bytes(4))
        while left:
            piece = stream.outbox.popleft()
            if len(piece) > left:
                stream.outbox.appendleft(memoryview(piece)[left:])
                piece = memoryview(piece)[:left]
            self._chunks.append(piece)
            left -= len(piece)
        self.nbytes += size + frames.HEADER_SIZE
        self.earning_frames += size == stream.outbox_bytes or size >= _CRUMB_BYTES
        self._window -= size
        stream.send_window -= size
        stream.outbox_bytes -= size
        self._hold(-size)
        stream.stalled_since_ns = 0
        if not stream.outbox:
            trailers = stream.trailers
            self.drop(stream)
            if trailers:
                self.write(trailers)
                self._on_end(stream)
            else:
                stream.drained()
        return True

    def drop(self, stream: Stream) -> None:
        """Forget what a stream has not sent, or that it has sent all."""
        self.waiting.pop(stream.id, None)
        self._releases += stream.releases  # Earlier pieces of the same memory may still wait for the socket.
        stream.releases.clear()
        stream.outbox.clear()
        self._hold(-stream.outbox_bytes)
        stream.outbox_bytes, stream.trailers = 0, b""

    def widen(self, increment: int, stream: Stream | None) -> None:
        """Apply a WINDOW_UPDATE, or raise the fault that it is (6.9 and 6.9.1)."""
        window = increment + (self._window if stream is None else stream.send_window)
        fault, is_window = Fault if stream is None else StreamFault, window <= frames.LARGEST_WINDOW
        require(increment > 0, ErrorCode.PROTOCOL_ERROR, "a window update of 0", fault)
        require(is_window, ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1", fault)
        if stream is None:
            self._window = window
        else:
            stream.send_window = window
            stream.drained()
        self.pump(*filter(None, [stream]))

    def change_initial_window(self, size: int, streams: dict[int, Stream]) -> None:
        """Apply SETTINGS_INITIAL_WINDOW_SIZE, also to streams that exist (6.9.2). What it lets go is not sent yet."""
        change, self.initial_window, largest = size - self.initial_window, size, size
        for stream in streams.values() if change else ():
            stream.send_window += change
            stream.drained()
            largest = max(largest, stream.send_window)
        require(largest <= frames.LARGEST_WINDOW, ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
