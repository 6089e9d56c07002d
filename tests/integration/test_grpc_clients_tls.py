# SPDX-License-Identifier: Apache-2.0
"""Clients of our HTTP/2 server over TLS, with every kind of method; the server runs in a thread of this process."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import uvloop

from ovms_mp.front.grpc.http2.limits import Guard, Limits
from ovms_mp.front.grpc.http2.server import Http2Server
from ovms_mp.front.methods import Streaming, Unary
from tests.support import grpc_js
from tests.support.grpc_js import JsClient
from tests.support.tls import handshakes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.grpc.http2.call import Call

DEADLINE_S = 20.0
LARGE = bytes(range(256)) * 8192


async def echo(request: bytes, _context: CallContext) -> bytes:
    return bytes(request)


async def count(call: Call, _context: CallContext) -> None:
    """As many messages as the one request says."""
    async for request in call:
        for number in range(int(request)):
            await call.send(b"%d" % number)


async def flood(call: Call, _context: CallContext) -> None:
    """Messages until nobody wants them any more."""
    while True:
        await call.send(bytes(1000))


async def total(call: Call, _context: CallContext) -> None:
    """One message: the length of all requests."""
    nbytes = 0
    async for request in call:
        nbytes += len(request)
    await call.send(b"%d" % nbytes)


async def talk(call: Call, _context: CallContext) -> None:
    """A message for each request."""
    async for request in call:
        await call.send(request[::-1])


METHODS: dict[str, Unary | Streaming] = {
    "/s/Echo": Unary("/s/Echo", echo),
    "/s/Count": Streaming("/s/Count", count),
    "/s/Flood": Streaming("/s/Flood", flood),
    "/s/Total": Streaming("/s/Total", total),
    "/s/Talk": Streaming("/s/Talk", talk),
}


@dataclass(frozen=True)
class Endpoint:
    """Where the server is and how it is trusted; no certificate without TLS."""

    port: int
    certificate: Path | None

    def channel(self) -> Any:  # Any: grpc's stubs want serializers where raw bytes need none.
        """A sync client's."""
        options = [("grpc.max_receive_message_length", -1)]
        if self.certificate is None:
            return grpc.insecure_channel(f"localhost:{self.port}", options)
        credentials = grpc.ssl_channel_credentials(self.certificate.read_bytes())
        return grpc.secure_channel(f"localhost:{self.port}", credentials, options)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of localhost, signed by itself; the key is beside it as ``key.pem``."""
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    subprocess.run(
        ["/usr/bin/env", "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", str(path.with_name("key.pem")), "-out", str(path)],
        check=True, capture_output=True, timeout=DEADLINE_S,
    )  # fmt: skip
    return path


@pytest.fixture(scope="module", params=[True, False], ids=["TLS", "plain"])
def endpoint(request: pytest.FixtureRequest, certificate: Path) -> Iterator[Endpoint]:
    """A server on a loop of its own."""
    context = None
    if request.param:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_name("key.pem"))
        context.set_alpn_protocols(["h2"])
    guard = Guard(Limits())
    server = Http2Server(METHODS, guard, handshakes(context))
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(["127.0.0.1:0"]), loop).result(DEADLINE_S)
        found = Endpoint(server.ports[0], certificate if request.param else None)
        with found.channel() as channel:
            # What grpcio opens once for a process is in every test's ledger from the beginning.
            channel.unary_unary("/s/Echo")(b"", timeout=DEADLINE_S)
        yield found
        asyncio.run_coroutine_threadsafe(server.stop(1), loop).result(DEADLINE_S)
        assert guard.held_bytes == 0
        assert not server.protocols
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE_S)
        loop.close()


@pytest.mark.parametrize("size", [0, 1, 70_000, len(LARGE)])
@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip], ids=["plain", "gzip"])
def test_unary(endpoint: Endpoint, size: int, compression: grpc.Compression | None) -> None:
    with endpoint.channel() as channel:
        ask = channel.unary_unary("/s/Echo")
        assert ask(LARGE[:size], timeout=DEADLINE_S, compression=compression) == LARGE[:size]


def test_answers_beyond_every_window(endpoint: Endpoint) -> None:
    """40 MiB each way, twice: C-core offers frames and windows of many MiB, more than we let wait for a socket."""
    request = LARGE * 20
    with endpoint.channel() as channel:
        ask = channel.unary_unary("/s/Echo")
        for _ in range(2):
            assert ask(request, timeout=DEADLINE_S) == request


def test_server_streaming(endpoint: Endpoint) -> None:
    with endpoint.channel() as channel:
        answers = list(channel.unary_stream("/s/Count")(b"500", timeout=DEADLINE_S))
    assert answers == [b"%d" % number for number in range(500)]


def test_client_streaming(endpoint: Endpoint) -> None:
    pieces = [LARGE[: number * 10_000] for number in range(30)]
    with endpoint.channel() as channel:
        answer = channel.stream_unary("/s/Total")(iter(pieces), timeout=DEADLINE_S)
    assert int(answer) == sum(map(len, pieces))


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip], ids=["plain", "gzip"])
def test_bidirectional_streaming(endpoint: Endpoint, compression: grpc.Compression | None) -> None:
    """Each answer is read before the next request is sent."""
    turn = threading.Semaphore(1)
    sent = [b"%d" % number * (1 + number * 500) for number in range(40)]

    def requests() -> Iterator[bytes]:
        for request in sent:
            assert turn.acquire(timeout=DEADLINE_S)
            yield request

    with endpoint.channel() as channel:
        found = []
        for answer in channel.stream_stream("/s/Talk")(
            requests(), timeout=DEADLINE_S, compression=compression
        ):
            found.append(answer)
            turn.release()
    assert found == [request[::-1] for request in sent]


def test_a_stream_that_is_given_up(endpoint: Endpoint) -> None:
    """The handler of endless answers ends with the call; the connection goes on."""
    with endpoint.channel() as channel:
        answers = channel.unary_stream("/s/Flood")(b"", timeout=DEADLINE_S)
        assert [next(answers) for _ in range(10)] == [bytes(1000)] * 10
        answers.cancel()
        assert channel.unary_unary("/s/Echo")(b"x", timeout=DEADLINE_S) == b"x"


def test_grpc_js(endpoint: Endpoint, clients_cache: Path) -> None:
    more: dict[str, Any] = {} if endpoint.certificate is None else {"ca": str(endpoint.certificate)}
    sent = [b"%d" % number * (1 + number * 500) for number in range(40)]
    with JsClient(grpc_js.install(clients_cache)) as js:
        assert js.ask(endpoint.port, "/s/Echo", LARGE, **more)[2] == [LARGE]
        js.start(endpoint.port, "/s/Talk", sent, is_streaming=True, **more)
        code, _, answers = js.wait()
    assert code == grpc.StatusCode.OK
    assert answers == [request[::-1] for request in sent]


def test_a_client_that_does_not_trust_us(endpoint: Endpoint) -> None:
    """Or that speaks without TLS where it is due, or with it where not."""
    if endpoint.certificate is None:
        stranger: Any = grpc.secure_channel(f"localhost:{endpoint.port}", grpc.ssl_channel_credentials())
    else:
        stranger = grpc.insecure_channel(f"localhost:{endpoint.port}")
    with stranger, pytest.raises(grpc.RpcError) as caught:
        stranger.unary_unary("/s/Echo")(b"", timeout=DEADLINE_S)
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.UNAVAILABLE
