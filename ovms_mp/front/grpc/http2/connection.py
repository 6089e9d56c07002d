# SPDX-License-Identifier: Apache-2.0
"""The server's side of an HTTP/2 connection as a state machine without I/O (RFC 9113). Time is injected.

Octets come in by ``receive``, or past it into the memory that ``wanted`` names. Streams' hooks are told what they
mean at once; what is to be written collects in ``output``. A peer's fault ends a stream or all, and never raises.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence

from ovms_mp.front.call_context import new_flow
from ovms_mp.front.grpc.http2 import frames
from ovms_mp.front.grpc.http2.frames import ErrorCode, Fault, StreamFault, require
from ovms_mp.front.grpc.http2.headers import BlockDecoder, RequestHead, check_fields
from ovms_mp.front.grpc.http2.limits import SECOND_NS, Guard, Hit
from ovms_mp.front.grpc.http2.output import Output, Stream
from ovms_mp.front.sinks import wanted

_REMEMBERED_STREAMS, _PRIORITY_LENGTH, _SETTING_LENGTH, _DRAIN_PING = 1024, 5, 6, b"drain..."
_ON_CONNECTION = (frames.SETTINGS, frames.PING, frames.GOAWAY)
_ON_STREAM = (frames.DATA, frames.HEADERS, frames.PRIORITY, frames.RST_STREAM, frames.CONTINUATION)
_ANY_LENGTH = range(frames.LARGEST_FRAME_SIZE + 1)
_LENGTHS: dict[int, Sequence[int]] = {frames.RST_STREAM: (4,), frames.WINDOW_UPDATE: (4,), frames.PING: (8,)}
_LENGTHS[frames.GOAWAY] = _ANY_LENGTH[8:]
NewStream = Callable[["Http2Connection", int, RequestHead], Stream]


class Http2Connection:
    """One connection. ``is_closed`` means that nothing is left but to write the output and close."""

    def __init__(self, new_stream: NewStream, guard: Guard, now_ns: int) -> None:
        """Prepare; the first output is our SETTINGS. ``new_stream`` makes the stream of a valid request."""
        self.guard, self.limits, self.now_ns, self._new_stream = guard, guard.limits, now_ns, new_stream
        self.output = Output(self._end_locally, self.hold, self.limits.max_output_bytes)
        self.streams: dict[int, Stream] = {}
        self.last_id = self.frames_received = self.drain_phase = self.held_bytes = self.last_data_bytes = 0
        self.is_closed = self.is_behind = self.is_settled = False  # Settled: preface and settings are there.
        self.number, self._headers = new_flow(), BlockDecoder(self.limits.max_header_block_bytes)
        self._was_ours = OrderedDict[int, bool]()  # Ended streams: whether we ended them before the peer did.
        self.fault, self.is_stranger = "", True
        self._tail: bytes | memoryview = b""  # Of a frame that is not complete, or left for later.
        self._only, self._block = frames.SETTINGS, bytearray()  # The one type that may come next; -1: any.
        self._block_stream = self._block_flags = self._continuations = 0
        self._is_in_payload, self._is_last_data, self._left, self._padding = False, False, 0, 0
        self._data_stream: Stream | None = None
        self._receive_window = self.limits.connection_window_bytes
        self._counts, self._counting_until_ns, self.suspect_until_ns = Counter[Hit](), 0, 0
        self.output.write(frames.frame(frames.SETTINGS, 0, 0, self.limits.settings()))
        self._write_word(frames.WINDOW_UPDATE, 0, self._receive_window - frames.DEFAULT_WINDOW)

    @property
    def is_mid_frame(self) -> bool:
        """Whether the rest of a frame or of a header block is due."""
        return len(self._tail) > 0 or self._is_in_payload or self._only >= 0

    def receive(self, data: bytes | memoryview, now_ns: int, is_over: Callable[[], bool] = bool) -> None:
        """Take what the peer sent, which is free then. ``is_over`` leaves frames for ``receive(b"", ...)``: behind."""
        self.now_ns = now_ns
        tail, self._tail, self.is_behind = self._tail, b"", False
        tail = b"".join((tail, data)) if tail and data else tail
        try:
            rest = self._consume(memoryview(tail or data), is_over) if not self.is_closed else b""
            self._tail = rest if tail and self.is_behind else bytes(rest)  # Not copied again for each turn.
            self.regrant()
        except Fault as fault:
            self.guard.counters[fault.hit] += 1
            self.close(fault.code, fault.text)

    def wanted(self, least_bytes: int) -> memoryview | None:
        """Memory of a sink that the next octets belong into, if at least so many are due for it."""
        if self._left < least_bytes or self._data_stream is None:
            return None
        target = wanted(self._data_stream.sink)
        return None if target is None or len(target) < least_bytes else target[: self._left]

    def advance(self, nbytes: int, now_ns: int) -> None:
        """Know that the wanted memory has received octets."""
        self._left -= nbytes
        if self._data_stream is not None:
            self._data_stream.advance(nbytes)
        self.receive(b"", now_ns)

    def _consume(self, view: memoryview, is_over: Callable[[], bool]) -> bytes | memoryview:
        """Take frames; what remains. DATA and frames without meaning need not be complete."""
        position, end = self._take_preface(view) if self.is_stranger else 0, len(view)
        while not self.is_closed and not self.is_stranger:
            if self._is_in_payload:
                position = self._take_payload(view, position, end)
            body = position + frames.HEADER_SIZE
            if self._is_in_payload or self.is_closed or end < body:
                break
            if position and is_over():  # Something is taken whatever the clock says.
                self.is_behind = True
                break
            if self._only < 0 and (after := self._take_plain(view, position, end)) > position:
                position = after
                continue
            length, flags, stream_id = frames.parse_header(view, position)
            kind, length, stream_id = length & 0xFF, length >> 8, stream_id & frames.LARGEST_STREAM_ID
            self._check_frame(kind, stream_id, length)
            handler = _HANDLERS.get(kind)
            is_padded = kind == frames.DATA and bool(flags & frames.PADDED and length)
            if end - body < (is_padded if handler is None else length):
                break
            self.frames_received += 1
            position = body + (is_padded if handler is None else length)
            try:
                if handler is not None:
                    handler(self, flags, stream_id, view[body:position])
                elif kind == frames.DATA:
                    self._begin_data(flags, stream_id, length, view[body] if is_padded else -1)
                else:
                    self._begin_ignored(kind, length)
            except StreamFault as fault:
                self._end_faulty(stream_id, fault.code)
        return view[position:]

    def _take_plain(self, view: memoryview, position: int, end: int) -> int:
        """Take a run of whole DATA frames for places of sinks; the position after it. PERF: no hook is called."""
        streams, parse, half = self.streams, frames.parse_header, self.limits.stream_window_bytes >> 1
        room = most = min(self._receive_window, self.limits.max_frame_bytes)
        for _ in range(16):  # Or as long as there is room, then the caller looks at the clock.
            if (body := position + frames.HEADER_SIZE) > end:
                break
            word, flags, stream_id = parse(view, position)
            stream, length = streams.get(stream_id), word >> 8
            if stream is None or flags or word & 0xFF or not 0 < length <= room or body + length > end:
                break
            sink, window = stream.sink, stream.receive_window - length
            if sink is None or window <= half or 0 <= stream.expected < length or not stream.is_remote_open:
                break
            place, filled = sink.place, sink.filled + length
            if place is None or filled >= len(place):
                break
            position, room = body + length, room - length
            place[sink.filled : filled] = view[body:position]
            stream.receive_window, sink.filled = window, filled
            stream.missing, stream.expected = stream.missing - length, stream.expected - length
            self.frames_received += 1
        self._receive_window += room - most
        return position

    def _take_preface(self, view: memoryview) -> int:
        start = bytes(view[: len(frames.PREFACE)])
        if not frames.PREFACE.startswith(start):
            hit = Hit.TLS_HELLO if start.startswith(frames.TLS_HANDSHAKE) else Hit.NOT_HTTP2
            raise Fault(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 connection preface", hit)
        self.is_stranger = start != frames.PREFACE
        return 0 if self.is_stranger else len(start)

    def _check_frame(self, kind: int, stream_id: int, length: int) -> None:
        is_sound = length <= self.limits.max_frame_bytes and length in _LENGTHS.get(kind, _ANY_LENGTH)
        require(is_sound, ErrorCode.FRAME_SIZE_ERROR, "a frame's length")
        is_placed = kind not in (_ON_CONNECTION if stream_id else _ON_STREAM) and kind != frames.PUSH_PROMISE
        is_next = kind == self._only or (self._only < 0 and kind != frames.CONTINUATION)
        require(is_placed and is_next, ErrorCode.PROTOCOL_ERROR, "a frame where it may not be")
        if kind in _HANDLERS and length + len(self._block) > self.limits.max_header_block_bytes:
            raise Fault(ErrorCode.ENHANCE_YOUR_CALM, "the header block is too long", Hit.HEADER_BLOCK)

    def count(self, hit: Hit, text: str) -> None:
        """Count what costs us more than the peer, in windows of time. Who reaches a tenth of a limit is suspect."""
        if self.now_ns >= self._counting_until_ns:
            window_ns = int(self.limits.rate_window_s * SECOND_NS)
            self._counting_until_ns, self._counts = self.now_ns + window_ns, Counter[Hit]()
        self._counts[hit] += 1
        if self._counts[hit] * 10 > self.limits.rates[hit]:
            self.suspect_until_ns = self._counting_until_ns
        if self._counts[hit] > self.limits.rates[hit]:
            raise Fault(ErrorCode.ENHANCE_YOUR_CALM, text, hit)

    def _begin_ignored(self, kind: int, length: int) -> None:
        self.count(Hit.IGNORED, "too many frames without a meaning")
        self._data_stream, self._left, self._padding, self._is_in_payload = None, length, 0, True
        is_whole = kind != frames.PRIORITY or length == _PRIORITY_LENGTH
        require(is_whole, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of another length", StreamFault)

    def _begin_data(self, flags: int, stream_id: int, length: int, padding: int) -> None:
        """Take a DATA frame's header, and its pad length if that is not negative."""
        self._receive_window -= length
        require(self._receive_window >= 0, ErrorCode.FLOW_CONTROL_ERROR, "more data than window")
        is_padded = bool(flags & frames.PADDED)
        payload = length - 1 - padding if is_padded else length
        require(not is_padded or padding >= 0, ErrorCode.FRAME_SIZE_ERROR, "DATA lacks its pad length")
        require(payload >= 0, ErrorCode.PROTOCOL_ERROR, "padding longer than DATA")
        self._is_last_data, self.last_data_bytes = bool(flags & frames.END_STREAM), length
        if not payload and not self._is_last_data:
            self.count(Hit.EMPTY_DATA, "too many empty DATA frames")
        self._data_stream, self._left, self._padding = None, payload, max(0, padding)
        self._is_in_payload = True
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_ended(stream_id)
            return
        stream.receive_window -= length
        require(stream.is_remote_open, ErrorCode.STREAM_CLOSED, "DATA after the end", StreamFault)
        require(stream.receive_window >= 0, ErrorCode.FLOW_CONTROL_ERROR, "more than the window", StreamFault)
        is_promised = stream.expected < 0 or stream.expected >= payload
        require(is_promised, ErrorCode.PROTOCOL_ERROR, "more data than content-length", StreamFault)
        stream.expected -= payload if stream.expected >= 0 else 0
        self._data_stream = stream

    def _take_payload(self, view: memoryview, position: int, end: int) -> int:
        """Pass on what is there of a frame's payload, skip what is there of its padding; the position after it."""
        taken = min(self._left, end - position)
        self._left -= taken
        if taken and self._data_stream is not None:
            self._data_stream.data(view[position : position + taken])
        position += taken
        skipped = min(self._padding, end - position)
        self._padding -= skipped
        if not self._left and not self._padding:
            # Read again: what the stream was given may have ended it.
            stream, self._data_stream, self._is_in_payload = self._data_stream, None, False
            if stream is not None and self._is_last_data:
                self._end_remotely(stream)
            elif stream is not None:
                self.grant_stream(stream)
        return position + skipped

    def _on_headers(self, flags: int, stream_id: int, payload: memoryview) -> None:
        self._block_stream, self._block_flags, self._continuations = stream_id, flags, -1
        self._on_continuation(flags, stream_id, frames.unpadded(flags, payload))

    def _on_continuation(self, flags: int, stream_id: int, payload: memoryview) -> None:
        require(stream_id == self._block_stream, ErrorCode.PROTOCOL_ERROR, "CONTINUATION of another stream")
        self._continuations += 1
        if self._continuations > self.limits.max_continuations:
            raise Fault(ErrorCode.ENHANCE_YOUR_CALM, "too many CONTINUATION frames", Hit.CONTINUATIONS)
        self._block += payload
        self._only = frames.CONTINUATION
        if flags & frames.END_HEADERS:
            block, self._block, self._only = bytes(self._block), bytearray(), -1
            self._on_block(stream_id, self._headers.decode(block))

    def _on_block(self, stream_id: int, head: RequestHead) -> None:
        stream, is_end = self.streams.get(stream_id), bool(self._block_flags & frames.END_STREAM)
        if stream is not None:
            require(stream.is_remote_open, ErrorCode.STREAM_CLOSED, "HEADERS after the end", StreamFault)
            is_trailers = is_end and not head.method
            require(is_trailers, ErrorCode.PROTOCOL_ERROR, "a second header section", StreamFault)
            check_fields(head.fields)
            self._end_remotely(stream)
        elif stream_id <= self.last_id or not stream_id & 1:
            self._check_ended(stream_id)
        elif self.drain_phase < 2:  # Else the client knows from GOAWAY that it was not processed (6.8).
            self.last_id = stream_id
            if len(self.streams) >= self.limits.max_streams:
                self.guard.counters[Hit.STREAMS] += 1
                raise StreamFault(ErrorCode.REFUSED_STREAM, "too many streams")
            head.validate()
            is_promised = not is_end or head.content_length <= 0
            require(is_promised, ErrorCode.PROTOCOL_ERROR, "less than content-length", StreamFault)
            stream = self.streams[stream_id] = self._new_stream(self, stream_id, head)
            stream.is_remote_open = not is_end
            stream.opened()
            if is_end and stream.is_local_open:
                stream.ended()

    def _end_remotely(self, stream: Stream) -> None:
        if stream.expected > 0:
            self._end_faulty(stream.id, ErrorCode.PROTOCOL_ERROR)
        else:
            stream.is_remote_open = False
            stream.ended()

    def _end_locally(self, stream: Stream) -> None:
        """Forget a stream whose answer is complete; a client that still sends is told to stop (8.1)."""
        if stream.is_remote_open:
            # NOTE: for any other code C-core's clients throw away the status that we sent.
            self._write_word(frames.RST_STREAM, stream.id, ErrorCode.NO_ERROR)
        self._forget(stream.id, is_ours=stream.is_remote_open, is_told=True)

    def _forget(self, stream_id: int, *, is_ours: bool, is_told: bool = False) -> None:
        """End a stream in the books, if it is there."""
        self._was_ours[stream_id] = is_ours
        if len(self._was_ours) > _REMEMBERED_STREAMS:
            self._was_ours.popitem(last=False)
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            stream.is_local_open = False
            self._data_stream = None if self._data_stream is stream else self._data_stream
            self.output.drop(stream)
            self.is_closed = self.is_closed or (self.drain_phase == 2 and not self.streams)
            if not is_told:
                stream.was_reset()

    def _check_ended(self, stream_id: int, *, is_late_fine: bool = False) -> None:
        """Judge a frame for a stream that is not there: it may be late for one that we have ended (5.1)."""
        if stream_id & 1 and stream_id > self.last_id and self.drain_phase == 2:
            return
        was_ours = self._was_ours.get(stream_id)
        if stream_id > self.last_id or not stream_id & 1 or (was_ours is None and not is_late_fine):
            raise Fault(ErrorCode.PROTOCOL_ERROR, f"a frame for stream {stream_id}, which was not opened")
        if not was_ours and not is_late_fine:
            raise Fault(ErrorCode.STREAM_CLOSED, f"a frame for stream {stream_id}, which the peer had ended")

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """End a stream that cannot be answered."""
        self._write_word(frames.RST_STREAM, stream_id, code)
        self._forget(stream_id, is_ours=True)

    def _end_faulty(self, stream_id: int, code: ErrorCode) -> None:
        """End a stream for what the peer did; too many of these end the connection (CVE-2025-8671)."""
        self.reset(stream_id, code)
        self.guard.counters[Hit.PROTOCOL] += code != ErrorCode.REFUSED_STREAM
        self.count(Hit.RESETS, "too many streams were reset")

    def _on_rst_stream(self, _flags: int, stream_id: int, _payload: memoryview) -> None:
        self.count(Hit.RESETS, "too many streams were reset")
        if stream_id in self.streams:
            self._forget(stream_id, is_ours=False)
        else:
            self._check_ended(stream_id, is_late_fine=True)

    def _on_settings(self, flags: int, _stream_id: int, payload: memoryview) -> None:
        self.count(Hit.SETTINGS, "too many SETTINGS frames")
        is_whole = not len(payload) % _SETTING_LENGTH and not (flags & frames.ACK and payload)
        require(is_whole, ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of another length")
        if len(payload) > _SETTING_LENGTH * self.limits.max_settings:
            raise Fault(ErrorCode.ENHANCE_YOUR_CALM, "too many settings", Hit.SETTINGS)
        if flags & frames.ACK:
            require(self.is_settled, ErrorCode.PROTOCOL_ERROR, "no SETTINGS after the preface")
            return
        window = self.output.initial_window
        for start in range(0, len(payload), _SETTING_LENGTH):
            setting = int.from_bytes(payload[start : start + _SETTING_LENGTH])
            key, value = setting >> 32, setting & 0xFFFFFFFF  # Keys that are missing limit what we never do.
            if key == frames.INITIAL_WINDOW_SIZE:
                window = value  # The last one counts, and is applied once: it costs a look at every stream.
            elif key == frames.ENABLE_PUSH:
                require(value <= 1, ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
            elif key == frames.MAX_FRAME_SIZE:
                is_size = frames.DEFAULT_FRAME_SIZE <= value <= frames.LARGEST_FRAME_SIZE
                require(is_size, ErrorCode.PROTOCOL_ERROR, "a frame size that cannot be")
                # C-core offers 8 MiB and more, which would be all that may wait for the socket in one piece.
                self.output.frame_size = min(value, self.limits.max_frame_bytes)
        self.output.change_initial_window(window, self.streams)
        self._only, self.is_settled = -1, True
        self.output.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self.output.pump()  # Behind the acknowledgement: before it, C-core holds us to its old windows.

    def _on_ping(self, flags: int, _stream_id: int, payload: memoryview) -> None:
        if not flags & frames.ACK:
            self.count(Hit.PINGS, "too_many_pings")  # By this text gRPC clients know to ping less often.
            self.output.write(frames.frame(frames.PING, frames.ACK, 0, bytes(payload)))
        elif payload == _DRAIN_PING and self.drain_phase == 1:
            self.drain()

    def _on_window_update(self, _flags: int, stream_id: int, payload: memoryview) -> None:
        earned, self.output.earning_frames = 4 * self.output.earning_frames, 0
        self._counts[Hit.WINDOW_UPDATES] = max(0, self._counts[Hit.WINDOW_UPDATES] - earned)
        self.count(Hit.WINDOW_UPDATES, "too many window updates")
        stream = self.streams.get(stream_id)
        if stream_id and stream is None:
            self._check_ended(stream_id, is_late_fine=True)
        else:
            self.output.widen(int.from_bytes(payload) & frames.LARGEST_WINDOW, stream)

    def hold(self, nbytes: int) -> None:
        """Count memory of messages that are not complete, not read or not sent."""
        self.held_bytes += nbytes
        self.guard.held_bytes += nbytes

    def may_grant(self) -> bool:
        """Whether there is memory for what more window brings: peers are held back by their own flow control (5.2)."""
        is_read = sum(s.outbox_bytes for s in self.output.waiting.values()) < self.limits.max_output_bytes
        return is_read and self.held_bytes < self.limits.connection_buffer_bytes and self.guard.is_open

    def grant_stream(self, stream: Stream) -> None:
        """Give back a stream's window that is half used, if it reads on and not too much is held."""
        used = self.limits.stream_window_bytes - stream.receive_window
        is_due = used * 2 >= self.limits.stream_window_bytes and stream.is_remote_open
        if is_due and stream.is_reading and self.may_grant():
            self._write_word(frames.WINDOW_UPDATE, stream.id, used)
            stream.receive_window += used

    def regrant(self) -> None:
        """Give back the connection's window when a quarter is used, unless too much is held."""
        used = self.limits.connection_window_bytes - self._receive_window
        if used * 4 >= self.limits.connection_window_bytes and self.may_grant():
            self._write_word(frames.WINDOW_UPDATE, 0, used)
            self._receive_window += used

    def _write_word(self, kind: int, stream_id: int, word: int) -> None:
        self.output.write(frames.frame(kind, 0, stream_id, word.to_bytes(4)))

    def _write_goaway(self, last_id: int, code: ErrorCode, text: str) -> None:
        payload = last_id.to_bytes(4) + code.to_bytes(4) + text.encode()  # The text is for the peer's log.
        self.output.write(frames.frame(frames.GOAWAY, 0, 0, payload))

    def drain(self) -> None:
        """Ask the client to leave; again, when it has answered the PING or had its time: name the last stream (6.8)."""
        if self.drain_phase < 2 and not self.is_closed:
            self.drain_phase += 1
            is_first = self.drain_phase == 1
            self._write_goaway(frames.LARGEST_STREAM_ID if is_first else self.last_id, ErrorCode.NO_ERROR, "")
            if is_first:
                self.output.write(frames.frame(frames.PING, 0, 0, _DRAIN_PING))
            self.is_closed = not is_first and not self.streams

    def close(self, code: ErrorCode, text: str) -> None:
        """End the connection and all its streams; the peer is told why."""
        if not self.is_closed:
            self.is_closed, self.fault = True, text
            self._write_goaway(self.last_id, code, text)
        for stream_id in list(self.streams):
            self._forget(stream_id, is_ours=True)


_HANDLERS: dict[int, Callable[[Http2Connection, int, int, memoryview], None]] = {
    frames.HEADERS: Http2Connection._on_headers,
    frames.RST_STREAM: Http2Connection._on_rst_stream,
    frames.SETTINGS: Http2Connection._on_settings,
    frames.PING: Http2Connection._on_ping,
    frames.WINDOW_UPDATE: Http2Connection._on_window_update,
    frames.CONTINUATION: Http2Connection._on_continuation,
}
