# SPDX-License-Identifier: Apache-2.0
"""From octets to the heads and bodies of requests, by httptools, with bounds for heads.

A head longer than 64 KiB, or with more than 256 fields, is refused with 431 (414 for the URL), and the version of the
protocol is looked at (505). An offer to go on in another protocol is declined, and the request that carries it is
answered as what it is.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import httptools

from ovms_mp.front.rest import heads
from ovms_mp.front.rest.heads import Refused


class Head(NamedTuple):
    """Of a request.

    Attributes:
        method: As sent.
        url: As sent.
        version: Of HTTP, e.g. ``1.1``.
        fields: Names in lower case.
        expects_go_ahead: Whether the client waits for one before it sends the body.
        keep_alive: Whether it wants the connection to go on.
        content_length: Of the body, where it says so.
    """

    method: bytes
    url: bytes
    version: str
    fields: list[tuple[bytes, bytes]]
    expects_go_ahead: bool
    keep_alive: bool
    content_length: int | None


class Target(Protocol):
    """What is done about requests; may raise :class:`Refused`."""

    def take_head(self, head: Head) -> None:
        """A request begins."""

    def take_body(self, piece: bytes) -> None:
        """Octets of its body."""

    def end_body(self) -> None:
        """It is here."""


class RequestReader:
    """Of one connection.

    Attributes:
        body_left: Octets that certainly belong to the body which is being received; 0 before the end of its head.
        body_pieces: How many pieces of bodies there have been, of whatever size.
        head_bytes: Octets since the parser last got anywhere.
    """

    def __init__(self, target: Target) -> None:
        self.body_left = 0
        self.body_pieces = 0
        self.head_bytes = 0
        self._target = target
        self._parser = self._new_parser()
        self._url = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._expects_go_ahead = False
        self._content_length: int | None = None
        self._has_progress = False
        self._has_host = False
        self._is_in_head = False

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # What is pipelined behind the last request.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def feed(self, piece: bytes | memoryview) -> Refused | None:
        """Take octets; why they are refused, if they are."""
        self._has_progress = False
        taken = -1
        try:
            try:
                self._parser.feed_data(piece)
            except httptools.HttpParserUpgrade as offer:
                taken = offer.args[0]
            if taken >= 0:  # Not in the handler: the parser's next error would lose its context.
                self._decline(memoryview(piece)[taken:])
        except httptools.HttpParserError as error:
            refused = error.__context__
            return refused if isinstance(refused, Refused) else heads.unreadable(piece, str(error))
        except Refused as refusal:
            return refusal
        if self._has_progress:
            self.head_bytes = 0
        else:
            self.head_bytes += len(piece)
            if self.head_bytes > heads.MOST_HEAD_BYTES:
                return heads.too_long(len(self._url))
        return None

    def pass_by(self) -> int:
        """Have the rest of the body go past the parser, which would copy it; how much that is.

        :meth:`passed` follows.
        """
        nbytes, self.body_left = self.body_left, 0
        return nbytes

    def passed(self) -> None:
        """It is there: read on as if the parser had seen it."""
        self._parser = self._new_parser()
        self.on_message_complete()

    def _decline(self, rest: memoryview) -> None:
        """Read a request again without its offer of another protocol, behind which the parser reads no body."""
        taken = 0
        while taken >= 0:
            rest, taken = rest[taken:], -1
            parser = self._parser
            if parser.get_method() == b"CONNECT":
                raise Refused(400, "CONNECT is for proxies, and this is none")
            head = heads.without_offer(
                parser.get_method(), self._url, parser.get_http_version(), self._fields
            )
            self._parser = self._new_parser()
            self._parser.feed_data(head)
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as offer:
                taken = offer.args[0]

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A request begins."""
        self._url = b""
        self._expects_go_ahead = False
        self._content_length = None
        self._fields = []
        self._is_in_head = True

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or one behind a chunked body, which is read for its bounds only (RFC 9110, 6.5.1)."""
        if len(self._fields) >= heads.MOST_FIELDS:
            raise Refused(431, f"the request has more than {heads.MOST_FIELDS} header fields")
        # The parser leaves white space behind a value, which is none of it (RFC 9110, 5.5). PERF: 0.04 us.
        name, value = name.lower(), value.rstrip(b" \t")
        if not self._is_in_head:
            heads.refuse_behind_body(name)
        elif name in heads.LOOKED_AT:
            if name == b"content-length":
                self._content_length = int(value)
            elif name == b"host":
                if self._has_host:
                    raise Refused(400, "the request has more than one Host header field (RFC 9112, 3.2)")
                self._has_host = True
            elif name == b"transfer-encoding":
                heads.refuse_coding(value)
            elif value.lower() == b"100-continue":
                self._expects_go_ahead = True
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """A head is here."""
        self._has_progress = True
        parser = self._parser
        version = parser.get_http_version()
        if version != "1.1" and version != "1.0":
            raise Refused(505, f"HTTP/{version} is not supported; speak HTTP/1.1")
        if not self._has_host and version == "1.1":
            raise Refused(400, "the request has no Host header field (RFC 9112, 3.2)")
        self._has_host = False
        if len(self._url) > heads.MOST_HEAD_BYTES or (
            self.head_bytes and sum(len(n) + len(v) for n, v in self._fields) > heads.MOST_HEAD_BYTES
        ):
            raise heads.too_long(len(self._url))
        if parser.should_upgrade():
            return  # It comes again, see :meth:`_decline`.
        is_current = version != "1.0"
        fields, self._fields, self._is_in_head = self._fields, [], False
        # Not earlier: octets behind a length that are still of the head would be taken for the body.
        self.body_left = self._content_length or 0
        self._target.take_head(
            Head(
                parser.get_method(),
                self._url,
                version,
                fields,
                # Those who speak HTTP/1.0 do not know what a go-ahead is (RFC 9110, 10.1.1).
                self._expects_go_ahead and is_current,
                is_current and parser.should_keep_alive(),
                self._content_length,
            )
        )

    def on_body(self, body: bytes) -> None:
        """Octets of a body."""
        self._has_progress = True
        self.body_pieces += 1
        self.body_left = max(0, self.body_left - len(body))
        self._target.take_body(body)

    def on_message_complete(self) -> None:
        """A request is here, or the head of one that comes again."""
        self._has_progress = True
        self.body_left = 0
        if not self._parser.should_upgrade():
            self._target.end_body()
