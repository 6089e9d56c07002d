# SPDX-License-Identifier: Apache-2.0
"""Field sections and what makes a request of one, or a malformed request (RFC 9113, 8.1 to 8.3)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ovms_mp.front.grpc.http2.faults import ErrorCode, StreamFault

Fields = Sequence[tuple[bytes, bytes]]

_FIELD_OVERHEAD = 32
"""Octets that a field counts for besides its name and value (RFC 9113, 6.5.2)."""
_LONGEST_LENGTH = 18
"""Digits of a content-length."""
_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
_CONNECTION_SPECIFIC = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_is_name = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_is_value = re.compile(rb"(?:[^\0\r\n\t ](?:[^\0\r\n]*[^\0\r\n\t ])?)?").fullmatch


class RequestHead:
    """The header section of a valid request. Requests of equal field blocks share it, so nobody changes it.

    Attributes:
        fields: Those that are no pseudo-header fields.
        nbytes: The size of all fields as SETTINGS_MAX_HEADER_LIST_SIZE counts (6.5.2).
        method, path, authority: Of the pseudo-header fields, or of ``host``. The path is empty for CONNECT.
        content_length: What was declared; -1 if nothing was.
        memo: What the layer above has made of this head; None at first.
    """

    def __init__(self, fields: Fields, nbytes: int) -> None:
        """Validate.

        Args:
            fields: The field section as it was decoded.
            nbytes: Its size.

        Raises:
            StreamFault: The request is malformed (8.1.1).
        """
        pseudo, regular = _split(fields)
        check_fields(regular)
        self.fields: Fields = regular
        self.nbytes = nbytes
        self.content_length = _content_length(regular)
        self.authority = _authority(pseudo, regular)
        self.method = pseudo.get(b":method", b"")
        self.path = pseudo.get(b":path", b"")
        if not _is_complete(pseudo, self.authority):
            raise _malformed("a pseudo header is missing, or one too many")
        self.memo: object = None


class FieldSection:
    """A decoded field block: a request's header section, or its trailers. Equal blocks share it."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self._request: RequestHead | None = None

    def request(self) -> RequestHead:
        """The request that this is, always the same one; raises StreamFault if it is malformed."""
        if self._request is None:
            nbytes = sum(len(name) + len(value) + _FIELD_OVERHEAD for name, value in self.fields)
            self._request = RequestHead(self.fields, nbytes)
        return self._request


def check_fields(fields: Fields) -> None:
    """Check fields of which none may be a pseudo-header field: names, values (8.2.1) and what HTTP/2 lacks (8.2.2).

    Raises:
        StreamFault: One of them may not be.
    """
    for name, value in fields:
        if not _is_name(name) or not _is_value(value):
            raise _malformed("a character that no field may have")
        if name in _CONNECTION_SPECIFIC or (name == b"te" and value != b"trailers"):
            raise _malformed("a field of HTTP/1.1 connections")


def _malformed(text: str) -> StreamFault:
    return StreamFault(ErrorCode.PROTOCOL_ERROR, text)


def _split(fields: Fields) -> tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]:
    """Pseudo-header fields, which come first, each at most once (8.3), and the others."""
    pseudo: dict[bytes, bytes] = {}
    regular: list[tuple[bytes, bytes]] = []
    for name, value in fields:
        if not name.startswith(b":"):
            regular.append((name, value))
        elif name in _PSEUDO and name not in pseudo and not regular and _is_value(value):
            pseudo[name] = value
        else:
            raise _malformed("a wrong pseudo header")
    return pseudo, regular


def _content_length(regular: Fields) -> int:
    """What content-length declares; -1 if there is none. Equal ones count as one (RFC 9110, 8.6)."""
    lengths = {value for name, value in regular if name == b"content-length"}
    if not lengths:
        return -1
    length = lengths.pop()
    if lengths or not length.isdigit() or len(length) > _LONGEST_LENGTH:
        raise _malformed("content-length is no number, or two")
    return int(length)


def _authority(pseudo: dict[bytes, bytes], regular: Fields) -> bytes:
    """What ``:authority`` and ``host`` say, which must be the same if both do (8.3.1); empty if none does."""
    hosts = {value for name, value in regular if name == b"host"}
    hosts.add(pseudo.get(b":authority", b""))
    hosts.discard(b"")
    if len(hosts) > 1:
        raise _malformed("host differs from :authority")
    return hosts.pop() if hosts else b""


def _is_complete(pseudo: dict[bytes, bytes], authority: bytes) -> bool:
    """Whether a request has all pseudo-header fields that it needs (8.3.1), and none that CONNECT lacks (8.5)."""
    method = pseudo.get(b":method", b"")
    path = pseudo.get(b":path", b"")
    if method == b"CONNECT":
        return b":scheme" not in pseudo and b":path" not in pseudo and authority != b""
    has_path = path.startswith(b"/") or (method == b"OPTIONS" and path == b"*")
    return method != b"" and pseudo.get(b":scheme", b"") != b"" and has_path
