# SPDX-License-Identifier: Apache-2.0
"""A client's side of an HTTP/2 connection, without a socket (RFC 9113).

PERF: grpcio takes 60 us of processor time for a call from asyncio before anything of ours runs; here it is 30 us with
everything.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from ovms_mp.client import hpack
from ovms_mp.client.errors import ClientError
from ovms_mp.client.exchange import not_sent
from ovms_mp.client.http2_frames import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    DEFAULT_FRAME,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_SIZE,
    GOAWAY,
    GOAWAY_HEAD,
    HEAD,
    HEADERS,
    LARGEST_WINDOW,
    LONGEST_BLOCK,
    MOST_STREAMS,
    OUR_FRAME,
    PADDED,
    PING,
    PRIORITY,
    PUSH,
    RST_STREAM,
    SETTINGS,
    WINDOW,
    WINDOW_SIZE,
    WINDOW_UPDATE,
    HeaderBlock,
    Stream,
    broken,
    checked_settings,
    frame,
    no_frame,
    our_opening,
    reset_failure,
    unpadded,
)  # fmt: skip
from ovms_mp.client.http2_heads import RequestHeads

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.client.exchange import Exchange, Octets

_LAST_STREAM = 1 << 30
"""A connection is replaced long before it has no numbers left for streams."""
_RENEW_AT = 1 << 29
"""Octets after which the peer is told that it may send more."""
_MOST_OF_NOBODY = 10_000
"""Frames without use that a server may have sent, e.g. of streams that are over, since the last answer."""
_IN_PIECES = END_HEADERS | PADDED | PRIORITY  # Whether headers have to be taken to pieces, or put together.
_MOST_STREAMS = 100
"""Until the server has said how many it takes (6.5.2 recommends no fewer)."""


class Http2Connection:
    """Connection of a client; everything that it wants sent is in :meth:`take_outgoing`.

    Attributes:
        is_usable: Whether another exchange may begin: the server is not going away and nothing is broken.
        most_streams: How many it takes at a time.
    """

    def __init__(self, authority: str, *, is_secure: bool, headers: tuple[tuple[str, str], ...]) -> None:
        """Begin with the preface.

        Args:
            authority: Of the server.
            is_secure: Whether it is spoken to by TLS.
            headers: That every request has.
        """
        self._heads = RequestHeads(authority, "https" if is_secure else "http", headers)
        self._outgoing: list[Octets] = [our_opening()]
        self.is_usable = True
        self.most_streams = _MOST_STREAMS
        self._streams: dict[int, Stream] = {}
        self._blocked: dict[int, Stream] = {}
        """Those whose bodies wait for windows, in the order in which they came."""
        self._next_id = 1
        self._window = DEFAULT_WINDOW
        self._initial_window = DEFAULT_WINDOW
        self._most_frame = DEFAULT_FRAME
        self._buffer = b""
        self._data_left = 0
        """Octets that are still to come of a DATA frame whose begin has been delivered; then its flags and stream."""
        self._data_of = (0, 0)
        self._block = HeaderBlock()
        self._decoder = hpack.BlockDecoder()
        self._received = 0
        self._useless = 0

    @property
    def has_room(self) -> bool:
        """Whether another exchange may begin now."""
        return self.is_usable and len(self._streams) < self.most_streams

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._streams

    def take_outgoing(self) -> list[Octets]:
        """What is to be sent; it counts as sent."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def begin(self, exchange: Exchange, *, is_whole: bool = True) -> int:
        """Begin a request; the number of its stream.

        Args:
            exchange: Its body is the first of what is sent.
            is_whole: Whether that is all.

        Raises:
            InvalidRequest: Its headers are too long; nothing has begun.
        """
        request = exchange.request
        block = self._heads.block_of(request)
        stream_id = self._next_id
        self._next_id += 2
        self.is_usable = self.is_usable and stream_id < _LAST_STREAM
        stream = Stream(exchange, self._initial_window)
        self._streams[stream_id] = stream
        stream.is_whole = is_whole
        body = request.body
        has_ended = is_whole and not body
        self._outgoing.append(
            frame(HEADERS, END_HEADERS | END_STREAM if has_ended else END_HEADERS, stream_id, block)
        )
        if body:
            self.send(stream_id, body, is_whole=is_whole)
        return stream_id

    def send(self, stream_id: int, pieces: Sequence[Octets], *, is_whole: bool) -> None:
        """Send more of a request's body, as far as the peer lets us; the rest follows when it does."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.is_whole = is_whole
        size = sum(map(len, pieces))
        has_room = size <= self._most_frame and size <= stream.window and size <= self._window
        # What is empty needs no window, which may be below zero (6.9.2).
        if not stream.unsent and (has_room or not size):
            stream.window -= size
            self._window -= size
            flags = END_STREAM if is_whole else 0
            self._outgoing.append(HEAD.pack(size >> 8, size & 0xFF, DATA, flags, stream_id))
            self._outgoing.extend(pieces)
            return
        stream.unsent.extend(memoryview(piece).cast("B") for piece in pieces)
        # Others wait for what only the peer can change.
        if stream_id not in self._blocked and not self._pump_one(stream_id, stream):
            self._blocked[stream_id] = stream

    def cancel(self, stream_id: int) -> None:
        """Give a request up; its exchange is told nothing."""
        self._blocked.pop(stream_id, None)
        if self._streams.pop(stream_id, None) is not None:
            self._outgoing.append(frame(RST_STREAM, 0, stream_id, WINDOW.pack(CANCEL)))

    def close(self, failure: ClientError, *, is_clean: bool = False) -> None:
        """Take note that the connection is gone: every request fails, each with an error of its own.

        Args:
            failure: Why.
            is_clean: Of no meaning here.
        """
        self.is_usable = False
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.exchange.fail(copy.copy(failure))

    def _pump(self) -> None:
        """Send what waits, as far as windows go."""
        for stream_id, stream in list(self._blocked.items()):
            if self._window <= 0:
                return
            if self._pump_one(stream_id, stream):
                del self._blocked[stream_id]

    def _pump_one(self, stream_id: int, stream: Stream) -> bool:
        """Whether all of it could be sent."""
        unsent = stream.unsent
        while unsent:
            size = min(len(unsent[0]), stream.window, self._window, self._most_frame)
            if size <= 0 and len(unsent[0]):
                return False
            piece = unsent.popleft()
            if size < len(piece):
                unsent.appendleft(piece[size:])
            stream.window -= size
            self._window -= size
            flags = END_STREAM if stream.is_whole and not unsent else 0
            self._outgoing.append(HEAD.pack(size >> 8, size & 0xFF, DATA, flags, stream_id))
            self._outgoing.append(piece[:size])
        return True

    # What comes.

    def receive(self, octets: Octets) -> None:
        """Take what has come.

        Raises:
            Failed: It is no HTTP/2; the connection is of no use any more.
        """
        buffer = self._buffer + octets if self._buffer else bytes(octets)
        at, size = 0, len(buffer)
        if self._data_left:
            at = min(self._data_left, size)
            self._take_more_data(buffer, 0, at)
        while size - at >= 9:
            high, low, kind, flags, stream_id = HEAD.unpack_from(buffer, at)
            length = high << 8 | low
            if length > OUR_FRAME:
                raise no_frame(buffer, at, length)
            end = at + 9 + length
            if end > size:
                if kind != DATA or flags & PADDED or self._block.is_open:
                    break
                # Delivered as it comes, so that a long frame is not put together again with each of its pieces.
                self._data_left, self._data_of = length, (flags, stream_id & LARGEST_WINDOW)
                self._take_more_data(buffer, at + 9, size)
                at = size
                break
            self._take_frame(kind, flags, stream_id & LARGEST_WINDOW, buffer, at + 9, end)
            at = end
        self._buffer = buffer[at:]

    def _take_more_data(self, buffer: bytes, start: int, end: int) -> None:
        self._data_left -= end - start
        flags, stream_id = self._data_of
        if start < end:
            is_last = not self._data_left
            self._take_data(flags if is_last else flags & ~END_STREAM, stream_id, buffer, start, end)

    def _take_frame(self, kind: int, flags: int, stream_id: int, buffer: bytes, start: int, end: int) -> None:
        if self._block.is_open and kind != CONTINUATION:
            raise broken("a frame within a header block")
        if end - start > LONGEST_BLOCK and kind != DATA:
            raise broken(f"a frame of the kind {kind} with {end - start} bytes")
        if kind == DATA:
            self._take_data(flags, stream_id, buffer, start, end)
        elif kind == HEADERS and flags & _IN_PIECES == END_HEADERS:
            self._take_headers(flags, stream_id, buffer[start:end])
        elif kind in (HEADERS, CONTINUATION):
            if kind == CONTINUATION:
                self._count_useless()
            whole = self._block.take(kind, flags, stream_id, buffer, start, end)
            if whole is not None:
                self._take_headers(*whole)
        elif kind == PUSH:
            raise broken("a push")
        else:
            self._take_control(kind, flags, stream_id, buffer[start:end])

    def _take_data(self, flags: int, stream_id: int, buffer: bytes, start: int, end: int) -> None:
        size = end - start
        self._received += size
        if self._received >= _RENEW_AT:
            self._outgoing.append(frame(WINDOW_UPDATE, 0, 0, WINDOW.pack(self._received)))
            self._received = 0
        stream = self._streams.get(stream_id)
        if stream is None or not stream.has_head:
            self._take_strange_data(stream)
            return
        if flags & PADDED:
            start, end = unpadded(buffer, start, end)
        stream.received += size
        if stream.received >= _RENEW_AT and not flags & END_STREAM:
            self._outgoing.append(frame(WINDOW_UPDATE, 0, stream_id, WINDOW.pack(stream.received)))
            stream.received = 0
        if start < end:
            self._useless = 0
        elif not flags & END_STREAM:
            self._count_useless()
        try:
            stream.exchange.take_data(buffer[start:end])
        except ClientError as error:
            self.cancel(stream_id)
            stream.exchange.fail(error)
        else:
            if flags & END_STREAM:
                self._finish(stream_id, stream, None)

    def _take_strange_data(self, stream: Stream | None) -> None:
        if stream is not None:
            raise broken("a body without a head")
        self._count_useless()

    def _count_useless(self) -> None:
        self._useless += 1
        if self._useless > _MOST_OF_NOBODY:
            raise broken("frames that mean nothing, again and again")

    def _take_headers(self, flags: int, stream_id: int, block: bytes) -> None:
        headers = self._decoder.decode(block)
        stream = self._streams.get(stream_id)
        if stream is None:
            self._count_useless()
        elif stream.has_head:
            if not flags & END_STREAM:
                raise broken("trailers that are not the last")
            self._finish(stream_id, stream, headers)
        else:
            self._take_head(flags, stream_id, stream, headers)

    def _take_head(self, flags: int, stream_id: int, stream: Stream, headers: Mapping[str, str]) -> None:
        status = headers.get(":status", "")
        if len(status) != 3 or not status.isascii() or not status.isdigit():
            raise broken("an answer without a status")
        if status.startswith("1"):
            self._count_useless()
            return  # The real one follows.
        stream.has_head = True
        stream.exchange.take_head(int(status), headers)
        if flags & END_STREAM:
            self._finish(stream_id, stream, None)

    def _finish(self, stream_id: int, stream: Stream, trailers: Mapping[str, str] | None) -> None:
        del self._streams[stream_id]
        self._useless = 0
        if stream.unsent or not stream.is_whole:  # It does not want the rest.
            self._blocked.pop(stream_id, None)
            self._outgoing.append(frame(RST_STREAM, 0, stream_id, WINDOW.pack(CANCEL)))
        stream.exchange.end(trailers)

    def _take_control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == SETTINGS:
            if not flags & ACK:
                self._take_settings(payload)
            return
        if kind == WINDOW_UPDATE:
            self._take_window(stream_id, payload)
            return
        self._count_useless()
        if kind == PING and not flags & ACK:
            if len(payload) != 8:
                raise broken("a ping of another length")
            self._outgoing.append(frame(PING, ACK, 0, payload))
        elif kind == RST_STREAM and len(payload) == 4:
            self._blocked.pop(stream_id, None)
            stream = self._streams.pop(stream_id, None)
            if stream is not None:
                stream.exchange.fail(reset_failure(WINDOW.unpack(payload)[0]))
        elif kind == GOAWAY and len(payload) >= 8:
            last, code = GOAWAY_HEAD.unpack_from(payload)
            self._take_goaway(last & LARGEST_WINDOW, code, payload[8:])

    def _take_goaway(self, last: int, code: int, text: bytes) -> None:
        """No new streams; those above the last one that the server has seen can go elsewhere."""
        self.is_usable = False
        reason = f"the server goes away ({text[:200].decode('utf-8', 'replace') or code})"
        for stream_id in [number for number in self._streams if number > last]:
            self._blocked.pop(stream_id, None)
            self._streams.pop(stream_id).exchange.fail(not_sent(reason))

    def _take_window(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise broken("a window update of another length")
        increment = WINDOW.unpack(payload)[0] & LARGEST_WINDOW
        if not stream_id:
            self._window += increment
        elif (stream := self._streams.get(stream_id)) is not None:
            stream.window += increment
        if self._window > LARGEST_WINDOW:
            raise broken("a window that is too large")
        if self._blocked:
            self._pump()
        elif not increment:
            self._count_useless()

    def _take_settings(self, payload: bytes) -> None:
        self._count_useless()
        for identifier, value in checked_settings(payload):
            if identifier == MOST_STREAMS:
                self.most_streams = value
            elif identifier == FRAME_SIZE:
                self._most_frame = value
            elif identifier == WINDOW_SIZE:
                for stream in self._streams.values():
                    stream.window += value - self._initial_window
                self._initial_window = value
        self._outgoing.append(frame(SETTINGS, ACK, 0))
        if self._blocked:
            self._pump()
