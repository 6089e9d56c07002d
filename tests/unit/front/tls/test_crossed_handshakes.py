# SPDX-License-Identifier: Apache-2.0
"""Two handshakes at once on one listener of uvloop, which has one context for the callbacks of all its connections."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from ovms_mp.front.tls.handshake import alerting
from ovms_mp.front.tls.handshakes import Handshakes
from ovms_mp.front.tls.reasons import Reason
from tests.support.certificates import make_authority, make_certificate

if TYPE_CHECKING:
    from pathlib import Path

_LIMIT_S = 20.0
_BAD_HELLO = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"
"""A whole record of a whole ClientHello of one octet, which is too short."""


class Echo(asyncio.Protocol):
    """Speaks behind the handshake."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # as all of stream servers

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@pytest.mark.parametrize("honest_first", [False, True])
def test_a_refusal_ends_the_connection_that_it_is_about(tmp_path: Path, honest_first: bool) -> None:
    authority = make_authority("authority")
    files = make_certificate("localhost", authority).write(tmp_path, "server")
    context = alerting(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
    context.load_cert_chain(*files)
    trusting = ssl.create_default_context(cadata=authority.chain.decode())

    async def play() -> None:
        keeper = Handshakes(lambda: context, bytes, 9)
        server = await asyncio.get_running_loop().create_server(
            lambda: keeper.begin(lambda _: Echo()), "127.0.0.1", 0
        )
        port = server.sockets[0].getsockname()[1]
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(server.close)

            async def connected(**tls: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                streams = await asyncio.open_connection("127.0.0.1", port, **tls)
                # uvloop's end waits for connections for ever.
                stack.callback(streams[1].transport.abort)
                return streams

            async def honest() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                return await connected(ssl=trusting, server_hostname="localhost")

            others = [await honest()] if honest_first else []
            reader, writer = await connected()
            writer.write(_BAD_HELLO[:-1])
            # TLS of the refused one has begun when honest ones, which came later, are through.
            others += [await honest(), await honest()]
            writer.write(_BAD_HELLO[-1:])

            assert (await reader.read())[:1] == b"\x15"  # An alert, and then the end.
            assert keeper.refused == {Reason.OTHER: 1}
            for its_reader, its_writer in others:
                its_writer.write(b"still here")
                assert await its_reader.readexactly(10) == b"still here"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(play(), _LIMIT_S))
