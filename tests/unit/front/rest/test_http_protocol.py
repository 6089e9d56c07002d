# SPDX-License-Identifier: Apache-2.0
"""The REST protocol on a played transport: heads, offers of other protocols, and how connections end."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from ovms_mp.front.budget import BodyBudget
from ovms_mp.front.rest.connections import Connections
from ovms_mp.front.rest.http_protocol import RestProtocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

CLOSED, ESTABLISHED = b"\x07", b"\x01"
HOST = b"Host: a\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
WEBSOCKET = b"Upgrade: websocket\r\nConnection: keep-alive, upgrade\r\nSec-WebSocket-Version: 13\r\n"
CLOSING = b"Upgrade: h2c\r\nConnection: close, Upgrade\r\n"


class PlayedTransport(asyncio.Transport):
    """Keeps what is written; ``state`` is what the system says of the connection."""

    family = socket.AF_INET

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.ended = ""
        self.has_written_eof = False
        self.state = ESTABLISHED
        self.socket: Any = self

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.socket if name == "socket" else default

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 1

    getpeername = getsockname

    def getsockopt(self, *_: int) -> bytes:
        return self.state

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return bool(self.ended)

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_written_eof = True

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = self.ended or "aborted"


class Connection:
    """A client's connection to an application that answers with method, path and body, when it may."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.cancelled = 0
        config = uvicorn.Config(
            self._app, loop="asyncio", interface="asgi3", lifespan="off", ws="none", log_config=None
        )
        config.load()
        self.group = Connections(BodyBudget(1 << 20), 60.0, 100)
        self.protocol = RestProtocol(
            config=config, server_state=ServerState(), app_state={"connections": self.group}
        )
        self.transport = PlayedTransport()
        self.protocol.connection_made(self.transport)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        try:
            while scope["path"] != "/early":
                event = await receive()
                if event["type"] == "http.disconnect":
                    return
                body += event["body"]
                if not event["more_body"]:
                    break
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        text = f"<{scope['method']} {scope['path']} ".encode() + body + b">"
        length = (b"content-length", str(len(text)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": text})

    async def send(self, *pieces: bytes) -> None:
        """Send octets, and let all happen that may."""
        for piece in pieces:
            self.protocol.data_received(piece)
            await self.settle()

    async def end(self) -> bool:
        """Send no more; whether the connection is kept."""
        is_kept = bool(self.protocol.eof_received())
        await self.settle()
        if not is_kept:
            self.transport.close()
        return is_kept

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    def answers(self) -> list[tuple[int, bytes]]:
        """Status and body of each answer."""
        found = []
        rest = self.transport.written
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            length = next(
                int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length")
            )
            found.append((int(head.split()[1]), rest[:length]))
            rest = rest[length:]
        return found


def play(story: Callable[[Connection], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(10):
            await story(Connection())

    asyncio.run(run())


def post(*fields: bytes, body: bytes = b"{}", path: bytes = b"/p", host: bytes = HOST) -> bytes:
    head = b"POST " + path + b" HTTP/1.1\r\n" + host + b"".join(fields)
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(*fields: bytes) -> bytes:
    head = b"POST /p HTTP/1.1\r\n" + HOST + b"".join(fields)
    return head + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"


GET = b"GET /g HTTP/1.1\r\n" + HOST + b"\r\n"
ANSWER = (200, b"<POST /p {}>")
GOT = (200, b"<GET /g >")


# Offers of other protocols.


@pytest.mark.parametrize("offer", [H2C, WEBSOCKET, b"Connection: upgrade\r\nUpgrade: TLS/1.0, h2c\r\n"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_an_offer_is_declined_and_its_request_answered(offer: bytes, size: int) -> None:
    octets = post(offer) + chunked(offer) + GET.replace(HOST, HOST + offer) * 2 + post()

    async def story(client: Connection) -> None:
        await client.send(*(octets[start : start + size] for start in range(0, len(octets), size)))
        assert client.answers() == [ANSWER, ANSWER, GOT, GOT, ANSWER]
        assert not client.transport.ended
        assert not client.group.counts

    play(story)


def test_an_offer_with_a_go_ahead_or_a_close_keeps_them() -> None:
    async def story(client: Connection) -> None:
        await client.send(post(CLOSING, b"Expect: 100-continue\r\n")[:-2])
        go_ahead = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert client.transport.written == go_ahead
        await client.send(b"{}")
        client.transport.written = client.transport.written.removeprefix(go_ahead)
        assert client.answers() == [ANSWER]
        assert client.transport.ended == "closed"

    play(story)


def test_an_offer_that_is_refused_for_what_follows() -> None:
    async def story(client: Connection) -> None:
        await client.send(post(H2C) + chunked(H2C).replace(b": chunked", b": gzip, chunked"))
        assert [status for status, _ in client.answers()] == [200, 501]

    play(story)


@pytest.mark.parametrize("body", [b"", b"x" * 50])
def test_connect_is_refused(body: bytes) -> None:
    async def story(client: Connection) -> None:
        await client.send(b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n" + body)
        assert [status for status, _ in client.answers()] == [400]

    play(story)


# Heads.


@pytest.mark.parametrize(
    ("octets", "statuses"),
    [
        (post(host=b""), [400]),
        (post(host=HOST * 2), [400]),
        (post(host=b"host: a\r\nHOST: b\r\n"), [400]),
        (GET + post(host=b""), [200, 400]),
        (post(host=b"Host:\r\n"), [200]),
        (b"GET /g HTTP/1.0\r\n\r\n", [200]),
        (b"GET /g HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", [400]),
        (chunked()[:-2] + b"Host: b\r\n\r\n" + GET, [200, 200]),
        (chunked()[:-2] + b"Connection: close\r\n\r\n" + GET, [400]),
        (chunked()[:-2] + b"connection: x\r\n\r\n" + GET, [400]),
        (b"GET http://a HTTP/1.1\r\n" + HOST + b"\r\n", [200]),
        (b"GET http://a?b=c HTTP/1.1\r\n" + HOST + b"\r\n", [200]),
        (chunked(b"Transfer-Encoding: gzip\r\n"), [501]),
        (chunked().replace(b": chunked", b": gzip, chunked"), [501]),
        (chunked().replace(b": chunked", b": identity"), [501]),
        (chunked().replace(b": chunked", b": x" + b"y" * 5000), [501]),
        (chunked().replace(b": chunked", b": CHUNKED "), [200]),
        (chunked(b"Content-Length: 2\r\n"), [400]),
        (GET + post() + b"\x16\x03\x01garbage", [200, 200, 400]),
        (post() + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [200, 505]),
    ],
    ids=lambda value: repr(value[:60]) if isinstance(value, bytes) else None,
)
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "octet by octet"])
def test_heads(octets: bytes, statuses: list[int], at_once: bool) -> None:
    async def story(client: Connection) -> None:
        await client.send(*([octets] if at_once else [bytes([octet]) for octet in octets]))
        found = [status for status, _ in client.answers()]
        assert found == statuses or (found[-1], statuses[-1]) == (400, 505)
        assert all(b'{"error": ' in body for status, body in client.answers() if status != 200)

    play(story)


@pytest.mark.parametrize(
    ("octets", "kind", "text"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "tls_hello", b"not TLS"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), "http2_preface", b"does not speak HTTP/2"),
        (b"\0\0\0\0", "http_400", b"Invalid HTTP request"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "http_400", b"Invalid HTTP request"),
    ],
)
def test_strangers_are_told_and_counted_by_what_they_are(octets: bytes, kind: str, text: bytes) -> None:
    async def story(client: Connection) -> None:
        await client.send(octets)
        assert client.group.counts == {kind: 1}
        ((_, body),) = client.answers()
        assert text in body

    play(story)


# Clients that send no more.


@pytest.mark.parametrize(
    ("octets", "answers"),
    [
        ([post()], [ANSWER]),
        ([post(H2C)], [ANSWER]),
        ([post() + GET + chunked()], [ANSWER, GOT, ANSWER]),
        ([post() + GET + post()[:-1]], [ANSWER, GOT]),
        ([post() + GET[:-3]], [ANSWER]),
        ([b"GET /g HTTP/1.0\r\n\r\n"], [GOT]),
    ],
)
def test_what_was_asked_for_in_whole_is_answered_behind_the_end(
    octets: Iterable[bytes], answers: list[tuple[int, bytes]]
) -> None:
    async def story(client: Connection) -> None:
        client.may_answer.clear()
        await client.send(*octets)
        assert await client.end()
        assert client.transport.written == b"HTTP/1.1 "
        client.may_answer.set()
        await client.settle()
        assert client.answers() == answers
        assert client.transport.ended == "closed"

    play(story)


def test_a_refusal_behind_the_end_comes_last() -> None:
    async def story(client: Connection) -> None:
        client.may_answer.clear()
        await client.send(post() + b"garbage")
        assert await client.end()
        client.may_answer.set()
        await client.settle()
        assert [status for status, _ in client.answers()] == [200, 400]

    play(story)


def test_a_client_that_has_left_is_found_out_and_its_request_cancelled() -> None:
    async def story(client: Connection) -> None:
        client.may_answer.clear()
        await client.send(post() + post())
        assert await client.end()
        assert client.protocol.check() == ""
        ends = [client.transport.ended]
        client.transport.state = CLOSED
        assert client.protocol.check() == ""
        assert [*ends, client.transport.ended] == ["", "aborted"]
        client.protocol.connection_lost(None)
        await client.settle()
        assert client.cancelled == 1

    play(story)


def test_a_unix_socket_tells_who_has_left_in_another_way() -> None:
    """It has no state of TCP to be asked for; the sweep of all connections failed at one that was."""

    async def story(client: Connection) -> None:
        ours, theirs = socket.socketpair()
        client.transport.socket = ours
        client.protocol.connection_made(client.transport)
        client.may_answer.clear()
        await client.send(post())
        theirs.shutdown(socket.SHUT_WR)
        assert await client.end()
        client.group.sweep()
        ends = [client.transport.ended]
        theirs.close()
        client.group.sweep()
        assert [*ends, client.transport.ended] == ["", "aborted"]
        ours.close()

    play(story)


@pytest.mark.parametrize("octets", [b"", b"GET / HT", post()[:-1], post()], ids=repr)
def test_nothing_is_left_to_answer(octets: bytes) -> None:
    async def story(client: Connection) -> None:
        await client.send(octets)
        assert not await client.end()

    play(story)


# Answers before the end of a request.


def test_who_goes_on_sending_is_listened_to_so_that_the_answer_is_not_lost() -> None:
    async def story(client: Connection) -> None:
        await client.send(post(b"Connection: close\r\n", path=b"/early", body=b"x" * 100)[:-90])
        assert client.transport.has_written_eof
        for _ in range(20):
            await client.send(b"x")
            assert client.protocol.check() == ""
            assert not client.transport.ended
        for _ in range(30):
            await client.send(b"x" * 100_000)
            assert client.protocol.check() == ""
        assert client.transport.ended == "aborted"

    play(story)


def test_who_stops_sending_or_takes_the_room_of_others_is_closed_sooner() -> None:
    async def story(client: Connection) -> None:
        await client.send(post(b"Connection: close\r\n", path=b"/early")[:-1])
        for _ in range(6):
            assert not client.transport.ended
            client.protocol.check()
        assert client.transport.ended == "aborted"

    play(story)

    async def crowded(client: Connection) -> None:
        await client.send(post(b"Connection: close\r\n", path=b"/early")[:-1])
        client.group.limit = 1
        other = RestProtocol(
            config=client.protocol.config,
            server_state=ServerState(),
            app_state={"connections": client.group},
        )
        other.connection_made(PlayedTransport())
        assert client.transport.ended == "aborted"

    play(crowded)
