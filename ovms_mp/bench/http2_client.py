# SPDX-License-Identifier: Apache-2.0
"""gRPC calls over HTTP/2 with as few instructions as Python allows: prepared bytes out, frames counted in.

Only what a load needs: every request is the same, so its header block is encoded twice (the second time it consists of
references into the table) and reused. The server is told to keep no table for answers, so that equal blocks mean equal
headers, and their meaning is looked up by their bytes.

Source: RFC 9113, RFC 7541, and grpc's PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote

import hpack

from ovms_mp.bench.wire_client import OK, Listener, Token, WireClient, WireRequest
from ovms_mp.codes import Code
from ovms_mp.front.grpc.http2.faults import Fault
from ovms_mp.front.grpc.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADER_SIZE,
    HEADERS,
    LARGEST_WINDOW,
    PADDED,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    block_fragment,
    frame,
    parse_header,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_TABLE_SIZE, _MOST_STREAMS, _INITIAL_WINDOW, _MAX_FRAME = 1, 3, 4, 5
"""Numbers of settings (6.5.2)."""
_SETTING = struct.Struct(">HI")
_NUMBER = struct.Struct(">I")
_REFILL = 1 << 30
"""Received bytes after which the connection's window is filled up again."""
_DEFAULT_TABLE = 4096
_MOST_KNOWN_BLOCKS = 4096
_CANCEL = 8
_LONG_BODY = 16_384
"""From which on a copy costs more than another element of a vector."""
_TLS_ALERT = 0x15
_STATUS_NAMES = {str(code.number): code.name for code in Code}


def _data_head(size: int, flags: int, stream_id: int) -> bytes:
    """The header of a DATA frame (6.1)."""
    return b"%b%c%c%b" % (size.to_bytes(3), DATA, flags, stream_id.to_bytes(4))


class _Unsent:
    """A request whose body has not left as a whole."""

    __slots__ = ("offset", "stream_id", "window")

    def __init__(self, stream_id: int, window: int) -> None:
        self.stream_id = stream_id
        self.window = window
        self.offset = 0


