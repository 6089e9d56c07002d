# SPDX-License-Identifier: Apache-2.0
"""What a REST request's head may say: the refusals that need no application, and offers that are declined.

Knows nothing of connections; :mod:`~ovms_mp.front.rest.http_protocol` asks it.
"""

from __future__ import annotations

import http
import json
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MOST_HEAD_BYTES = 64 << 10
MOST_FIELDS = 256
LOOKED_AT = frozenset((b"content-length", b"expect", b"host", b"transfer-encoding"))
"""Fields that matter to the protocol itself."""
ANSWER_START = b"HTTP/1.1 "
"""What every answer begins with, whatever it is."""

_MOST_NAMES = 64
"""Names of fields that are known for now; handlers ask for the same few."""
_TLS_HANDSHAKE = b"\x16\x03"
_HTTP2_PREFACE = b"PRI * HTTP/2"
_OF_THE_OFFER = (b"upgrade", b"http2-settings")


@lru_cache(_MOST_NAMES)
def field_name(name: str) -> bytes:
    """As fields of a head are called."""
    return name.lower().encode()


def by_name(fields: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The header by name; a field that is there several times is a list (RFC 9110, 5.2)."""
    found = dict(fields)
    if len(found) < len(fields):
        found.clear()
        for name, value in fields:
            found[name] = b"%b,%b" % (found[name], value) if name in found else value
    return found


class Refused(Exception):
    """A head that is not answered by the application.

    Attributes:
        kind: What it is counted as.
    """

    def __init__(self, status: int, text: str, kind: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.kind = kind or f"http_{status}"


def answer(status: int, text: str) -> bytes:
    """The whole answer of a connection that is closed behind it."""
    body = json.dumps({"error": text}).encode()
    head = (
        f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


NO_ROOM = answer(503, "the server has no room for another connection; try again later")


def too_long(url_bytes: int) -> Refused:
    """A head beyond :data:`MOST_HEAD_BYTES`."""
    if url_bytes > MOST_HEAD_BYTES // 2:
        return Refused(414, f"the request's URL is longer than {MOST_HEAD_BYTES} bytes")
    return Refused(431, f"the request's header fields are longer than {MOST_HEAD_BYTES} bytes together")


def refuse_coding(value: bytes) -> None:
    """Raise unless a Transfer-Encoding is the one that is read.

    Raises:
        Refused: It names another coding; the parser would take the coded body for a plain one (RFC 9112, 6.1).
    """
    if value.strip().lower() != b"chunked":
        raise Refused(
            501,
            f"Transfer-Encoding {value[:100].decode('latin-1')!r} is not supported; accepted: chunked "
            f"(a body may be packed with Content-Encoding: gzip)",
        )


def refuse_behind_body(name: bytes) -> None:
    """Raise where a field behind a body would say how the connection goes on.

    Raises:
        Refused: It would: the parser takes it for the head's, and all that follows for nothing (RFC 9110, 6.5.1).
    """
    if name == b"connection":
        raise Refused(400, "the header field Connection is behind the body, where it means nothing")


def unreadable(piece: bytes | memoryview, reason: str) -> Refused:
    """Octets that are no HTTP/1.1, and what they are if that can be told from the first ones."""
    start = bytes(piece[: len(_HTTP2_PREFACE)])
    if start.startswith(_TLS_HANDSHAKE):
        return Refused(400, "this port speaks plain HTTP, not TLS; use http://", "tls_hello")
    if start == _HTTP2_PREFACE:
        return Refused(
            505,
            "this port does not speak HTTP/2; speak HTTP/1.1, or gRPC with the port of --port",
            "http2_preface",
        )
    return Refused(400, f"Invalid HTTP request received: {reason}")


def without_offer(method: bytes, url: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head again, but without its offer to go on in another protocol (RFC 9110, 7.8).

    Args:
        method: Of the request line.
        url: Of the request line.
        version: Of the request line, e.g. ``1.1``.
        headers: By lower-case name.
    """
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    for name, value in headers:
        if name in _OF_THE_OFFER:
            continue
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            value = b", ".join(option for option in options if option.lower() not in _OF_THE_OFFER)
        lines.append(name + b": " + value)
    return b"\r\n".join([*lines, b"", b""])
