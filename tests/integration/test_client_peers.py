# SPDX-License-Identifier: Apache-2.0
"""The client with servers that do what real ones do at the worst moment, or that are no servers for it at all."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import socket
import ssl
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ovms_mp.client import (
    AsyncClient,
    Cancelled,
    Client,
    ClientError,
    DeadlineExceeded,
    Failed,
    NotSecure,
    Retries,
    Unavailable,
    hpack,
)
from ovms_mp.client.aio_sockets import AioConnection, AioPool
from ovms_mp.client.http2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    MOST_STREAMS,
    frame,
)
from ovms_mp.front.kserve._proto import kserve_pb2
from tests.support.certificates import make_authority, make_certificate
from tests.support.scripted_server import DONE, OK, Http2Peer, ScriptedServer
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

YES = b"\x08\x01"
"""Of ServerLive."""
X = np.zeros((1, 2), np.float32)
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: a close is a reset."""


def answer_all(peer: Http2Peer) -> None:
    peer.greet()
    for stream_id, _ in peer.requests():
        peer.answer(stream_id, YES)


def say_nothing(peer: Http2Peer) -> None:
    peer.greet()
    for _ in peer.frames():
        pass


def ask(how: str, url: str, **options: Any) -> bool:
    """Whether a server says that it is live."""
    if how == "sync":
        with Client(url, **options) as client:
            return client.live()

    async def main() -> bool:
        async with AsyncClient(url, **options) as client:
            return await client.live()

    return asyncio.run(main())


AUTHORITY, STRANGER = make_authority("authority"), make_authority("stranger")


