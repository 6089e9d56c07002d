# SPDX-License-Identifier: Apache-2.0
"""Compressed bodies: what is unpacked, what is refused, and that a small one cannot become a large one."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest

from ovms_mp.errors import MalformedPayload, RequestTooLarge
from ovms_mp.front.rest.body import unpack_gzip

TEXT = b'{"instances": [[1, 2, 3]]}' * 100
MIB = 1 << 20


@pytest.mark.parametrize("text", [b"", b"x", TEXT, bytes(100_000)])
def test_what_was_packed_comes_out(text: bytes) -> None:
    assert unpack_gzip(gzip.compress(text), MIB) == text


def test_members_in_a_row_are_one() -> None:
    assert unpack_gzip(gzip.compress(b"abc") + gzip.compress(b"") + gzip.compress(b"def"), 6) == b"abcdef"


def test_the_limit_is_for_what_comes_out() -> None:
    packed = gzip.compress(TEXT)

    assert unpack_gzip(packed, len(TEXT)) == TEXT
    with pytest.raises(RequestTooLarge) as caught:
        unpack_gzip(packed, len(TEXT) - 1)
    assert caught.value.message == (
        f"body of more than {len(TEXT) - 1} bytes once unpacked is longer than the limit of {len(TEXT) - 1} "
        f"(--max_message_mb)"
    )
    with pytest.raises(RequestTooLarge):
        unpack_gzip(gzip.compress(TEXT) + gzip.compress(b"x"), len(TEXT))


def test_no_more_than_the_limit_is_held() -> None:
    bomb = gzip.compress(bytes(64 * MIB))
    tracemalloc.start()
    try:
        with pytest.raises(RequestTooLarge):
            unpack_gzip(bomb, MIB)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        TEXT,
        zlib.compress(TEXT),
        gzip.compress(TEXT)[:-1],
        gzip.compress(TEXT)[:-8] + bytes(8),
        gzip.compress(TEXT) + b"junk",
    ],
    ids=["nothing", "not packed", "zlib", "cut off", "wrong checksum", "junk behind it"],
)
def test_what_is_not_gzip_is_refused(packed: bytes) -> None:
    with pytest.raises(MalformedPayload, match="the body is not what Content-Encoding gzip says"):
        unpack_gzip(packed, MIB)
