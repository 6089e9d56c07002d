# SPDX-License-Identifier: Apache-2.0
"""Requests with tensors past the application, on a played transport: bodies, turns, limits and ends."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from ovms_mp.child.specs import AccessSpec, FrontLimits, OriginSpec
from ovms_mp.errors import MalformedPayload, ModelNotReady
from ovms_mp.front.access.proxies import TrustedProxies
from ovms_mp.front.endpoints import Answer, Endpoint
from ovms_mp.front.gate import Gate
from ovms_mp.front.gathered import Gathered
from ovms_mp.front.observers import CallObserver
from ovms_mp.front.rest.connections import Connections
from ovms_mp.front.rest.direct import DIRECT
from ovms_mp.front.rest.http_protocol import RestProtocol
from ovms_mp.front.rest.lifespan import Lifespan

from .test_http_protocol import HOST, Connection, PlayedTransport, post

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from ovms_mp.child.specs import RestSpec
    from ovms_mp.codes import Code
    from ovms_mp.errors import OvmsError
    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.endpoints import RestRequest
    from ovms_mp.front.session import FrontSession

LIMIT = 1 << 20
LONG = bytes(range(256)) * 300


class PlayedSink:
    """Has a place for all behind the first ten octets, which it refuses if they are ``refuse me``."""

    def __init__(self, length: int) -> None:
        self.memory = bytearray(length)
        self.start = b""
        self.place: memoryview | None = None
        self.filled = 0
        self.in_place = self.ends = 0

    def advance(self, nbytes: int) -> None:
        self.in_place += nbytes
        self.filled += nbytes
        if self.place is not None and self.filled == len(self.place):
            self.place = None

    def feed(self, piece: memoryview) -> int:
        taken = bytes(piece[: 10 - len(self.start)])
        self.start += taken
        if self.start == b"refuse me ":
            raise MalformedPayload("refused")
        if len(self.start) == 10:
            self.place = memoryview(self.memory)[10:]
        return len(taken)

    def finish(self) -> bytes:
        self.ends += 1
        self.memory[:10] = self.start
        return bytes(self.memory)

    def abort(self) -> None:
        self.ends += 1


class PlayedRoute:
    """Echoes, in several ways."""

    template = "/t/{path:path}"

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.sinks: list[PlayedSink] = []
        self.contexts: list[CallContext] = []
        self.cancelled = self.released = 0
        self._endpoint = Endpoint(
            self._handle, "played", "Echo", takes_body=True, compresses=True, carries_tensors=True
        )

    def find(self, verb: str, raw_path: bytes) -> Endpoint | None:
        return self._endpoint if verb == "POST" and not raw_path.endswith(b"/app") else None

    def allowed(self, raw_path: bytes) -> tuple[str, ...]:
        return ("POST",)

    def operations(self) -> Iterable[tuple[str, str, Endpoint]]:
        return ()

    def _sink(self, length: int) -> PlayedSink:
        self.sinks.append(PlayedSink(length))
        return self.sinks[-1]

    def _release(self) -> None:
        self.released += 1

    async def _handle(self, request: RestRequest, context: CallContext) -> Answer:
        self.contexts.append(context)
        try:
            if request.raw_path == b"/t/early":
                return Answer(b"early")
            if request.raw_path == b"/t/none":
                raise ModelNotReady("not now")
            if request.raw_path == b"/t/sink":
                body = await request.receive_body(None, 1, self._sink)
            else:
                body = await request.read_body(None)
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if request.raw_path == b"/t/gathered":
            return Answer(Gathered([b"<", memoryview(body), b">"], self._release))
        return Answer(b"<" + request.path.encode() + b" " + body + b">")


class SocketTransport(PlayedTransport):
    """With a socket, a pipe here, that takes a part of what is written to it past the transport."""

    def __init__(self) -> None:
        super().__init__()
        self._ends = os.pipe()
        os.set_blocking(self._ends[0], False)
        os.set_blocking(self._ends[1], False)

    def fileno(self) -> int:
        return self._ends[1]

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.take()
        super().write(data)

    def take(self) -> int:
        """Read what the socket has taken; how much that was."""
        try:
            taken = os.read(self._ends[0], 1 << 20)
        except BlockingIOError:
            return 0
        self.written += taken
        return len(taken)

    def free(self) -> None:
        for end in self._ends:
            os.close(end)


class Ends(CallObserver):
    """Notes how calls end."""

    def __init__(self) -> None:
        self.codes: list[Code | None] = []

    def ended(self, context: CallContext, code: Code | None, failure: OvmsError | None) -> None:
        self.codes.append(code)


class DirectConnection(Connection):
    """The same to an application, behind a front whose route takes what goes directly."""

    def __init__(self, prefix: str = "", origins: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.route, self.ends = PlayedRoute(), Ends()
        self.service = SimpleNamespace(is_draining=False)
        limits = FrontLimits(
            request_timeout_s=300.0,
            retry_window_s=1.0,
            max_message_bytes=LIMIT,
            max_unpacked_bytes=0,
            max_image_megapixels=32,
            max_body_memory_bytes=LIMIT,
        )
        spec = SimpleNamespace(
            limits=limits,
            prefix=prefix,
            origins=OriginSpec(origins=origins),
            access=AccessSpec(),
            page=None,
        )
        self.lifespan = Lifespan(cast("RestSpec", spec))
        self.lifespan.routes = [self.route]
        gate = Gate(observers=[self.ends])
        session = SimpleNamespace(service=self.service, gate=gate, proxies=TrustedProxies(()))
        self.lifespan.session = cast("FrontSession", session)
        self.group = Connections(self.lifespan.bodies, 60.0, 100)
        config = uvicorn.Config(
            self._app, loop="asyncio", interface="asgi3", lifespan="off", ws="none", log_config=None
        )
        config.load()
        self.protocol = RestProtocol(
            config=config,
            server_state=ServerState(),
            app_state={"connections": self.group, DIRECT: self.lifespan.direct()},
        )
        self.transport = self.socket = SocketTransport()
        self.protocol.connection_made(self.transport)

    async def receive(self, octets: bytes, most: int = 1 << 30) -> int:
        """Send as the loop does, into the memory that the protocol offers; how much went straight to a sink."""
        before = sum(sink.in_place for sink in self.route.sinks)
        while octets:
            place = self.protocol.get_buffer(-1)
            size = min(len(place), len(octets), most)
            place[:size] = octets[:size]
            self.protocol.buffer_updated(size)
            octets = octets[size:]
            await self.settle()
        return sum(sink.in_place for sink in self.route.sinks) - before

    def heads(self) -> list[bytes]:
        return [part.rpartition(b"HTTP/1.1 ")[2] for part in self.transport.written.split(b"\r\n\r\n")[:-1]]

    @property
    def is_clean(self) -> bool:
        """Whether nothing is held of bodies."""
        return self.lifespan.bodies.used_bytes == 0


def play(
    story: Callable[[DirectConnection], Awaitable[None]], prefix: str = "", origins: tuple[str, ...] = ()
) -> None:
    async def run() -> None:
        async with asyncio.timeout(10):
            client = DirectConnection(prefix, origins)
            await story(client)
            client.socket.free()
            assert client.is_clean

    asyncio.run(run())


def chunked(path: bytes, *pieces: bytes) -> bytes:
    head = b"POST " + path + b" HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


ECHO = (200, b"</t/a {}>")


# Bodies and turns.


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_requests_of_both_ways_are_answered_in_their_order(size: int) -> None:
    octets = post(path=b"/t/a") + post(path=b"/t/app") + chunked(b"/t/a?x=1", b"{", b"}") + post(path=b"/t/a")

    async def story(client: DirectConnection) -> None:
        await client.send(*(octets[start : start + size] for start in range(0, len(octets), size)))
        assert client.answers() == [ECHO, (200, b"<POST /t/app {}>"), ECHO, ECHO]
        assert client.ends.codes == [None] * 3
        assert not client.transport.ended

    play(story)


def test_what_is_behind_waits_for_its_turn() -> None:
    async def story(client: DirectConnection) -> None:
        client.route.may_answer.clear()
        await client.send(post(path=b"/t/a") * 2 + post(path=b"/t/app") * 20)
        assert len(client.route.contexts) == 1
        assert not client.transport.written
        client.route.may_answer.set()
        await client.settle()
        for _ in range(20):
            await client.settle()
        assert [status for status, _ in client.answers()] == [200] * 22

    play(story)


@pytest.mark.parametrize("most", [1 << 30, 1000, 65_536])
@pytest.mark.parametrize("make", [post, chunked], ids=["length", "chunked"])
def test_long_bodies_come_whole_and_the_next_request_behind_them(most: int, make: Any) -> None:
    octets = post(path=b"/t/a", body=LONG) if make is post else chunked(b"/t/a", LONG[:7], LONG[7:])

    async def story(client: DirectConnection) -> None:
        await client.receive(octets + post(path=b"/t/a"), most)
        assert client.answers() == [(200, b"</t/a " + LONG + b">"), ECHO]

    play(story)


@pytest.mark.parametrize("most", [1 << 30, 1000, 30_000])
def test_a_sink_gets_a_long_body_where_it_wants_it(most: int) -> None:
    async def story(client: DirectConnection) -> None:
        octets = post(path=b"/t/sink", body=LONG) + post(path=b"/t/sink", body=LONG) + post(path=b"/t/a")
        await client.receive(octets, most)
        whole = (200, b"</t/sink " + LONG + b">")
        assert client.answers() == [whole, whole, ECHO]
        assert [sink.in_place for sink in client.route.sinks] == [len(LONG) - 10] * 2
        assert client.route.contexts[0].received_bytes == len(LONG)
        assert all(sink.ends == 1 for sink in client.route.sinks)

    play(story)


def test_what_a_sink_refuses_is_answered_before_the_rest_which_is_skipped() -> None:
    async def story(client: DirectConnection) -> None:
        octets = post(path=b"/t/sink", body=b"refuse me " + LONG)
        await client.receive(octets[:-1000])
        assert client.answers() == [(400, b'{"error":"refused"}')]
        await client.receive(octets[-1000:] + post(path=b"/t/a"))
        assert client.answers()[1:] == [ECHO]
        assert client.route.sinks[0].ends == 1

    play(story)


def test_a_body_is_asked_for_when_it_is_wanted() -> None:
    go_ahead = b"HTTP/1.1 100 Continue\r\n\r\n"
    expecting = post(b"Expect: 100-continue\r\n", path=b"/t/a")

    async def story(client: DirectConnection) -> None:
        await client.send(expecting[:-2])
        assert client.transport.written == go_ahead
        await client.send(b"{}")
        client.transport.written = client.transport.written.removeprefix(go_ahead)
        assert client.answers() == [ECHO]
        await client.send(post(b"Expect: 100-continue\r\n", path=b"/t/none")[:-2])
        assert client.answers()[1:] == [(503, b'{"error":"not now"}')]
        assert b"connection: close" in client.transport.written
        assert b"retry-after: " in client.transport.written

    play(story)


def test_a_body_that_nobody_asks_for_is_not_read_on_and_on() -> None:
    async def story(client: DirectConnection) -> None:
        client.route.may_answer.clear()
        await client.send(post(path=b"/t/a") + post(path=b"/t/a", body=LONG)[:40_000])
        assert client.protocol.flow.read_paused
        client.route.may_answer.set()
        await client.settle()
        await client.receive(post(path=b"/t/a", body=LONG)[40_000:])
        assert [status for status, _ in client.answers()] == [200, 200]

    play(story)


@pytest.mark.parametrize("path", [b"/t/a", b"/t/early", b"/t/app"])
def test_a_body_of_tiny_chunks_leaves_others_their_turn(path: bytes) -> None:
    length = 50_000
    octets = chunked(path, *[b"%d" % (index % 10) for index in range(length)]) + post(path=b"/t/a")

    async def story(client: DirectConnection) -> None:
        reads = [octets[start : start + 200_000] for start in range(0, len(octets), 200_000)]
        paused = []
        for octets_read in reads:
            client.protocol.data_received(octets_read)
            paused.append(client.protocol.flow.read_paused)  # When a part of it has been parsed.
            for _ in range(40):
                await client.settle()
            paused.append(client.protocol.flow.read_paused)
        assert paused == [True, False] * len(reads)
        (status, body), last = client.answers()
        assert (status, last) == (200, ECHO)
        assert path == b"/t/early" or body.endswith(b"0123456789" * (length // 10) + b">")

    play(story)


@pytest.mark.parametrize(
    ("octets", "status", "is_closed"),
    [
        (post(path=b"/t/a", body=b"x" * (LIMIT + 1))[:200], 413, True),
        (chunked(b"/t/a", b"x" * 70_000, b"x" * LIMIT), 413, True),
        (post(b"Content-Encoding: br\r\n", path=b"/t/a"), 415, False),
        (post(b"Content-Encoding: gzip\r\n", path=b"/t/a"), 400, False),
        (post(b"A: b\r\n" * 300, path=b"/t/a"), 431, True),
        (post(b"A: " + b"b" * 70_000 + b"\r\n", path=b"/t/a"), 431, True),
        (post(path=b"/t/" + b"a" * 70_000), 414, True),
        (post(path=b"/t/a", host=b""), 400, True),
        (chunked(b"/t/a", b"{}").replace(b": chunked", b": gzip"), 501, True),
        (post(path=b"/t/a") + b"garbage\r\n\r\n", 400, True),
    ],
    ids=range(10),
)
def test_limits_are_those_of_every_request(octets: bytes, status: int, is_closed: bool) -> None:
    async def story(client: DirectConnection) -> None:
        await client.send(octets)
        await client.settle()
        assert client.answers()[-1][0] == status
        assert "error" in json.loads(client.answers()[-1][1])
        is_ending = client.transport.has_written_eof or client.transport.ended == "closed"
        assert is_ending is is_closed

    play(story)


# Answers.


def test_packed_both_ways() -> None:
    async def story(client: DirectConnection) -> None:
        packed = gzip.compress(LONG)
        await client.send(
            post(b"Content-Encoding: gzip\r\nAccept-Encoding: gzip\r\n", path=b"/t/gathered", body=packed)
        )
        await asyncio.gather(*client.protocol.server_state.tasks)
        ((_, body),) = client.answers()
        assert gzip.decompress(body) == b"<" + LONG + b">"
        assert client.route.released == 1
        assert b"content-encoding: gzip" in client.heads()[0]
        assert b"vary: Accept-Encoding" in client.heads()[0]

    play(story)


def test_an_answer_in_pieces_is_released_once_and_whole() -> None:
    async def story(client: DirectConnection) -> None:
        await client.receive(post(path=b"/t/gathered", body=LONG))
        assert len(client.transport.written) > 1000, "the rest"
        await client.receive(post(path=b"/t/a"))
        assert client.answers() == [(200, b"<" + LONG + b">"), ECHO]
        assert client.route.released == 1

    play(story)


def test_ids_origins_and_the_drain_are_in_the_head() -> None:
    async def story(client: DirectConnection) -> None:
        fields = b"X-Request-Id: r1\r\nOrigin: https://a\r\n"
        await client.send(post(fields, path=b"/t/a") + post(fields, path=b"/t/none"))
        for head in client.heads():
            assert b"x-request-id: r1" in head
            assert b"access-control-allow-origin: https://a" in head
            assert b"connection" not in head
        client.service.is_draining = True
        await client.send(post(path=b"/t/a"))
        assert b"connection: close" in client.heads()[-1]
        assert client.transport.ended == "closed"

    play(story, origins=("https://a",))


@pytest.mark.parametrize(
    ("url", "path"),
    [
        (b"/p/t/a", b"/p/t/a"),
        (b"/p/t/a?b=c", b"/p/t/a"),
        (b"http://here/p/t/%61", b"/p/t/a"),
        (b"/t/a", None),
        (b"//p/t/a", None),
        (b"/%70/t/a", None),
        (b"/p/t/app", None),
    ],
)
def test_which_paths_go_this_way(url: bytes, path: bytes | None) -> None:
    async def story(client: DirectConnection) -> None:
        await client.send(post(path=url))
        ((_, body),) = client.answers()
        assert body.startswith(b"<POST " if path is None else b"<" + path + b" ")
        assert all(context.origin.target.path == path.decode() for context in client.route.contexts if path)

    play(story, prefix="/p")


# The client's patience.


def test_an_answer_is_waited_for_as_long_as_the_client_says() -> None:
    impatient = post(b"X-Request-Timeout-Seconds: 0.01\r\n", path=b"/t/a")

    async def story(client: DirectConnection) -> None:
        client.route.may_answer.clear()
        await client.send(impatient)
        await asyncio.gather(*client.protocol.server_state.tasks)
        (answer,) = client.answers()
        assert answer == (504, b'{"error":"no answer within 0.01 s (X-Request-Timeout-Seconds)"}')
        assert client.route.cancelled == 1
        context = client.route.contexts[0]
        assert context.deadline_ns == context.begun_ns + 10**7
        client.route.may_answer.set()
        await client.send(post(path=b"/t/a"))
        assert client.answers()[1:] == [ECHO]
        assert [code and code.name for code in client.ends.codes] == ["DEADLINE_EXCEEDED", None]

    play(story)


def test_a_body_that_comes_later_than_the_client_waits_is_not_waited_for() -> None:
    async def story(client: DirectConnection) -> None:
        fields = b"X-Request-Timeout-Seconds: 0.01\r\n"
        await client.receive(post(fields, path=b"/t/sink", body=LONG)[:-1])
        await asyncio.gather(*client.protocol.server_state.tasks)
        assert [status for status, _ in client.answers()] == [504]
        assert client.transport.has_written_eof, "the rest of the body is none of another request"
        assert client.route.sinks[0].ends == 1

    play(story)


@pytest.mark.parametrize("value", [b"soon", b"0", b"-1", b"1e3", b"nan", b"1" * 10, b"0.5 s"])
def test_a_time_that_is_none_is_refused(value: bytes) -> None:
    async def story(client: DirectConnection) -> None:
        await client.send(post(b"X-Request-Timeout-Seconds: " + value + b"\r\n", path=b"/t/a"))
        ((status, body),) = client.answers()
        assert status == 400
        assert f"X-Request-Timeout-Seconds is {value.decode()!r}" in json.loads(body)["error"]

    play(story)


def test_white_space_around_a_time_is_none_of_it() -> None:
    async def story(client: DirectConnection) -> None:
        await client.send(post(b"X-Request-Timeout-Seconds: \t 5 \t\r\n", path=b"/t/a"))
        assert client.answers() == [ECHO]

    play(story)


# Ends.


def test_who_connects_by_a_unix_socket_is_one_client() -> None:
    async def story(client: DirectConnection) -> None:
        other = DirectConnection()
        for connection in (client, other):
            connection.transport.getsockname = lambda: "/run/socket"  # type: ignore[assignment, return-value]
            connection.protocol.connection_made(connection.transport)
            await connection.send(post(path=b"/t/a") * 2)
        first, second = (connection.route.contexts for connection in (client, other))
        assert first[0].flow == first[1].flow != second[0].flow
        assert {context.peer for context in (*first, *second)} == {"unix:"}
        other.socket.free()

    play(story)


def test_nothing_is_written_behind_an_abort() -> None:
    """Until the loop tells that the connection is lost, its descriptor may have become another one's."""

    async def story(client: DirectConnection) -> None:
        client.route.may_answer.clear()
        await client.receive(post(path=b"/t/gathered", body=LONG))
        client.transport.abort()
        client.route.may_answer.set()
        await client.settle()
        assert not client.transport.written
        assert not client.socket.take()
        assert client.route.released == 1

    play(story)