class Http2Client(WireClient):
    """One HTTP/2 connection for unary gRPC calls."""

    def __init__(self, request: WireRequest, listener: Listener, *, keeps_body: bool = False) -> None:
        super().__init__(request, listener, keeps_body=keeps_body)
        self._rest = b""
        self._out: list[bytes | memoryview] = []
        self._large = 0
        self._tokens: dict[int, Token] = {}
        self._sizes: dict[int, int] = {}
        self._statuses: dict[int, str] = {}
        self._unsent: deque[_Unsent] = deque()
        self._next_stream = 1
        self._window = DEFAULT_WINDOW
        self._initial_window = DEFAULT_WINDOW
        self._frame_size = DEFAULT_FRAME_SIZE
        self._received = 0
        self._block = b""
        self._first_block = b""
        self._fragments = b""
        self._known: dict[bytes, dict[str, str]] = {}
        self._is_draining = False

    @property
    def in_flight(self) -> int:
        """How many requests are under way."""
        return len(self._tokens)

    def pending(self) -> list[Token]:
        """Requests under way."""
        return list(self._tokens.values())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the connection; answers may be as long as they like."""
        # uvloop's are no subclasses of asyncio's.
        stream = cast("asyncio.Transport", transport)
        self._transport = stream
        wanted = ((_TABLE_SIZE, 0), (_INITIAL_WINDOW, LARGEST_WINDOW))
        settings = b"".join(_SETTING.pack(*setting) for setting in wanted)
        update = frame(WINDOW_UPDATE, 0, 0, _NUMBER.pack(LARGEST_WINDOW - DEFAULT_WINDOW))
        stream.write(PREFACE + frame(SETTINGS, 0, 0, settings) + update)

    def data_received(self, data: bytes) -> None:
        """Take frames."""
        if self._rest:
            data = self._rest + data
        elif not self.ready.done() and not self._is_http2(data):
            return
        view = memoryview(data)
        position, end = 0, len(data)
        while end - position >= HEADER_SIZE:
            head, flags, stream_id = parse_header(view, position)
            last = position + HEADER_SIZE + (head >> 8)
            if last > end:
                break
            try:
                self._take(head & 0xFF, flags, stream_id, view[position + HEADER_SIZE : last])
            except (Fault, hpack.HPACKError, struct.error) as error:
                self._fail(f"the server broke HTTP/2 ({error})")
                return
            position = last
        self._rest = data[position:]
        self.flush()

    def send(self, token: Token) -> None:
        """Begin a call; its bytes leave with the next flush."""
        stream_id = self._next_stream
        self._next_stream += 2
        self._tokens[stream_id] = token
        block = self._first_block if stream_id == 1 else self._block
        body = self._request.body
        self._out.append(frame(HEADERS, END_HEADERS, stream_id, block))
        room = min(self._frame_size, self._window, self._initial_window)
        if len(body) <= room and not self._unsent:
            self._window -= len(body)
            self._out += (_data_head(len(body), END_STREAM, stream_id), body)
            self._large += len(body) if len(body) > _LONG_BODY else 0
        else:
            self._unsent.append(_Unsent(stream_id, self._initial_window))
            self._pump()

    def flush(self) -> None:
        """Write what has gathered."""
        if self._out and self._transport is not None:
            if self._large:
                # PERF: joining long bodies would copy each of them once more.
                self._transport.writelines(self._out)
            else:
                self._transport.write(b"".join(self._out))
        self._out = []
        self._large = 0

    def give_up(self, is_late: Callable[[Token], bool]) -> list[Token]:
        """Cancel calls that take too long."""
        late = [stream_id for stream_id, token in self._tokens.items() if is_late(token)]
        self._out += [frame(RST_STREAM, 0, stream_id, _NUMBER.pack(_CANCEL)) for stream_id in late]
        self._unsent = deque(unsent for unsent in self._unsent if unsent.stream_id not in late)
        self.flush()
        tokens = []
        for stream_id in late:
            self._sizes.pop(stream_id, None)
            self._statuses.pop(stream_id, None)
            tokens.append(self._tokens.pop(stream_id))
        return tokens

    def _is_http2(self, data: bytes) -> bool:
        """Whether the first bytes are a server's settings; what does not speak HTTP/2 is told from its first answer."""
        if data[:5] == b"HTTP/":
            self._fail("what listens there speaks HTTP/1.1 and not gRPC; give http:// instead of grpc://")
        elif data[0] == _TLS_ALERT:
            self._fail("what listens there speaks TLS; give grpcs:// instead of grpc://")
        elif len(data) > 3 and data[3] != SETTINGS:
            self._fail("what listens there does not speak gRPC")
        else:
            return True
        return False

    def _fail(self, reason: str) -> None:
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(reason))
        self.detail = reason
        self.close()

    def _take(self, kind: int, flags: int, stream_id: int, payload: memoryview) -> None:
        if kind == DATA:
            self._take_data(flags, stream_id, payload)
        elif kind == HEADERS:
            self._take_block(flags, stream_id, bytes(block_fragment(flags, payload)))
        elif kind == WINDOW_UPDATE:
            self._widen(stream_id, _NUMBER.unpack(payload)[0])
        elif kind == CONTINUATION:
            self._take_block(flags, stream_id, self._fragments + bytes(payload))
        elif kind == SETTINGS and not flags & ACK:
            self._take_settings(payload)
        elif kind == PING and not flags & ACK:
            self._out.append(frame(PING, ACK, 0, bytes(payload)))
        elif kind == RST_STREAM:
            self._finish(stream_id, f"RST_STREAM {_NUMBER.unpack(payload)[0]}")
        elif kind == GOAWAY:
            # What it refuses comes again over another connection, which the end of this one brings about.
            self._is_draining = True
            self.most = 0

    def _take_data(self, flags: int, stream_id: int, payload: memoryview) -> None:
        self._received += len(payload)
        if self._received >= _REFILL:
            self._out.append(frame(WINDOW_UPDATE, 0, 0, _NUMBER.pack(self._received)))
            self._received = 0
        if stream_id in self._tokens:
            padding = payload[0] + 1 if flags & PADDED else 0
            self._sizes[stream_id] = self._sizes.get(stream_id, 0) + len(payload) - padding
            if self._keeps_body:
                self.body += payload[1 : len(payload) - payload[0]] if padding else payload
            if flags & END_STREAM:
                self._finish(stream_id, "no gRPC status")

    def _take_block(self, flags: int, stream_id: int, block: bytes) -> None:
        if not flags & END_HEADERS:
            self._fragments = block
            # Which of both frames ends the stream is said by the first.
            self._statuses[stream_id] = "ends" if flags & END_STREAM else self._statuses.get(stream_id, "")
            return
        self._fragments = b""
        headers = self._known.get(block)
        if headers is None:
            headers = self._decoded(block)
        if flags & END_STREAM or self._statuses.pop(stream_id, "") == "ends":
            self._finish(stream_id, self._outcome(headers))

    def _decoded(self, block: bytes) -> dict[str, str]:
        decoder = hpack.Decoder()
        headers = {}
        for name, value in decoder.decode(block, raw=True):
            headers[name.decode("latin-1")] = value.decode("latin-1")
        if len(self._known) < _MOST_KNOWN_BLOCKS:
            self._known[block] = headers
        return headers

    def _outcome(self, headers: Mapping[str, str]) -> str:
        status = headers.get("grpc-status", "")
        if status == "0":
            return OK
        self.detail = unquote(headers.get("grpc-message", ""))
        if status:
            return _STATUS_NAMES.get(status, f"gRPC status {status}")
        return f"HTTP {headers.get(':status', '?')}"

    def _finish(self, stream_id: int, outcome: str) -> None:
        token = self._tokens.pop(stream_id, None)
        if token is None:
            return
        if self._unsent:
            self._unsent = deque(unsent for unsent in self._unsent if unsent.stream_id != stream_id)
        self._listener.on_answer(self, token, outcome, self._sizes.pop(stream_id, 0))
        if self._is_draining and not self._tokens:
            self.close()

    def _take_settings(self, payload: memoryview) -> None:
        table = _DEFAULT_TABLE
        most = LARGEST_WINDOW
        for position in range(0, len(payload), _SETTING.size):
            number, value = _SETTING.unpack_from(payload, position)
            if number == _TABLE_SIZE:
                table = min(value, _DEFAULT_TABLE)
            elif number == _MOST_STREAMS:
                most = value
            elif number == _INITIAL_WINDOW:
                for unsent in self._unsent:
                    unsent.window += value - self._initial_window
                self._initial_window = value
            elif number == _MAX_FRAME:
                self._frame_size = value
        self._out.append(frame(SETTINGS, ACK, 0))
        self.most = most
        if not self.ready.done():
            self._encode_headers(table)
            self.ready.set_result(None)
        self._pump()

    def _encode_headers(self, table: int) -> None:
        encoder = hpack.Encoder()
        if table != _DEFAULT_TABLE:
            encoder.header_table_size = table
        headers = [(name.encode(), value.encode()) for name, value in self._request.headers.items()]
        fields = [(b":method", b"POST"), (b":path", self._request.path.encode()), *headers]
        fields.sort(key=lambda field: not field[0].startswith(b":"))
        self._first_block = encoder.encode(fields)
        self._block = encoder.encode(fields)

    def _widen(self, stream_id: int, size: int) -> None:
        if not stream_id:
            self._window += size
        for unsent in self._unsent:
            if unsent.stream_id == stream_id:
                unsent.window += size
        if self._unsent:
            self._pump()

    def _pump(self) -> None:
        """Send as much of the waiting bodies as the windows allow, the oldest first."""
        body = memoryview(self._request.body)
        waiting: deque[_Unsent] = deque()
        for unsent in self._unsent:
            while (size := min(self._frame_size, self._window, unsent.window, len(body) - unsent.offset)) > 0:
                end = unsent.offset + size
                flags = END_STREAM if end == len(body) else 0
                self._out += (_data_head(size, flags, unsent.stream_id), body[unsent.offset : end])
                self._large += size
                self._window -= size
                unsent.window -= size
                unsent.offset = end
            if unsent.offset < len(body):
                waiting.append(unsent)
        self._unsent = waiting
