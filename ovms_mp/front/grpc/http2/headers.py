# SPDX-License-Identifier: Apache-2.0
"""Header blocks: HPACK in and out, and what makes a request malformed (RFC 9113, 8.1 to 8.3; RFC 7541).

Decoding is the ``hpack`` library. What we send never uses the dynamic table, so it can be encoded once for all.
"""

import functools
import re
from collections.abc import Iterable, Sequence

from hpack import Decoder, Encoder, HPACKError, OversizedHeaderListError

from ovms_mp.front.grpc.http2.frames import ErrorCode, Fault, StreamFault, require
from ovms_mp.front.grpc.http2.limits import Hit

Fields = Sequence[tuple[bytes, bytes]]
_CACHED_BLOCKS, _LONGEST_CACHED_BLOCK, _LONGEST_LENGTH = 64, 4096, 18
_MOST_SIZE_UPDATES = 2  # In a block: the least size since the last one, then the final one (RFC 7541, 4.2).
_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
_HTTP_1 = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
_is_name = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_is_value = re.compile(rb"(?:[^\0\r\n\t ](?:[^\0\r\n]*[^\0\r\n\t ])?)?").fullmatch
_encoder = Encoder()
_require = functools.partial(require, code=ErrorCode.PROTOCOL_ERROR, fault=StreamFault)


class RequestHead:
    """A decoded block, and by ``validate`` a valid request. Blocks of equal octets share it: nobody changes it."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields  # After validation those that are no pseudo headers.
        self.nbytes = sum(len(name) + len(value) + 32 for name, value in fields)  # As SETTINGS count.
        self.method = self.path = self.authority = b""  # The path is empty for CONNECT.
        self.content_length = -1  # Or what was declared.
        self.memo: object = None  # What the layer above has made of it.

    def validate(self) -> None:
        """Become a request, once; or raise the fault of a malformed one (8.1.1)."""
        if self.method:
            return
        pseudo: dict[bytes, bytes] = {}
        regular: list[tuple[bytes, bytes]] = []
        for name, value in self.fields:
            if name[:1] != b":":
                regular.append((name, value))
            else:
                is_first = name in _PSEUDO and name not in pseudo and not regular
                _require(is_first and _is_value(value) is not None, text="a wrong pseudo header")
                pseudo[name] = value
        check_fields(regular)
        lengths = {value for name, value in regular if name == b"content-length"}
        is_length = len(lengths) < 2 and all(v.isdigit() and len(v) <= _LONGEST_LENGTH for v in lengths)
        _require(is_length, text="content-length is no number, or two")
        hosts = {value for name, value in regular if name == b"host"} | {pseudo.get(b":authority", b"")}
        _require(len(hosts - {b""}) < 2, text="host differs from :authority")
        method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
        if method == b"CONNECT":
            is_complete = b":scheme" not in pseudo and b":path" not in pseudo and any(hosts)
        else:
            has_path = path[:1] == b"/" or (method, path) == (b"OPTIONS", b"*")
            is_complete = bool(method and pseudo.get(b":scheme") and has_path)
        _require(is_complete, text="a pseudo header is missing, or one too many")
        self.fields, self.method, self.path, self.authority = regular, method, path, max(hosts)
        self.content_length = int(lengths.pop()) if lengths else -1


def check_fields(fields: Fields) -> None:
    """Raise a fault for what no field but a pseudo header may be (8.2.1 and 8.2.2)."""
    for name, value in fields:
        _require(bool(_is_name(name) and _is_value(value)), text="a character that no field may have")
        is_http_1 = name in _HTTP_1 or (name == b"te" and value != b"trailers")
        _require(not is_http_1, text="a field of HTTP/1.1 connections")


class BlockDecoder:
    """Decodes the blocks of one connection.

    PERF: most blocks of a client equal an earlier one (8 fields: 17 us decoded, 0.1 us remembered). One is remembered
    if decoding it changed nothing in the table, until something does: as long as that is the same, so is its meaning.
    """

    def __init__(self, hard_limit_bytes: int) -> None:
        self._decoder = Decoder(max_header_list_size=hard_limit_bytes)
        self._table = self._decoder.header_table.dynamic_entries
        self._known: dict[bytes, RequestHead] = {}

    def decode(self, block: bytes) -> RequestHead:
        """Decode a block, or raise a Fault; each one must pass here, in order, wanted or not (RFC 9113, 4.3)."""
        known = self._known.get(block)
        if known is not None:
            return known
        is_resized = _is_size_update(block, 0)
        if is_resized:
            _check_size_updates(block)
        newest = self._table[0] if self._table else None
        try:
            decoded = RequestHead(list(self._decoder.decode(block, raw=True)))
        except HPACKError as error:
            is_large = isinstance(error, OversizedHeaderListError)
            code = ErrorCode.ENHANCE_YOUR_CALM if is_large else ErrorCode.COMPRESSION_ERROR
            raise Fault(code, "undecodable headers", Hit.HEADER_LIST if is_large else Hit.PROTOCOL) from None
        # An insertion puts a new tuple first or clears the table; a size update, which may evict, is possible only at
        # the start of a block: the library refuses it elsewhere (RFC 7541, 2.3.2, 4.2 and 4.4).
        has_changed = is_resized or (self._table[0] if self._table else None) is not newest
        if has_changed or len(self._known) >= _CACHED_BLOCKS:
            self._known.clear()
        if not has_changed and len(block) <= _LONGEST_CACHED_BLOCK:
            self._known[block] = decoded
        return decoded


def _is_size_update(block: bytes, position: int) -> bool:
    """Whether the octet begins a dynamic table size update, 001xxxxx (RFC 7541, 6.3)."""
    return block[position : position + 1] >= b"\x20" and block[position] < 0x40


def _check_size_updates(block: bytes) -> None:
    """Refuse a block with more size updates than any encoder needs. The library takes a block full of them."""
    position = count = 0
    while _is_size_update(block, position):
        count += 1
        is_allowed = count <= _MOST_SIZE_UPDATES
        require(is_allowed, ErrorCode.COMPRESSION_ERROR, "too many table size updates in a header block")
        is_long = block[position] & 0x1F == 0x1F
        position += 1
        while is_long and position < len(
            block
        ):  # Further octets of the number: all but the last have the top bit.
            is_long = block[position] >= 0x80
            position += 1


def encode_block(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A header block that neither needs nor changes a dynamic table: literals are 'never indexed'."""
    return _encoder.encode([(name, value, True) for name, value in fields], huffman=False)