@pytest.mark.parametrize("is_room", [True, False])
def test_an_answer_that_waits_behind_an_unread_one_takes_of_the_memory_for_bodies(is_room: bool) -> None:
    async def story(client: DirectConnection) -> None:
        answer_bytes = len(LONG) + 2
        client.route.may_answer.clear()
        await client.receive(post(path=b"/t/gathered", body=LONG))
        others = client.lifespan.bodies.share()
        others.grow(LIMIT - answer_bytes + (0 if is_room else 1))
        client.protocol.pause_writing()
        client.route.may_answer.set()
        await client.settle()
        assert client.route.released == 1, "no slow reader keeps the arena"
        assert client.transport.ended == ("" if is_room else "aborted")
        assert client.group.counts == ({} if is_room else {"answer_memory": 1})
        assert client.lifespan.bodies.used_bytes == others.nbytes + (answer_bytes if is_room else 0)
        client.protocol.resume_writing()
        await client.settle()
        assert client.answers() == ([(200, b"<" + LONG + b">")] if is_room else [])
        others.release()

    play(story)


def test_who_leaves_while_its_answer_is_packed_has_it_released_once() -> None:
    async def story(client: DirectConnection) -> None:
        may_pack = threading.Event()
        threads = ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(threads)
        threads.submit(may_pack.wait, 10)
        await client.receive(post(b"Accept-Encoding: gzip\r\n", path=b"/t/gathered", body=LONG))
        assert not client.transport.written, "it is to be packed"
        client.protocol.connection_lost(ConnectionResetError())
        await client.settle()
        assert client.route.released == 1
        may_pack.set()

    play(story)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_the_connection_is_kept_as_the_client_says(version: bytes) -> None:
    async def story(client: DirectConnection) -> None:
        fields = b"Connection: close\r\n" if version == b"1.1" else b""
        await client.send(post(fields, path=b"/t/a").replace(b"HTTP/1.1", b"HTTP/" + version))
        assert client.answers() == [ECHO]
        assert client.transport.ended == "closed"

    play(story)


