# SPDX-License-Identifier: Apache-2.0
"""Answers are compressed as the client likes it best, and only where it likes it."""

from __future__ import annotations

import asyncio
import zlib

import falcon.testing
import pytest
from falcon.asgi import Request, Response

from ovms_mp.front.rest.compression import compress, preferred


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("x-gzip", "x-gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br, zstd", "gzip"),
        ("deflate, gzip;q=0.8", "deflate"),
        ("GZIP; Q=0.5", "gzip"),
        ("*", "gzip"),
        ("gzip;q=0, *", "deflate"),
        ("gzip;q=0", None),
        ("gzip;q=0, deflate;q=0, *;q=1", None),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip", "gzip"),
        ("br", None),
        ("", None),
        (", ;q=1, gzip;q=often, gzip;q=nan, gzip;q=7", None),
    ],
)
def test_the_coding_that_a_client_likes_best(accepted: str, coding: str | None) -> None:
    assert preferred(accepted) == coding


@pytest.mark.parametrize("length", [2000, 100_000])
@pytest.mark.parametrize(("accepted", "window"), [("gzip", 31), ("deflate", 15)])
def test_what_is_unpacked_is_the_answer(accepted: str, window: int, length: int) -> None:
    body = b"0.125," * (length // 6)
    response = Response()
    response.data = body
    request = Request(
        falcon.testing.create_scope(headers={"Accept-Encoding": accepted}),
        falcon.testing.ASGIRequestEventEmitter(),
    )

    asyncio.run(compress(request, response))

    assert response.data is not None
    assert zlib.decompress(response.data, window) == body
    assert (response.get_header("Content-Encoding"), response.get_header("Vary")) == (
        accepted,
        "Accept-Encoding",
    )
