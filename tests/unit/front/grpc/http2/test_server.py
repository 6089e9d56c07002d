# SPDX-License-Identifier: Apache-2.0
"""How long a connection's turn lasts. Sockets and time are in the integration tests."""

from __future__ import annotations

import asyncio
import time

import pytest

from ovms_mp.front.grpc.http2.limits import Guard, Limits
from ovms_mp.front.grpc.http2.server import Http2Protocol, Http2Server

MS_NS = 1_000_000


@pytest.mark.parametrize(
    ("connections", "taken_ns", "is_over"),
    [
        (1, MS_NS, False),
        (1, 5 * MS_NS, True),
        (2, MS_NS // 10, False),
        (2, MS_NS, True),
    ],
)
def test_a_turn_is_longer_while_there_is_nobody_else(
    monkeypatch: pytest.MonkeyPatch, connections: int, taken_ns: int, is_over: bool
) -> None:
    async def look() -> bool:
        server = Http2Server({}, Guard(Limits()))
        protocols = [Http2Protocol(server) for _ in range(connections)]
        server.protocols.update(protocols)
        now_ns = time.monotonic_ns()
        protocols[0]._read_ns = now_ns - taken_ns
        with monkeypatch.context() as patch:
            patch.setattr("ovms_mp.front.grpc.http2.server.time.monotonic_ns", lambda: now_ns)
            return protocols[0]._is_over()

    assert asyncio.run(look()) is is_over
