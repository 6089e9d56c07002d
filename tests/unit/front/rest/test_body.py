# SPDX-License-Identifier: Apache-2.0
"""Compressed bodies on REST: the words of a refusal. What is unpacked is held by the tests of ``inflate``."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pytest

from ovms_mp.errors import MalformedPayload, RequestTooLarge
from ovms_mp.front.budget import BodyBudget
from ovms_mp.front.rest.body import unpack

TEXT = b'{"instances": [[1, 2, 3]]}' * 100
MIB = 1 << 20


def unpacked(packed: bytes, limit: int) -> bytes:
    with BodyBudget(MIB).share() as share:
        return bytes(asyncio.run(unpack(packed, "gzip", limit, share)))


def test_what_was_packed_comes_out() -> None:
    assert unpacked(gzip.compress(TEXT), MIB) == TEXT


def test_the_limit_is_for_what_comes_out() -> None:
    with pytest.raises(RequestTooLarge, match="--max_unpacked_mb"):
        unpacked(gzip.compress(TEXT), len(TEXT) - 1)


@pytest.mark.parametrize("packed", [b"", TEXT, zlib.compress(TEXT), gzip.compress(TEXT, mtime=0)[:-1]])
def test_what_is_not_gzip_is_refused(packed: bytes) -> None:
    with pytest.raises(MalformedPayload, match="the body is not what Content-Encoding gzip says"):
        unpacked(packed, MIB)
