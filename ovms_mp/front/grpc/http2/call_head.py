# SPDX-License-Identifier: Apache-2.0
"""A call's headers as gRPC reads them: path, encodings, timeout, metadata.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

import base64
import binascii

from ovms_mp.errors import OvmsError, RequestTooLarge, UnsupportedOperation
from ovms_mp.front.call_context import LOAD_FORMAT
from ovms_mp.front.grpc.encodings import WINDOW_BITS
from ovms_mp.front.grpc.http2.headers import Fields, RequestHead
from ovms_mp.front.methods import Methods

_UNITS_NS = {b"H": 3600 * 10**9, b"M": 60 * 10**9, b"S": 10**9, b"m": 10**6, b"u": 10**3, b"n": 1}
_LONGEST_TIMEOUT = 9


class CallHead:
    """A request's headers as gRPC reads them; shared by requests of equal octets, so nobody changes it."""

    def __init__(self, head: RequestHead, methods: Methods, max_list_bytes: int) -> None:
        fields = dict(head.fields)
        self.path = head.path.decode("latin-1")
        self.method = methods.get(self.path)
        self.user_agent = fields.get(b"user-agent", b"").decode("latin-1")
        encoding = fields.get(b"grpc-encoding", b"identity")
        accepted = fields.get(b"grpc-accept-encoding", b"").replace(b" ", b"").split(b",")
        self.encoding = encoding.decode("latin-1")
        self.reply_encoding = self.encoding if encoding in accepted else "identity"
        timeout = fields.get(b"grpc-timeout")
        self.timeout_ns = None if timeout is None else parse_timeout_ns(timeout)
        self.load_format = fields.get(LOAD_FORMAT.encode(), b"").decode("latin-1")
        self.metadata: list[tuple[str, str | bytes]] = []  # Names that end in ``-bin`` have octets.
        kind = fields.get(b"content-type", b"")
        is_grpc = kind == b"application/grpc" or kind[:17] in (b"application/grpc+", b"application/grpc;")
        self.refused_status = b"405" if head.method != b"POST" else b"" if is_grpc else b"415"
        self.refusal: OvmsError | None = None
        try:
            if head.nbytes > max_list_bytes:
                raise RequestTooLarge(f"metadata larger than max ({head.nbytes} vs. {max_list_bytes})")
            if b"te" not in fields or not head.authority:
                raise OvmsError("Missing :te header" if head.authority else "Missing :authority header")
            if timeout is not None and self.timeout_ns is None:
                raise OvmsError("Error parsing 'grpc-timeout' metadata")
            if encoding != b"identity" and self.encoding not in WINDOW_BITS:
                raise UnsupportedOperation(f"grpc-encoding {self.encoding!r} is not supported")
            self.metadata = decode_metadata(head.fields)
        except OvmsError as error:
            self.refusal = error


def parse_timeout_ns(value: bytes) -> int | None:
    """A ``grpc-timeout``: at most eight digits and a unit; None if it is something else."""
    if len(value) > _LONGEST_TIMEOUT or not value[:-1].isdigit() or value[-1:] not in _UNITS_NS:
        return None
    return int(value[:-1]) * _UNITS_NS[value[-1:]]


def decode_metadata(fields: Fields) -> list[tuple[str, str | bytes]]:
    """What an application may see; several binary values may share a field. Raises OvmsError for what is no base64."""
    found: list[tuple[str, str | bytes]] = []
    for name, value in fields:
        if not name.endswith(b"-bin"):
            found.append((name.decode(), value.decode("latin-1")))
            continue
        for digits in [part.strip().rstrip(b"=") for part in value.split(b",")]:
            try:
                octets = base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
            except binascii.Error:
                text = f"Error parsing '{name.decode()}' metadata: illegal base64 encoding"
                raise OvmsError(text) from None
            found.append((name.decode(), octets))
    return found