@pytest.mark.parametrize("part", [1 << 20, 120, -1])
def test_a_client_that_leaves_ends_its_request(part: int) -> None:
    async def story(client: DirectConnection) -> None:
        client.route.may_answer.clear()
        await client.receive(post(path=b"/t/sink", body=LONG)[:part])
        client.protocol.connection_lost(ConnectionResetError())
        await client.settle()
        assert client.route.cancelled == 1
        assert [code and code.name for code in client.ends.codes] == ["CANCELLED"]
        assert not client.transport.written
        assert [sink.ends for sink in client.route.sinks] == [1]

    play(story)


def test_who_only_stops_sending_gets_what_was_asked_for_in_whole() -> None:
    async def story(client: DirectConnection) -> None:
        client.route.may_answer.clear()
        await client.send(post(path=b"/t/a") * 2 + post(path=b"/t/a")[:-1])
        assert await client.end()
        assert client.transport.written == b"HTTP/1.1 "
        client.route.may_answer.set()
        await client.settle()
        assert client.answers() == [ECHO, ECHO]
        assert client.transport.ended == "closed"

    play(story)


def test_who_stops_within_a_body_gets_nothing() -> None:
    async def story(client: DirectConnection) -> None:
        await client.send(post(path=b"/t/a", body=LONG)[:-1])
        assert not await client.end()
        client.protocol.connection_lost(None)
        await client.settle()
        assert client.route.cancelled == 1

    play(story)


def test_a_stop_waits_for_the_answer_and_ends_the_connection() -> None:
    async def story(client: DirectConnection) -> None:
        client.route.may_answer.clear()
        await client.send(post(path=b"/t/a"))
        client.protocol.shutdown()
        assert client.heads() == []
        client.route.may_answer.set()
        await client.settle()
        assert client.answers() == [ECHO]
        assert b"connection: close" in client.heads()[0]
        assert client.transport.ended == "closed"

    play(story)


def test_a_body_that_does_not_go_on_ends_the_connection() -> None:
    async def story(client: DirectConnection) -> None:
        await client.receive(post(path=b"/t/sink", body=LONG)[:-1])
        found = [client.protocol.check() for _ in range(70)]
        assert "body_late" in found
        assert client.transport.ended == "aborted"
        client.protocol.connection_lost(None)
        await client.settle()
        assert client.route.cancelled == 1

    play(story)


def test_an_early_answer_leaves_the_connection_to_the_next_request() -> None:
    async def story(client: DirectConnection) -> None:
        await client.receive(post(path=b"/t/early", body=LONG) + post(path=b"/t/a"), 50_000)
        assert client.answers() == [(200, b"early"), ECHO]

    play(story)