@pytest.fixture(scope="module")
def server_tls(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ssl.SSLContext]:
    directory = tmp_path_factory.mktemp("tls")
    files = make_certificate("server", AUTHORITY).write(directory, "server")
    (directory / "authority").write_bytes(AUTHORITY.chain)

    def make(*protocols: str, asks: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(directory / "authority")
        return context

    return make


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "authority"
    path.write_bytes(AUTHORITY.chain)
    return path


HOW = pytest.mark.parametrize("how", ["sync", "asyncio"])


@HOW
def test_a_certificate_of_a_stranger_ends_the_call_at_once(
    how: str, server_tls: Callable[..., ssl.SSLContext], tmp_path: Path, authority: Path
) -> None:
    stranger = tmp_path / "stranger"
    stranger.write_bytes(STRANGER.chain)
    with ScriptedServer(answer_all, server_tls("h2")) as server:
        with pytest.raises(NotSecure, match="certificate verify failed"):
            ask(how, f"grpcs://127.0.0.1:{server.port}", ca=str(stranger))
        assert server.count == 1
        assert ask(how, f"grpcs://127.0.0.1:{server.port}", ca=str(authority))


@HOW
def test_a_server_that_wants_a_certificate_is_not_asked_again(
    how: str, server_tls: Callable[..., ssl.SSLContext], authority: Path
) -> None:
    """With TLS 1.3 it says so when the client takes the connection for a good one."""
    with ScriptedServer(answer_all, server_tls("h2", asks=True)) as server:
        with pytest.raises(NotSecure, match=r"(?i)certificate.required"):
            ask(how, f"grpcs://127.0.0.1:{server.port}", ca=str(authority))
        assert server.count == 1


@HOW
@pytest.mark.parametrize("protocols", [(), ("http/1.1",)])
def test_grpc_needs_alpn(
    how: str, protocols: tuple[str, ...], server_tls: Callable[..., ssl.SSLContext], authority: Path
) -> None:
    with ScriptedServer(answer_all, server_tls(*protocols)) as server:
        with pytest.raises(NotSecure, match="has not agreed to HTTP/2 by ALPN"):
            ask(how, f"grpcs://127.0.0.1:{server.port}", ca=str(authority))
        assert server.count == 1


@HOW
def test_schemes_that_are_not_the_servers_are_told(
    how: str, server_tls: Callable[..., ssl.SSLContext], authority: Path
) -> None:
    with ScriptedServer(answer_all) as server, pytest.raises(NotSecure):
        ask(how, f"grpcs://127.0.0.1:{server.port}", ca=str(authority))

    def speak_http1(peer: Http2Peer) -> None:
        peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        answer_all(peer)

    with ScriptedServer(speak_http1) as server:
        with pytest.raises(Failed, match="give http:// instead"):
            ask(how, f"grpc://127.0.0.1:{server.port}")
        assert server.count == 1


@HOW
def test_a_server_that_dies_within_an_answer_is_asked_again(how: str) -> None:
    served: list[Http2Peer] = []

    def die_once(peer: Http2Peer) -> None:
        served.append(peer)
        peer.greet()
        for stream_id, _ in peer.requests():
            if len(served) > 1:
                peer.answer(stream_id, YES)
                continue
            peer.say(frame(HEADERS, END_HEADERS, stream_id, OK) + frame(DATA, 0, stream_id, bytes(100))[:20])
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            return

    with ScriptedServer(die_once) as server:
        assert ask(how, f"grpc://127.0.0.1:{server.port}")
        assert server.count == 2
    served.clear()
    with ScriptedServer(die_once) as server, pytest.raises(Unavailable):
        ask(how, f"grpc://127.0.0.1:{server.port}", retries=Retries(most=0))


def test_calls_go_elsewhere_while_a_server_that_goes_away_answers_its_last_one() -> None:
    """Also where there may be one connection only: that one is none any more."""
    held: list[tuple[Http2Peer, int]] = []
    has_begun, may_answer = threading.Event(), threading.Event()

    def go_away_first(peer: Http2Peer) -> None:
        peer.greet()
        for stream_id, _ in peer.requests():
            if held:
                peer.answer(stream_id, YES)
                continue
            held.append((peer, stream_id))
            has_begun.set()
            peer.say(frame(GOAWAY, 0, 0, struct.pack(">II", stream_id, 0)))
            may_answer.wait(20.0)
            peer.answer(stream_id, YES)

    async def main(url: str) -> None:
        async with AsyncClient(url, connections=1) as client:
            first = asyncio.create_task(client.live())
            await asyncio.to_thread(has_begun.wait, 20.0)
            assert await client.live()
            assert not first.done()
            may_answer.set()
            assert await first

    with ScriptedServer(go_away_first) as server:
        asyncio.run(main(f"grpc://127.0.0.1:{server.port}"))
        assert server.count == 2


@HOW
def test_the_time_of_a_call_is_one_for_all_that_it_takes(how: str) -> None:
    """Finding out the input's name took a part of it, and the server is told how much is left."""
    told: list[str] = []
    pause = threading.Event()

    def be_slow(peer: Http2Peer) -> None:
        peer.greet()
        metadata = kserve_pb2.ModelMetadataResponse(name="m")
        metadata.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        for stream_id, headers in peer.requests():
            told.append(headers["grpc-timeout"])
            if headers[":path"].endswith("ModelMetadata"):
                pause.wait(0.4)
                peer.answer(stream_id, metadata.SerializeToString())

    def predict(url: str) -> None:
        if how == "sync":
            with Client(url) as client:
                client.predict("m", X, timeout=1.0)
            return

        async def main() -> None:
            async with AsyncClient(url) as client:
                await client.predict("m", X, timeout=1.0)

        asyncio.run(main())

    with ScriptedServer(be_slow) as server, pytest.raises(DeadlineExceeded):
        predict(f"grpc://127.0.0.1:{server.port}")
    first, second = (int(text.removesuffix("m")) for text in told)
    assert first == 1000
    assert second <= 600


@HOW
def test_a_server_that_does_not_take_the_connection_is_late(how: str) -> None:
    """Nobody accepts, and the queue is full."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(deaf.getsockname())
            with pytest.raises(DeadlineExceeded):
                ask(how, f"grpc://127.0.0.1:{deaf.getsockname()[1]}", timeout=0.3)
        finally:
            for filler in fillers:
                filler.close()


def test_closing_the_client_ends_all_that_was_submitted() -> None:
    with ScriptedServer(say_nothing) as server:
        client = Client(f"grpc://127.0.0.1:{server.port}", connections=4)
        futures = [client.submit("m", {"x": X}) for _ in range(80)]
        client.close()
        done, waiting = concurrent.futures.wait(futures, 20.0)
        assert not waiting
        for future in done:
            assert future.cancelled() or isinstance(future.exception(), ClientError)
        with pytest.raises(Cancelled, match="the client is closed"):
            client.submit("m", {"x": X})


def test_each_of_many_calls_has_an_error_of_its_own() -> None:
    """When their connection ends; they were told apart by the last one's request id."""

    def hang_up(peer: Http2Peer) -> None:
        peer.greet()
        requests = peer.requests()
        for _ in range(5):
            next(requests)

    async def main(url: str) -> list[Any]:
        async with AsyncClient(url, retries=Retries(most=0)) as client:
            calls = [client.predict("m", {"x": X}, request_id=f"number {n}") for n in range(5)]
            return await asyncio.gather(*calls, return_exceptions=True)

    with ScriptedServer(hang_up) as server:
        errors = asyncio.run(main(f"grpc://127.0.0.1:{server.port}"))
    assert [error.request_id for error in errors] == [f"number {n}" for n in range(5)]


def echo(peer: Http2Peer, seen: list[bytes]) -> None:
    """Answer each message of a stream with an empty one, and end it behind the last one."""
    peer.greet()
    for kind, flags, stream_id, payload in peer.frames():
        if kind == HEADERS:
            peer.say(frame(HEADERS, END_HEADERS, stream_id, OK))
        if kind == DATA and payload:
            seen.append(payload)
            answer = kserve_pb2.ModelStreamInferResponse(infer_response={"id": "a"}).SerializeToString()
            peer.say(frame(DATA, 0, stream_id, struct.pack(">BI", 0, len(answer)) + answer))
        if kind == DATA and flags & END_STREAM:
            peer.say(frame(HEADERS, END_HEADERS | END_STREAM, stream_id, DONE))


def streamed(how: str, url: str, requests: Iterable[Any]) -> list[Any]:
    """All answers of a stream."""
    if how == "sync":
        with Client(url) as client:
            return list(client.stream("m", requests))

    async def main() -> list[Any]:
        async with AsyncClient(url) as client:
            return [answer async for answer in client.stream("m", requests)]

    return asyncio.run(main())


@HOW
def test_requests_of_a_stream_are_sent_when_they_are_there(how: str) -> None:
    """And not when there are as many as may be without an answer: a camera's picture would wait for the next ones."""
    seen: list[bytes] = []

    def camera() -> Iterator[dict[str, Any]]:
        yield {"x": X}
        if how == "sync":
            eventually(
                lambda: len(seen) == 1, 20.0, "the first one is there before the second one is asked for"
            )
        yield {"x": X}

    with ScriptedServer(functools.partial(echo, seen=seen)) as server:
        assert streamed(how, f"grpc://127.0.0.1:{server.port}", camera()) == [{}, {}]


def test_closing_the_client_does_not_wait_for_the_next_try() -> None:
    """Which the server wants in ten minutes."""
    asked = threading.Event()
    later = hpack.encode([("grpc-status", "14"), ("grpc-retry-pushback-ms", "600000")])

    def refuse(peer: Http2Peer) -> None:
        peer.greet()
        for stream_id, _ in peer.requests():
            peer.say(frame(HEADERS, END_HEADERS, stream_id, OK))
            peer.say(frame(HEADERS, END_HEADERS | END_STREAM, stream_id, later))
            asked.set()

    with ScriptedServer(refuse) as server, ThreadPoolExecutor(1) as threads:
        client = Client(f"grpc://127.0.0.1:{server.port}", timeout=1000.0)
        future, call = client.submit("m", {"x": X}), threads.submit(client.live)
        pool = client._calls.pool
        eventually(lambda: len(pool._pausing) == 2, 20.0, "both calls wait for their next try")
        client.close()
        for ended in (future, call):
            with pytest.raises(Cancelled, match="the client is closed"):
                ended.result(20.0)


def test_a_client_may_be_closed_by_what_waits_for_its_answer() -> None:
    """Which is called in one of the client's threads."""
    may_end = threading.Event()
    closed: concurrent.futures.Future[None] = concurrent.futures.Future()

    def hang_up(peer: Http2Peer) -> None:
        peer.greet()
        next(peer.requests())
        may_end.wait(20.0)

    def close(_: object) -> None:
        try:
            client.close()
        except RuntimeError as error:
            closed.set_exception(error)
        else:
            closed.set_result(None)

    with ScriptedServer(hang_up) as server:
        client = Client(f"grpc://127.0.0.1:{server.port}", retries=Retries(most=0))
        client.submit("m", {"x": X}).add_done_callback(close)
        may_end.set()
        closed.result(20.0)


def test_those_who_wait_for_a_connection_have_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gives up, and however connections end; but all of them are not woken by each change."""
    count = looks = 0
    with_room = AioPool._with_room

    def counted(pool: AioPool) -> AioConnection | None:
        nonlocal looks
        looks += 1
        return with_room(pool)

    monkeypatch.setattr(AioPool, "_with_room", counted)

    def answer_some(peer: Http2Peer) -> None:
        nonlocal count
        peer.greet({MOST_STREAMS: 2})
        for number, (stream_id, _) in enumerate(peer.requests()):
            peer.answer(stream_id, YES)
            count += 1
            if number == 20:
                return

    async def main(url: str) -> None:
        async with AsyncClient(url, connections=2) as client:
            calls = [asyncio.create_task(client.live(timeout=20.0)) for _ in range(300)]
            await client.live()
            for call in calls[::3]:
                call.cancel()
            found = await asyncio.gather(*calls, return_exceptions=True)
        assert all(value is True or isinstance(value, asyncio.CancelledError) for value in found)
        assert found.count(True) >= 200

    with ScriptedServer(answer_some) as server:
        asyncio.run(main(f"grpc://127.0.0.1:{server.port}"))
    assert count >= 200
    assert looks < 10 * 300
