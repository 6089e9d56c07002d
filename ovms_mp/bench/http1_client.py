# SPDX-License-Identifier: Apache-2.0
"""REST calls over one HTTP/1.1 connection: prepared bytes out, answers parsed by httptools and counted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import httptools

from ovms_mp.bench.wire_client import OK, Listener, Token, WireClient, WireRequest

if TYPE_CHECKING:
    from collections.abc import Callable

_SUCCESS = 200
_LONGEST_DETAIL = 4096
_TLS_ALERT = 0x15


class Http1Client(WireClient):
    """One HTTP/1.1 connection, which carries one request at a time."""

    def __init__(self, request: WireRequest, listener: Listener, *, keeps_body: bool = False) -> None:
        super().__init__(request, listener, keeps_body=keeps_body)
        lines = [f"{request.method} {request.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        if request.body:
            lines.append(f"content-length: {len(request.body)}")
        self._bytes = "\r\n".join([*lines, "", ""]).encode() + request.body
        self._parser = httptools.HttpResponseParser(self)
        self._token: Token | None = None
        self._size = 0

    @property
    def in_flight(self) -> int:
        """0 or 1."""
        return self._token is not None

    def pending(self) -> list[Token]:
        """The request under way."""
        return [] if self._token is None else [self._token]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Requests may be sent at once."""
        # uvloop's are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self.ready.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Parse; callbacks below."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if data[:1] == bytes((_TLS_ALERT,)):
                self.detail = "what listens there speaks TLS; give https:// instead of http://"
            elif b"\0" in data[:9]:
                self.detail = "what listens there speaks gRPC and not REST; give grpc:// instead of http://"
            else:
                self.detail = "what listens there does not speak HTTP/1.1"
            self.close()

    def send(self, token: Token) -> None:
        """Send the request."""
        self._token = token
        self._size = 0
        if self._transport is not None:
            self._transport.write(self._bytes)

    def flush(self) -> None:
        """Nothing is held back."""

    def give_up(self, is_late: Callable[[Token], bool]) -> list[Token]:
        """End the connection if its request takes too long; HTTP/1.1 has no other way."""
        if self._token is None or not is_late(self._token):
            return []
        late, self._token = [self._token], None
        self.close()
        return late

    def on_body(self, body: bytes) -> None:
        """For the parser."""
        self._size += len(body)
        if self._keeps_body or (
            self._parser.get_status_code() != _SUCCESS and len(self.body) < _LONGEST_DETAIL
        ):
            self.body += body

    def on_message_complete(self) -> None:
        """For the parser."""
        token, self._token = self._token, None
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.most = 0
            self.close()
        if token is None:
            return
        if status != _SUCCESS:
            self.detail = self.body[:_LONGEST_DETAIL].decode("utf-8", "replace")
            if not self._keeps_body:
                self.body.clear()
        self._listener.on_answer(self, token, OK if status == _SUCCESS else f"HTTP {status}", self._size)
