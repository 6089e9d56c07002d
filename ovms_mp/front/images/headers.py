# SPDX-License-Identifier: Apache-2.0
"""How large an encoded image is, by its first bytes: known before any memory is taken for it.

Formats are those that are decoded, each by its own signature; whatever else a decoder knows is refused here.

PERF: 3 to 10 us an image; 0.7 ms for a MiB of a progressive JPEG, whose scans are counted.
Sources: ITU-T T.81 B.2 (JPEG); w3.org/TR/png; RFC 9649 (WebP); GIF89a; TIFF 6.0; BITMAPINFOHEADER (BMP).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from ovms_mp.errors import MalformedPayload

if TYPE_CHECKING:
    from collections.abc import Callable

FORMATS = "JPEG, PNG, WebP, BMP, GIF and TIFF"
_MOST_SEGMENTS = 4096
"""Of a JPEG before its frame; cameras write some dozen."""
_MOST_ENTRIES = 512
"""Of a TIFF's directory."""
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_SCAN = b"\xff\xda"
"""Of a JPEG: what a scan begins with, and nothing else in coded data."""
_MOST_SCANS = 100
"""Of a progressive JPEG; writers make a dozen. One of 12 octets takes 4 ms of each 4 megapixels to decode."""
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers without a length."""
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_NUMBERS = {3: "H", 4: "I"}


class Size(NamedTuple):
    """What an image's header says."""

    width: int
    height: int


class _Broken(Exception):
    """The header is not what the signature promises."""


def size_of(octets: memoryview) -> Size:
    """The size of an encoded image.

    Args:
        octets: The whole image; format ``B``.

    Raises:
        MalformedPayload: It is of no known format, its header is broken, or it has no pixels.
    """
    if not octets:
        raise MalformedPayload("String val is empty")
    start = bytes(octets[:16])
    for signature, title, read in _READERS:
        if start.startswith(signature):
            try:
                size = read(octets)
            except (_Broken, struct.error, IndexError):
                raise MalformedPayload(
                    f"Image parsing failed: its {title} header is broken or cut off"
                ) from None
            if size.width <= 0 or size.height <= 0:
                raise MalformedPayload(
                    f"Image parsing failed: its {title} header says {size.width}x{size.height}"
                )
            return size
    raise MalformedPayload(
        f"Image parsing failed: {len(octets)} bytes that begin with {start!r} are no image of a known format; known "
        f"are {FORMATS}"
    )


def _jpeg(octets: memoryview) -> Size:
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if octets[at] != 0xFF:
            raise _Broken
        while octets[at] == 0xFF:  # Any number of them may precede a marker's code.
            at += 1
        marker = octets[at]
        at += 1
        if marker in _JPEG_ALONE:
            continue
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", octets, at + 3)
            if marker in _JPEG_PROGRESSIVE and bytes(octets[at:]).count(_SCAN) > _MOST_SCANS:
                raise MalformedPayload(
                    f"Image parsing failed: it is a progressive JPEG of more than {_MOST_SCANS} scans"
                )
            return Size(width, height)
        (length,) = struct.unpack_from(">H", octets, at)
        if length < 2 or marker == 0xDA:
            raise _Broken
        at += length
    raise _Broken


def _png(octets: memoryview) -> Size:
    if bytes(octets[12:16]) != b"IHDR":
        raise _Broken
    return Size(*struct.unpack_from(">II", octets, 16))


def _webp(octets: memoryview) -> Size:
    kind = bytes(octets[12:16])
    if bytes(octets[8:12]) != b"WEBP":
        raise _Broken
    if kind == b"VP8X":
        width, height = (int.from_bytes(octets[at : at + 3], "little") for at in (24, 27))
        if len(octets) < 30:
            raise _Broken
        return Size(width + 1, height + 1)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", octets, 21)
        return Size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    width, height = struct.unpack_from("<HH", octets, 26)
    return Size(width & 0x3FFF, height & 0x3FFF)


def _bmp(octets: memoryview) -> Size:
    (header_bytes,) = struct.unpack_from("<I", octets, 14)
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", octets, 18)
    return Size(width, abs(height))


def _gif(octets: memoryview) -> Size:
    return Size(*struct.unpack_from("<HH", octets, 6))


def _tiff(octets: memoryview) -> Size:
    order = "<" if octets[0] == ord("I") else ">"
    (at,) = struct.unpack_from(order + "I", octets, 4)
    (count,) = struct.unpack_from(order + "H", octets, at)
    found: dict[int, int] = {}
    for index in range(min(count, _MOST_ENTRIES)):
        entry = at + 2 + 12 * index
        tag, kind = struct.unpack_from(order + "HH", octets, entry)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT) and kind in _TIFF_NUMBERS and tag not in found:
            (found[tag],) = struct.unpack_from(order + _TIFF_NUMBERS[kind], octets, entry + 8)
    if len(found) != 2:
        raise _Broken
    return Size(found[_TIFF_WIDTH], found[_TIFF_HEIGHT])


_READERS: tuple[tuple[bytes, str, Callable[[memoryview], Size]], ...] = (
    (b"\xff\xd8", "JPEG", _jpeg),
    (b"\x89PNG\r\n\x1a\n", "PNG", _png),
    (b"RIFF", "WebP", _webp),
    (b"GIF87a", "GIF", _gif),
    (b"GIF89a", "GIF", _gif),
    (b"BM", "BMP", _bmp),
    (b"II*\0", "TIFF", _tiff),
    (b"MM\0*", "TIFF", _tiff),
)
