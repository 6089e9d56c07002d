# SPDX-License-Identifier: Apache-2.0
"""The server's side of an HTTP/2 connection as a state machine without I/O (RFC 9113). Time is injected.

Octets come in by ``receive``, or past it into the memory that ``wanted`` names. Streams' hooks are told what they
mean at once; what is to be written collects in ``output``. A peer's fault ends a stream or all, and never raises.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from ovms_mp.front.call_context import new_flow
from ovms_mp.front.grpc.http2 import frames, settings
from ovms_mp.front.grpc.http2.faults import ErrorCode, Fault, StreamFault
from ovms_mp.front.grpc.http2.field_blocks import BlockDecoder
from ovms_mp.front.grpc.http2.headers import FieldSection, RequestHead, check_fields
from ovms_mp.front.grpc.http2.limits import Guard, Hit
from ovms_mp.front.grpc.http2.output import Output
from ovms_mp.front.grpc.http2.rates import RateCounter
from ovms_mp.front.grpc.http2.reader import Reader, never
from ovms_mp.front.grpc.http2.receiver import Receiver
from ovms_mp.front.grpc.http2.settings import PeerSettings
from ovms_mp.front.grpc.http2.stream import Stream
from ovms_mp.front.grpc.http2.streams import Streams
from ovms_mp.front.grpc.http2.window import ReceiveWindow

_DRAIN_PING = b"drain..."
_UPDATES_PER_FRAME = 4
"""Window updates that a DATA frame of ours, or the end of an answer, gives a peer reason for, at most."""

NewStream = Callable[["Http2Connection", int, RequestHead], Stream]


class DrainPhase(enum.IntEnum):
    """How far a graceful end has come (6.8)."""

    NONE = 0
    ANNOUNCED = 1  # By a GOAWAY that still allows all streams, and a PING.
    FINAL = 2  # Another GOAWAY has named the last stream.


class Http2Connection:
    """One connection.

    Attributes:
        guard: Shared by all connections.
        limits: The guard's.
        now_ns: When something last happened.
        number: Of the connection; no other of this process has it.
        output: What is to be written.
        streams: Those that are open, by identifier.
        held_bytes: What messages hold that are not complete, not read or not sent.
        drain_phase: How far a graceful end has come.
        is_settled: Whether preface and SETTINGS have come.
        is_closed: Whether nothing is left but to write the output and close.
        fault: Why the peer was disconnected; empty if it was not.
        certificate_name: Of the peer; empty without a certificate.
    """

    def __init__(self, new_stream: NewStream, guard: Guard, now_ns: int) -> None:
        """Prepare; the first output is our SETTINGS.

        Args:
            new_stream: Makes the stream of a valid request.
            guard: Shared by all connections.
            now_ns: Monotonic.
        """
        limits = guard.limits
        self.guard = guard
        self.limits = limits
        self.now_ns = now_ns
        self.number = new_flow()
        self.output = Output(self._end_locally, self.hold, limits.max_output_bytes, limits.max_frame_bytes)
        self.held_bytes = 0
        self.drain_phase = DrainPhase.NONE
        self.is_settled = False
        self.is_closed = False
        self.fault = self.certificate_name = ""
        self._new_stream = new_stream
        self._table = Streams()
        self.streams = self._table.open
        self._receiver = Receiver(limits, self._table, self)
        self._reader = Reader(limits, self._receiver, self)
        self._blocks = BlockDecoder(limits.max_header_block_bytes)
        self._rates = RateCounter(limits)
        self._peer = PeerSettings()
        self.output.write(frames.frame(frames.SETTINGS, 0, 0, settings.our_settings(limits)))
        increment = limits.connection_window_bytes - frames.DEFAULT_WINDOW
        self._write_word(frames.WINDOW_UPDATE, 0, increment)

    # What comes in.

    def receive(self, data: bytes | memoryview, now_ns: int, is_over: Callable[[], bool] = never) -> None:
        """Take what the peer sent.

        Args:
            data: Free again when this returns.
            now_ns: Monotonic.
            is_over: Asked between frames; if it is true the rest is left for ``receive(b"", ...)``: ``is_behind``.
        """
        self.now_ns = now_ns
        try:
            self._reader.read(data, is_over)
            self.regrant()
        except Fault as fault:
            self.guard.counters[fault.hit] += 1
            self.close(fault.code, fault.text)

    def wanted(self, least_bytes: int) -> memoryview | None:
        """Memory of a sink that the next octets belong into, if at least so many are due for it."""
        return self._receiver.wanted(least_bytes)

    def advance(self, nbytes: int, now_ns: int) -> None:
        """Know that the wanted memory has received octets."""
        self._receiver.advance(nbytes)
        self.receive(b"", now_ns)

    @property
    def is_stranger(self) -> bool:
        """Whether the peer has not greeted in HTTP/2."""
        return self._reader.is_stranger

    @property
    def is_behind(self) -> bool:
        """Whether whole frames are left that were received."""
        return self._reader.is_behind

    @property
    def is_mid_frame(self) -> bool:
        """Whether the rest of a frame or of a field block is due, or the first SETTINGS."""
        return self._reader.is_mid_frame

    @property
    def frames_received(self) -> int:
        """How many frames were begun."""
        return self._reader.frames_received + self._receiver.run_frames

    @property
    def last_data_bytes(self) -> int:
        """The length of the last DATA frame, as a hint at the next one's."""
        return self._receiver.last_data_bytes

    @property
    def last_id(self) -> int:
        """The highest identifier of a request so far."""
        return self._table.last_id

    @property
    def suspect_until_ns(self) -> int:
        """Until then the peer is near a limit of what it may do how often."""
        return self._rates.suspect_until_ns

    def count(self, hit: Hit, text: str) -> None:
        """Count what costs us more than the peer; raises Fault with this text if it was too often."""
        if not self._rates.count(hit, self.now_ns):
            raise Fault(ErrorCode.ENHANCE_YOUR_CALM, text, hit)

    # Frames.

    def take_frame(self, kind: int, flags: int, stream_id: int, payload: memoryview) -> None:
        """Handle a whole frame but those of field blocks."""
        if kind == frames.WINDOW_UPDATE:
            self._on_window_update(stream_id, payload)
        elif kind == frames.PING:
            self._on_ping(flags, payload)
        elif kind == frames.RST_STREAM:
            self._on_rst_stream(stream_id)
        else:
            self._on_settings(flags, payload)

    def take_ignored(self, kind: int, length: int) -> None:
        """Handle PRIORITY (5.3.2), GOAWAY of a client, and types that are unknown (5.5)."""
        self.count(Hit.IGNORED, "too many frames without a meaning")
        if kind == frames.PRIORITY and length != frames.PRIORITY_SIZE:
            raise StreamFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of another length")

    def take_block(self, flags: int, stream_id: int, block: bytes) -> None:
        """Handle a field block (6.2): a request's header section, or trailers."""
        section = self._blocks.decode(block)
        is_end = flags & frames.END_STREAM != 0
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._take_trailers(stream, section, is_end=is_end)
        elif not self._table.is_new(stream_id):
            self._table.check_ended(stream_id)
        elif not self._table.are_final:
            self._open(stream_id, section, is_end=is_end)

    def _take_trailers(self, stream: Stream, section: FieldSection, *, is_end: bool) -> None:
        if not stream.is_remote_open:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "HEADERS after the end")
        if not is_end:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "a second header section")
        check_fields(section.fields)
        self.end_remotely(stream)

    def _open(self, stream_id: int, section: FieldSection, *, is_end: bool) -> None:
        self._table.last_id = stream_id
        if len(self.streams) >= self.limits.max_streams:
            self.guard.counters[Hit.STREAMS] += 1
            raise StreamFault(ErrorCode.REFUSED_STREAM, "too many streams")
        head = section.request()
        if is_end and head.content_length > 0:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "less than content-length")
        stream = self._new_stream(self, stream_id, head)
        self.streams[stream_id] = stream
        stream.is_remote_open = not is_end
        stream.opened()
        if is_end and stream.is_local_open:
            stream.ended()

    def _on_rst_stream(self, stream_id: int) -> None:
        self.count(Hit.RESETS, "too many streams were reset")
        if stream_id in self.streams:
            self._forget(stream_id, is_ours=False)
        else:
            self._table.check_known(stream_id)

    def _on_settings(self, flags: int, payload: memoryview) -> None:
        self.count(Hit.SETTINGS, "too many SETTINGS frames")
        is_ack = flags & frames.ACK != 0
        settings.check_size(len(payload), self.limits.max_settings, is_ack=is_ack)
        if is_ack:
            if not self.is_settled:
                raise Fault(ErrorCode.PROTOCOL_ERROR, "no SETTINGS after the preface")
            return
        self._peer = settings.parse(payload, self._peer)
        self.output.apply(self._peer, self.streams.values())
        self.is_settled = True
        self.output.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self.output.pump()  # Behind the acknowledgement: before it, C-core holds us to its old windows.

    def _on_ping(self, flags: int, payload: memoryview) -> None:
        if not flags & frames.ACK:
            self.count(Hit.PINGS, "too_many_pings")  # By this text gRPC clients know to ping less often.
            self.output.write(frames.frame(frames.PING, frames.ACK, 0, bytes(payload)))
        elif payload == _DRAIN_PING and self.drain_phase == DrainPhase.ANNOUNCED:
            self.drain()

    def _on_window_update(self, stream_id: int, payload: memoryview) -> None:
        self._rates.earn(Hit.WINDOW_UPDATES, _UPDATES_PER_FRAME * self.output.earning_frames)
        self.output.earning_frames = 0
        self.count(Hit.WINDOW_UPDATES, "too many window updates")
        increment = int.from_bytes(payload) & frames.LARGEST_WINDOW  # The reserved bit is ignored (6.9).
        if stream_id == 0:
            self.output.widen(increment)
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self._table.check_known(stream_id)
        else:
            self.output.widen_stream(stream, increment)

    # How streams end.

    def end_remotely(self, stream: Stream) -> None:
        """The peer has sent all of a stream, or less than it had promised (8.1.1)."""
        if stream.expected > 0:
            self.end_faulty(stream.id, ErrorCode.PROTOCOL_ERROR)
        else:
            stream.is_remote_open = False
            stream.ended()

    def _end_locally(self, stream: Stream) -> None:
        """Forget a stream whose answer is complete; a client that still sends is told to stop (8.1)."""
        # C-core's clients widen their windows for each call, whatever is in its answer.
        self.output.earning_frames += 1
        if stream.is_remote_open:
            # NOTE: for any other code C-core's clients throw away the status that we sent.
            self._write_word(frames.RST_STREAM, stream.id, ErrorCode.NO_ERROR)
        self._forget(stream.id, is_ours=stream.is_remote_open, is_told=True)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """End a stream that cannot be answered."""
        self._write_word(frames.RST_STREAM, stream_id, code)
        self._forget(stream_id, is_ours=True)

    def end_faulty(self, stream_id: int, code: ErrorCode) -> None:
        """End a stream for what the peer did; too many of these end the connection (CVE-2025-8671)."""
        self.reset(stream_id, code)
        if code != ErrorCode.REFUSED_STREAM:
            self.guard.counters[Hit.PROTOCOL] += 1
        self.count(Hit.RESETS, "too many streams were reset")

    def _forget(self, stream_id: int, *, is_ours: bool, is_told: bool = False) -> None:
        """End a stream in the books, if it is there.

        Args:
            stream_id: The stream.
            is_ours: Whether the peer may still send, as it does not know of the end yet.
            is_told: Whether the stream knows.
        """
        stream = self._table.forget(stream_id, is_ours=is_ours)
        if stream is None:
            return
        self._receiver.leave(stream)
        self.output.drop(stream)
        if self.drain_phase == DrainPhase.FINAL and not self.streams:
            self.is_closed = True
        if not is_told:
            stream.was_reset()

    # Memory, and the windows that it allows to grant.

    def hold(self, nbytes: int) -> None:
        """Count memory of messages that are not complete, not read or not sent."""
        self.held_bytes += nbytes
        self.guard.held_bytes += nbytes

    def may_grant(self) -> bool:
        """Whether there is memory for what more window brings: peers are held back by their own flow control (5.2)."""
        unread_bytes = sum(stream.outbox_bytes for stream in self.output.waiting.values())
        return (
            unread_bytes < self.limits.max_output_bytes
            and self.held_bytes < self.limits.connection_buffer_bytes
            and self.guard.is_open
        )

    def grant_stream(self, stream: Stream) -> None:
        """Give back a stream's window that is half used, if it reads on and not too much is held."""
        if stream.receive_window.is_low and stream.is_remote_open and stream.is_reading:
            self._grant(stream.receive_window, stream.id)

    def regrant(self) -> None:
        """Give back the connection's window when a quarter is used, unless too much is held."""
        if self._receiver.window.is_low:
            self._grant(self._receiver.window, 0)

    def _grant(self, window: ReceiveWindow, stream_id: int) -> None:
        if self.may_grant():
            self._write_word(frames.WINDOW_UPDATE, stream_id, window.refill())

    def _write_word(self, kind: int, stream_id: int, word: int) -> None:
        """Write a frame whose payload is one number of 32 bits."""
        self.output.write(frames.frame(kind, 0, stream_id, word.to_bytes(4)))

    # How the connection ends.

    def drain(self) -> None:
        """Ask the client to leave; again, when it has answered the PING or had its time: name the last stream (6.8)."""
        if self.is_closed:
            return
        if self.drain_phase == DrainPhase.NONE:
            self.drain_phase = DrainPhase.ANNOUNCED
            self._write_goaway(frames.LARGEST_STREAM_ID, ErrorCode.NO_ERROR, "")
            self.output.write(frames.frame(frames.PING, 0, 0, _DRAIN_PING))
        elif self.drain_phase == DrainPhase.ANNOUNCED:
            self.drain_phase = DrainPhase.FINAL
            self._table.are_final = True
            self._write_goaway(self.last_id, ErrorCode.NO_ERROR, "")
            self.is_closed = not self.streams

    def close(self, code: ErrorCode, text: str) -> None:
        """End the connection and all its streams.

        Args:
            code: What the peer is told.
            text: Why, in words for its log and ours; empty if it did nothing wrong.
        """
        if not self.is_closed:
            self.is_closed = True
            self.fault = text
            self._write_goaway(self.last_id, code, text)
        for stream_id in list(self.streams):
            self._forget(stream_id, is_ours=True)

    def _write_goaway(self, last_id: int, code: ErrorCode, text: str) -> None:
        payload = last_id.to_bytes(4) + code.to_bytes(4) + text.encode()
        self.output.write(frames.frame(frames.GOAWAY, 0, 0, payload))
