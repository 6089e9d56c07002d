# SPDX-License-Identifier: Apache-2.0
"""The header sections of an answer as gRPC writes them: the one before its messages, and the one that ends it.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

import functools
import urllib.parse
from collections.abc import Iterable

from ovms_mp.errors import Code
from ovms_mp.front.grpc.http2.field_blocks import encode_block

_UNESCAPED = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
percent_encoded = functools.partial(urllib.parse.quote, safe=_UNESCAPED, errors="replace")

_GRPC = [(b":status", b"200"), (b"content-type", b"application/grpc")]
_ENCODINGS = (b"grpc-accept-encoding", b"identity,deflate,gzip")
_OK = encode_block([(b"grpc-status", b"0")])

HEADERS = {"identity": encode_block(_GRPC)} | {
    name: encode_block([*_GRPC, (b"grpc-encoding", name.encode())]) for name in ("gzip", "deflate")
}
"""What goes before messages, by their encoding."""


def end_of(code: Code | None, text: str, metadata: Iterable[tuple[str, str]], *, has_headers: bool) -> bytes:
    """What ends an answer.

    Args:
        code: None for OK.
        text: Of the status.
        metadata: Goes with it.
        has_headers: Whether messages went before, with their headers.
    """
    if code is None and has_headers and not metadata:
        return _OK
    fields = [] if has_headers else [*_GRPC, _ENCODINGS]
    status = b"%d" % (0 if code is None else code.number)
    fields += [(b"grpc-status", status), (b"grpc-message", percent_encoded(text).encode())]
    fields += [(name.encode(), value.encode("latin-1", "replace")) for name, value in metadata]
    return encode_block(fields)
