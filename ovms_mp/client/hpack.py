# SPDX-License-Identifier: Apache-2.0
"""Header compression of HTTP/2 without a dynamic table, which a client announces to need none (RFC 7541).

What is sent are literals. What comes may be Huffman-coded and have indices of the static table, nothing else; so what
a block means depends on nothing but its octets, and those that come again are remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from ovms_mp.client.errors import Failed, unreadable

_STATIC = (
    ":authority|:method=GET|:method=POST|:path=/|:path=/index.html|:scheme=http|:scheme=https|:status=200|"
    ":status=204|:status=206|:status=304|:status=400|:status=404|:status=500|accept-charset|"
    "accept-encoding=gzip, deflate|accept-language|accept-ranges|accept|access-control-allow-origin|age|allow|"
    "authorization|cache-control|content-disposition|content-encoding|content-language|content-length|"
    "content-location|content-range|content-type|cookie|date|etag|expect|expires|from|host|if-match|"
    "if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|link|location|max-forwards|"
    "proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after|server|set-cookie|"
    "strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate"
)
"""RFC 7541, appendix A."""
_TABLE = tuple((name, value) for name, _, value in (entry.partition("=") for entry in _STATIC.split("|")))
_CODE_LENGTHS = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b080606060505050606060606"
    "060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e060f050605060506060605070706060605"
    "06070605050607070707070f0b0e0d1c141614141616161716171717171718171818161718171717171516171617171816151416161717151716"
    "161815161717151516151716171714161616171616171a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b141814"
    "15161515171616191918181a171a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)
"""RFC 7541, appendix B: how long each octet's code is, and that of the end. The codes follow, as they are canonical."""
_LONGEST_PADDING = 7
_MOST_KEPT = 64
_LONGEST_KEPT = 4096
_MOST_HEADER_BYTES = 64 << 10
_ENTRY_BYTES = 32
"""What a field counts for besides its octets (4.1)."""
_LONGEST_INTEGER = 5
_NEVER_INDEXED = 0x10


def _huffman_codes() -> Mapping[tuple[int, int], int]:
    """Symbols by the length and the value of their codes."""
    codes: dict[tuple[int, int], int] = {}
    code = length = 0
    for symbol in sorted(range(len(_CODE_LENGTHS)), key=lambda symbol: (_CODE_LENGTHS[symbol], symbol)):
        code <<= _CODE_LENGTHS[symbol] - length
        length = _CODE_LENGTHS[symbol]
        codes[length, code] = symbol
        code += 1
    return codes


_huffman: Mapping[tuple[int, int], int] = MappingProxyType({})


def encode(headers: Iterable[tuple[str, str]]) -> bytes:
    """A block of literals that no table may keep."""
    octets = bytearray()
    for name, value in headers:
        octets.append(_NEVER_INDEXED)
        for text in (name.encode("ascii"), value.encode("utf-8")):
            octets += _integer(len(text), 7)
            octets += text
    return bytes(octets)


def _integer(number: int, bits: int) -> bytes:
    most = (1 << bits) - 1
    if number < most:
        return bytes((number,))
    octets = bytearray((most,))
    number -= most
    while number >= 0x80:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)


class BlockDecoder:
    """Decodes the blocks of a connection. PERF: one that is known takes 0.1 us."""

    def __init__(self) -> None:
        self._known: dict[bytes, Mapping[str, str]] = {}

    def decode(self, block: bytes) -> Mapping[str, str]:
        """The fields of a block by name; values of the same name with commas between them.

        Raises:
            Failed: It cannot be decoded.
        """
        known = self._known.get(block)
        if known is None:
            known = MappingProxyType(_decode(block))
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            if len(block) <= _LONGEST_KEPT:
                self._known[block] = known
        return known


def _decode(block: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    at = nbytes = 0
    while at < len(block):
        first = block[at]
        if first & 0x80:
            index, at = _read_integer(block, at, 7)
            name, value = _entry(index)
        elif first & 0xE0 == 0x20:
            size, at = _read_integer(block, at, 5)
            if size:
                raise _wrong("a dynamic table")
            continue
        else:
            # With or without indexing is the same, as a table of no size keeps nothing (4.4).
            index, at = _read_integer(block, at, 6 if first & 0x40 else 4)
            name = _entry(index)[0] if index else ""
            if not index:
                name, at = _read_string(block, at)
            value, at = _read_string(block, at)
        nbytes += len(name) + len(value) + _ENTRY_BYTES
        if nbytes > _MOST_HEADER_BYTES:
            raise _wrong(f"headers of more than {_MOST_HEADER_BYTES} bytes")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def _wrong(what: str) -> Failed:
    return unreadable(f"{what} in a header block")


def _entry(index: int) -> tuple[str, str]:
    if not 0 < index <= len(_TABLE):
        raise _wrong(f"the index {index}")
    return _TABLE[index - 1]


def _read_integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    most = (1 << bits) - 1
    number = block[at] & most
    at += 1
    if number < most:
        return number, at
    for shift in range(0, 7 * _LONGEST_INTEGER, 7):
        if at >= len(block):
            break
        octet = block[at]
        at += 1
        number += (octet & 0x7F) << shift
        if octet < 0x80:
            return number, at
    raise _wrong("a number that does not end")


def _read_string(block: bytes, at: int) -> tuple[str, int]:
    if at >= len(block):
        raise _wrong("the end where a string should be")
    is_huffman = block[at] & 0x80
    length, at = _read_integer(block, at, 7)
    if length > _MOST_HEADER_BYTES:
        raise _wrong(f"a string of {length} bytes")
    octets = block[at : at + length]
    if len(octets) < length:
        raise _wrong("the end within a string")
    return (_huffman_decoded(octets) if is_huffman else octets).decode("utf-8", "replace"), at + length


def _huffman_decoded(octets: bytes) -> bytes:
    global _huffman  # made when it is needed first, as most servers never send any
    if not _huffman:
        _huffman = _huffman_codes()
    decoded = bytearray()
    code = length = 0
    for octet in octets:
        for bit in range(7, -1, -1):
            code = code << 1 | octet >> bit & 1
            length += 1
            symbol = _huffman.get((length, code))
            if symbol is not None:
                if symbol == len(_CODE_LENGTHS) - 1:
                    raise _wrong("an end within a string")
                decoded.append(symbol)
                code = length = 0
    if length > _LONGEST_PADDING or code != (1 << length) - 1:
        raise _wrong("a string that ends within a code")
    return bytes(decoded)
