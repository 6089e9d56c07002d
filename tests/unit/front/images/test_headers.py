# SPDX-License-Identifier: Apache-2.0
"""Sizes of encoded images, by headers written by hand: no decoder is needed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_mp.errors import MalformedPayload
from ovms_mp.front.images.headers import Size, size_of

JPEG_HEAD = b"\xff\xd8\xff\xe0\0\x04ab"
FRAME = b"\xff\xc0\0\x11\x08" + struct.pack(">HH", 300, 200) + bytes(10)
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + struct.pack(">II", 200, 300) + bytes(5)
TIFF_ENTRIES = struct.pack("<HHHIIHHII", 2, 256, 3, 1, 200, 257, 4, 1, 300)
GOOD = {
    "jpeg": JPEG_HEAD + FRAME,
    "progressive jpeg": JPEG_HEAD + FRAME.replace(b"\xc0", b"\xc2", 1),
    "jpeg with filling": b"\xff\xd8\xff\xff\xff\xe1\0\x02" + FRAME,
    "png": PNG,
    "gif": b"GIF89a" + struct.pack("<HH", 200, 300),
    "bmp": b"BM" + bytes(12) + struct.pack("<Iii", 40, 200, -300),
    "old bmp": b"BM" + bytes(12) + struct.pack("<IHH", 12, 200, 300),
    "webp": b"RIFF\0\0\0\0WEBPVP8 " + bytes(10) + struct.pack("<HH", 200, 300),
    "lossless webp": b"RIFF\0\0\0\0WEBPVP8L" + bytes(5) + struct.pack("<I", 199 | 299 << 14),
    "extended webp": b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + b"\xc7\0\0\x2b\x01\0",
    "tiff": b"II*\0\x08\0\0\0" + TIFF_ENTRIES,
}


@pytest.mark.parametrize("what", GOOD)
def test_sizes(what: str) -> None:
    assert size_of(memoryview(GOOD[what])) == Size(200, 300)


@pytest.mark.parametrize("what", GOOD)
def test_a_header_that_is_cut_off_is_refused(what: str) -> None:
    whole = GOOD[what]
    needed = next(length for length in range(len(whole), 0, -1) if not _is_read(whole[:length]))
    for length in range(needed + 1):
        assert not _is_read(whole[:length])


@pytest.mark.parametrize("content", [b"", b"text", b"<svg/>", b"%PDF", b"\xff\xd8" + b"\xff\xe0\0\2" * 5000])
def test_what_is_no_image_is_refused(content: bytes) -> None:
    with pytest.raises(MalformedPayload):
        size_of(memoryview(content))


@given(st.sampled_from(list(GOOD.values())), st.integers(0, 60), st.binary(max_size=8))
def test_any_octets_have_a_size_or_an_error(whole: bytes, at: int, other: bytes) -> None:
    _is_read(whole[:at] + other + whole[at + len(other) :])


def _is_read(content: bytes) -> bool:
    try:
        size = size_of(memoryview(content))
    except MalformedPayload:
        return False
    return size.width > 0 and size.height > 0


@pytest.mark.parametrize("marker", [b"\xc0", b"\xc2", b"\xca"])
def test_a_progressive_jpeg_has_some_scans_and_not_thousands(marker: bytes) -> None:
    """A scan of few octets goes over the whole image."""
    start, scan = JPEG_HEAD + FRAME.replace(b"\xc0", marker, 1), b"\xff\xda\0\x08\x01\x01\0\x01\x01\0\x7f\xff"
    assert size_of(memoryview(start + 100 * scan)) == Size(200, 300)
    if marker == b"\xc0":
        assert size_of(memoryview(start + 101 * scan)) == Size(200, 300), (
            "which has one scan, or codes each block"
        )
        return
    with pytest.raises(MalformedPayload, match="more than 100 scans"):
        size_of(memoryview(start + 101 * scan))
