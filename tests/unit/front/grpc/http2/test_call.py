# SPDX-License-Identifier: Apache-2.0
"""gRPC over the state machine: messages, statuses, encodings, deadlines, streaming and sinks; no sockets."""

from __future__ import annotations

import asyncio
import functools
import gc
import gzip
import logging
import weakref
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from ovms_mp.errors import INTERNAL_ERROR_TEXT, Code, ModelNotFound, NoFreeSlot, OvmsError
from ovms_mp.front.call_context import CallContext
from ovms_mp.front.gathered import Gathered
from ovms_mp.front.grpc.http2.answer_head import percent_encoded
from ovms_mp.front.grpc.http2.call import Call
from ovms_mp.front.grpc.http2.call_head import decode_metadata, parse_timeout_ns
from ovms_mp.front.grpc.http2.connection import Http2Connection
from ovms_mp.front.grpc.http2.limits import Guard, Hit, Limits
from ovms_mp.front.methods import Streaming, Unary
from tests.unit.front.grpc.http2 import peer as wire
from tests.unit.front.grpc.http2.peer import SECOND, cut, data, described, headers, reset, window

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

GRPC = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/s/Echo"),
    (":authority", "host"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)
Fields = dict[bytes, bytes]


def message(payload: bytes, flags: int = 0) -> bytes:
    return bytes((flags,)) + len(payload).to_bytes(4, "big") + payload


def call_fields(path: str = "/s/Echo", *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return (*((name, path if name == ":path" else value) for name, value in GRPC), *more)


def parse_block(octets: bytes) -> Fields:
    """Fields of a block that uses static indexes and literals only."""
    names = {8: b":status", 31: b"content-type"}
    found: Fields = {}
    while octets:
        if octets[0] & 0x80:
            assert octets[0] == 0x88
            found[b":status"] = b"200"
            octets = octets[1:]
            continue
        assert octets[0] & 0xF0 == 0x10, "only literals that are never indexed"
        index, octets = octets[0] & 0xF, octets[1:]
        if index == 15:
            index, octets = index + octets[0], octets[1:]
        parts = [names[index]] if index else []
        while len(parts) < 2:
            size, octets = octets[0], octets[1:]
            if size == 127:
                shift = 0
                while True:
                    digit, octets = octets[0], octets[1:]
                    size += (digit & 127) << shift
                    shift += 7
                    if digit < 128:
                        break
            parts.append(octets[:size])
            octets = octets[size:]
        found[parts[0]] = parts[1]
    return found


class Sink:
    """Takes the first two octets in pieces, the rest in its own memory."""

    made: list[Sink]

    def __init__(self, length: int) -> None:
        self.length, self.small = length, b""
        self.memory = bytearray(max(0, length - 2))
        self.place: memoryview | None = None
        self.filled = self.aborted = self.finished = 0
        Sink.made.append(self)

    def advance(self, nbytes: int) -> None:
        self.filled += nbytes
        self.place = None if self.filled == len(self.memory) else self.place

    def feed(self, piece: memoryview) -> int:
        if bytes(piece[:1]) == b"!":
            raise NoFreeSlot("the arena is full")
        taken = min(len(piece), 2 - len(self.small))
        self.small += piece[:taken]
        if len(self.small) == 2 and self.memory:
            self.place = memoryview(self.memory)
        return taken

    def finish(self) -> bytes:
        self.finished += 1
        return self.small + self.memory

    def abort(self) -> None:
        self.aborted += 1


class Handlers:
    """Methods of the test service, and what they saw."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.contexts: list[CallContext] = []
        self.gate = asyncio.Event()
        self.released = 0
        self.was_cancelled = False
        self.unpacked_limit = 0

    def methods(self) -> dict[str, Unary | Streaming]:
        return {
            "/s/Echo": Unary("/s/Echo", self.echo, protocol="p"),
            "/s/Gather": Unary("/s/Gather", self.gather),
            "/s/Wait": Unary("/s/Wait", self.wait),
            "/s/Refuse": Unary("/s/Refuse", self.refuse),
            "/s/Break": Unary("/s/Break", self.fail),
            "/s/Cancel": Unary("/s/Cancel", self.cancel),
            "/s/Sink": Unary("/s/Sink", self.echo, Sink),
            "/s/Small": Unary("/s/Small", self.echo, None, 4, lambda _: 100),
            "/s/Unpacked": Unary("/s/Unpacked", self.echo, None, 0, lambda _: self.unpacked_limit),
            "/s/Bidi": Streaming("/s/Bidi", self.bidi),
            "/s/Many": Streaming("/s/Many", self.many),
            "/s/Late": Streaming("/s/Late", self.late),
            "/s/None": Streaming("/s/None", self.none),
            "/s/Stubborn": Unary("/s/Stubborn", self.stubborn),
        }

    async def echo(self, request: bytes | bytearray, context: CallContext) -> bytes:
        self.seen.append((bytes(request), context.deadline_ns))
        self.contexts.append(context)
        return bytes(request)

    async def gather(self, request: bytes, _context: CallContext) -> Gathered:
        return Gathered([b"<", memoryview(request), b">"], self.release)

    def release(self) -> None:
        self.released += 1

    async def wait(self, request: bytes, _context: CallContext) -> bytes:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return request

    async def stubborn(self, request: bytes, _context: CallContext) -> Gathered:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
        return Gathered([memoryview(request)], self.release)

    async def refuse(self, request: bytes, _context: CallContext) -> bytes:
        raise ModelNotFound(request.decode())

    async def fail(self, _request: bytes, _context: CallContext) -> bytes:
        raise RuntimeError("secret")

    async def cancel(self, _request: bytes, _context: CallContext) -> bytes:
        raise asyncio.CancelledError

    async def bidi(self, call: Call, _context: CallContext) -> None:
        async for request in call:
            self.seen.append(request)
            await call.send(b"<" + request + b">")

    async def many(self, call: Call, _context: CallContext) -> None:
        count = int(await anext(call))
        for number in range(count):
            await call.send(b"%d" % number)
            self.seen.append(number)

    async def none(self, call: Call, _context: CallContext) -> None:
        async for request in call:
            self.seen.append(request)

    async def late(self, call: Call, _context: CallContext) -> None:
        await call.send(b"first")
        raise OvmsError("too late")


class CountingGuard(Guard):
    """Remembers the most that was held."""

    peak_bytes = 0

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "held_bytes":
            self.peak_bytes = max(self.peak_bytes, value)


class Client:
    """A client's octets into calls, and what came back."""

    def __init__(self, limits: Limits | None = None) -> None:
        Sink.made = []
        self.handlers = Handlers()
        self.guard = CountingGuard(limits if limits is not None else Limits())
        self.now_ns = SECOND
        self.wakes = 0
        new_call: Callable[..., Call] = functools.partial(
            Call, self.handlers.methods(), self.wake, lambda: "host:1"
        )
        self.connection = Http2Connection(new_call, self.guard, self.now_ns)
        self.send(wire.PREFACE + wire.settings() + wire.SETTINGS_ACK)
        self.frames()

    def wake(self) -> None:
        self.wakes += 1

    def send(self, octets: bytes) -> None:
        self.connection.receive(octets, self.now_ns)

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        chunks, releases = self.connection.output.take()
        for release in releases:
            release()
        return cut(b"".join(chunks))

    async def settle(self) -> None:
        """Let every task and thread that can go on do so."""
        for _ in range(6):
            await asyncio.sleep(0)

    async def finish(self) -> None:
        """Wait for all handlers."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=10)

    def answer(self, stream: int = 1) -> tuple[Fields, bytes, Fields]:
        """Headers, data and status of a call that is over; trailers-only has no headers."""
        found = [part for part in self.frames() if part[2] == stream and part[0] in (0, 1)]
        blocks = [parse_block(part[3]) for part in found if part[0] == 1]
        body = b"".join(part[3] for part in found if part[0] == 0)
        assert found[-1][0] == 1
        assert found[-1][1] & 1, "the last frame ends the stream"
        return (blocks[0] if len(blocks) == 2 else {}), body, blocks[-1]

    async def call(self, path: str, body: bytes, *more: tuple[str, str]) -> tuple[Fields, bytes, Fields]:
        self.send(headers(1, call_fields(path, *more), end=False) + data(body, end=True))
        await self.finish()
        return self.answer()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @functools.wraps(test)
    def wrapper() -> None:
        asyncio.run(test())

    del wrapper.__wrapped__  # Pytest would look for its fixtures.
    return wrapper


def one_call(
    path: str, body: bytes, *more: tuple[str, str], limits: Limits | None = None, limit: int = 0
) -> tuple[Client, Fields, bytes, Fields]:
    async def go() -> tuple[Client, Fields, bytes, Fields]:
        client = Client(limits)
        client.handlers.unpacked_limit = limit
        return (client, *await client.call(path, body, *more))

    return asyncio.run(go())


def status(fields: Fields) -> tuple[int, str]:
    return int(fields[b"grpc-status"]), fields.get(b"grpc-message", b"").decode()


# Unary calls.


def test_a_message_comes_back() -> None:
    client, head, body, trailers = one_call("/s/Echo", message(b"abc"))

    assert head == {b":status": b"200", b"content-type": b"application/grpc"}
    assert body == message(b"abc")
    assert trailers == {b"grpc-status": b"0"}
    assert client.handlers.seen == [(b"abc", 0)]
    assert client.wakes
    assert client.guard.held_bytes == 0


def test_an_empty_message_is_a_message() -> None:
    _, _, body, trailers = one_call("/s/Echo", message(b""))

    assert (body, status(trailers)) == (message(b""), (0, ""))


@pytest.mark.parametrize("path", ["/s/Echo", "/s/Sink"])
def test_a_message_in_pieces_is_the_same_wherever_it_is_cut(path: str) -> None:
    octets = message(b"abcdefgh")

    async def go(place: int) -> bytes:
        client = Client()
        client.send(headers(1, call_fields(path), end=False))
        client.send(data(octets[:place]) + data(octets[place:]) + data(b"", end=True))
        await client.finish()
        assert client.handlers.seen == [(b"abcdefgh", 0)]
        return client.answer()[1]

    for place in range(1, len(octets)):
        assert asyncio.run(go(place)) == octets


@pytest.mark.parametrize("path", ["/s/Echo", "/s/Sink"])
def test_a_message_octet_by_octet(path: str) -> None:
    async def go() -> None:
        client = Client()
        octets = headers(1, call_fields(path), end=False) + data(message(b"abcdefgh"), end=True)
        for index in range(len(octets)):
            client.send(octets[index : index + 1])
        await client.finish()
        assert client.answer()[1] == message(b"abcdefgh")

    asyncio.run(go())


def test_a_reply_in_pieces_is_released_once() -> None:
    client, _, body, trailers = one_call("/s/Gather", message(b"abc"))

    assert (body, status(trailers)) == (message(b"<abc>"), (0, ""))
    assert client.handlers.released == 1


@run
async def test_a_large_reply_is_released_when_it_is_written() -> None:
    client = Client()
    client.send(window(0, 10_000) + wire.settings((4, 80_000)))
    client.send(headers(1, call_fields("/s/Gather"), end=False) + data(message(b"x" * 70_000), end=True))
    await client.settle()

    assert client.handlers.released == 0
    chunks, releases = client.connection.output.take()
    assert any(isinstance(chunk, memoryview) and len(chunk) > 10_000 for chunk in chunks)
    octets = b"".join(chunks)
    for release in releases:
        release()

    assert client.handlers.released == 1
    assert b"".join(part[3] for part in cut(octets) if part[0] == 0) == message(b"<" + b"x" * 70_000 + b">")
    assert client.guard.held_bytes == 0


@run
async def test_a_reply_without_window_is_copied_and_released_and_counted() -> None:
    client = Client()
    client.send(headers(1, call_fields("/s/Gather"), end=False) + data(message(b"x" * 70_000), end=True))
    await client.settle()

    assert client.handlers.released == 1
    first = client.frames()
    assert sum(len(part[3]) for part in first if part[0] == 0) == 65_535
    assert client.guard.held_bytes == client.connection.held_bytes == 70_007 - 65_535
    client.send(window(0, 10_000) + window(1, 10_000))
    last = client.frames()

    body = b"".join(part[3] for part in first + last if part[0] == 0)
    assert body == message(b"<" + b"x" * 70_000 + b">")
    assert parse_block(last[-1][3]) == {b"grpc-status": b"0"}
    assert client.guard.held_bytes == client.connection.held_bytes == 0


@run
async def test_unread_replies_beyond_the_budget_are_refused() -> None:
    client = Client(Limits(process_buffer_bytes=70_003))
    client.send(wire.settings((4, 1)))
    long_call = headers(1, call_fields("/s/Gather"), end=False) + data(message(b"x" * 70_000), end=True)
    client.send(long_call)
    await client.settle()
    client.frames()
    client.send(headers(3, call_fields("/s/Gather"), end=False) + data(message(b"y"), stream=3, end=True))
    await client.settle()

    _, _, trailers = client.answer(3)
    assert status(trailers)[0] == 8
    assert "do not read" in status(trailers)[1]
    assert client.handlers.released == 2
    assert client.guard.counters[Hit.BUDGET] == 1


@run
async def test_a_large_reply_to_a_client_that_is_gone_is_released() -> None:
    client = Client()
    client.send(headers(1, call_fields("/s/Gather"), end=False) + data(message(b"x" * 70_000), end=True))
    await client.settle()
    client.send(reset(1))

    client.frames()

    assert client.handlers.released == 1
    assert client.guard.held_bytes == 0


@pytest.mark.parametrize("size", [10, 70_000])
def test_a_reply_that_comes_too_late_is_released(size: int) -> None:
    async def go() -> None:
        client = Client()
        client.send(headers(1, call_fields("/s/Stubborn"), end=False))
        client.send(data(message(b"x" * size), end=True))
        await client.settle()
        client.send(reset(1))
        await client.settle()

        assert client.handlers.was_cancelled
        assert client.handlers.released == 1
        assert [part for part in client.frames() if part[2] == 1] == []
        assert client.guard.held_bytes == 0

    asyncio.run(go())


# Failures and their statuses.


def test_a_known_failure_is_a_status_without_headers() -> None:
    _, head, body, trailers = one_call("/s/Refuse", message("kein Modell: grün\n100%".encode()))

    assert (head, body) == ({}, b"")
    assert trailers[b":status"] == b"200"
    assert trailers[b"content-type"] == b"application/grpc"
    assert status(trailers) == (5, "kein Modell: gr%C3%BCn%0A100%25")


def test_a_defect_is_internal_and_its_text_stays_here(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        _, _, _, trailers = one_call("/s/Break", message(b""), ("user-agent", "somebody/1"))

    assert status(trailers) == (13, INTERNAL_ERROR_TEXT)
    assert "secret" in caplog.text
    assert "somebody/1" in caplog.text


def test_a_handler_that_cancels_itself_answers() -> None:
    assert status(one_call("/s/Cancel", message(b""))[3])[0] == 1


def test_a_long_text_is_cut() -> None:
    text = status(one_call("/s/Refuse", message(b"x" * 5000))[3])[1]

    assert text == "x" * 997 + "..."


@pytest.mark.parametrize(
    ("path", "body", "more", "expected"),
    [
        ("/s/Unknown", message(b""), (), (12, "Method not found!")),
        ("/t/Echo", message(b""), (), (12, "Method not found!")),
        ("/s/Echo", b"", (), (12, "no message in a unary call")),
        ("/s/Echo", message(b"a") * 2, (), (12, "more than one message in a unary call")),
        ("/s/Sink", message(b"a") * 2, (), (12, "more than one message in a unary call")),
        ("/s/Echo", message(b"abc")[:-1], (), (13, "The last message is cut off")),
        ("/s/Echo", b"\0\0", (), (13, "The last message is cut off")),
        ("/s/Echo", message(b"a", 2), (("grpc-encoding", "gzip"),),
         (13, "Compression bit set but no encoding configured")),
        ("/s/Echo", message(b"a", 1), (), (13, "Compression bit set but no encoding configured")),
        ("/s/Echo", message(b"abc", 1), (("grpc-encoding", "gzip"),),
         (3, "the message is not packed as gzip: Error -3 while decompressing data: incorrect header check")),
        ("/s/Echo", message(gzip.compress(b"abc", mtime=0)[:-1], 1), (("grpc-encoding", "gzip"),),
         (3, "the message is not packed as gzip: it ends too early")),
        ("/s/Echo", message(gzip.compress(b"abc", mtime=0) + b"x", 1), (("grpc-encoding", "gzip"),),
         (3, "the message is not packed as gzip: it ends too early")),
        ("/s/Echo", message(b"", 1), (("grpc-encoding", "gzip"),),
         (3, "the message is not packed as gzip: it ends too early")),
        ("/s/Echo", message(gzip.compress(b"abc", mtime=0)[:-8] + bytes(8), 1), (("grpc-encoding", "gzip"),),
         (3, "the message is not packed as gzip: Error -3 while decompressing data: incorrect data check")),
        ("/s/Echo", message(gzip.compress(b"", mtime=0) * 2000, 1), (("grpc-encoding", "gzip"),),
         (3, "the message is not packed as gzip: it has more than 1024 members")),
        ("/s/Echo", message(gzip.compress(b"abc", mtime=0), 1), (("grpc-encoding", "deflate"),),
         (3, "the message is not packed as deflate: Error -3 while decompressing data: incorrect header check")),
        ("/s/Small", message(b"12345"), (),
         (8, "Received message larger than max (5 vs. 4); --max_message_mb sets it")),
        ("/s/Small", message(gzip.compress(bytes(101), mtime=0), 1), (("grpc-encoding", "gzip"),),
         (8, "Received message larger than max (24 vs. 4); --max_message_mb sets it")),
        ("/s/Echo", message(b"a"), (("grpc-encoding", "snappy"),), (12, "grpc-encoding 'snappy' is not supported")),
        ("/s/Echo", message(b"a"), (("grpc-timeout", "12x"),), (13, "Error parsing 'grpc-timeout' metadata")),
        ("/s/Echo", message(b"a"), (("grpc-timeout", "0S"),), (4, "Deadline Exceeded")),
        ("/s/Echo", message(b"a"), (("x-bin", "!!!"),),
         (13, "Error parsing 'x-bin' metadata: illegal base64 encoding")),
        ("/s/Sink", message(b"!abc"), (), (8, "the arena is full")),
    ],
)  # fmt: skip
def test_what_is_refused(
    path: str, body: bytes, more: Sequence[tuple[str, str]], expected: tuple[int, str]
) -> None:
    client, _, answered, trailers = one_call(path, body, *more)

    assert status(trailers) == expected
    assert answered == b""
    assert client.guard.held_bytes == 0
    assert all(sink.aborted + sink.finished == 1 for sink in Sink.made)


def test_an_unknown_encoding_is_told_the_known_ones() -> None:
    trailers = one_call("/s/Echo", message(b"a"), ("grpc-encoding", "snappy"))[3]

    assert trailers[b"grpc-accept-encoding"] == b"identity,deflate,gzip"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("content-type", "application/json", b"415"),
        ("content-type", "application/grpc-web", b"415"),
        ("content-type", "", b"415"),
        (":method", "GET", b"405"),
    ],
)
def test_what_is_no_grpc_has_an_http_status(name: str, value: str, expected: bytes) -> None:
    async def go() -> Fields:
        client = Client()
        fields = tuple((key, value if key == name else old) for key, old in GRPC)
        client.send(headers(1, fields, end=False) + data(message(b"a"), end=True))
        frames = client.frames()
        assert [described(*part) for part in frames] == ["HEADERS 1 end", "rst 1 NO_ERROR"]
        assert not client.handlers.seen
        return {b":status": frames[0][3][-3:]}

    assert asyncio.run(go()) == {b":status": expected}


@pytest.mark.parametrize(
    "kind", ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"]
)
def test_what_is_grpc(kind: str) -> None:
    async def go() -> None:
        client = Client()
        fields = tuple((key, kind if key == "content-type" else old) for key, old in GRPC)
        client.send(headers(1, fields, end=False) + data(message(b"a"), end=True))
        await client.finish()
        assert client.answer()[1] == message(b"a")

    asyncio.run(go())


@pytest.mark.parametrize("missing", ["te", ":authority"])
def test_a_field_that_grpc_needs(missing: str) -> None:
    async def go() -> tuple[int, str]:
        client = Client()
        fields = tuple((key, old) for key, old in GRPC if key != missing)
        client.send(headers(1, fields, end=False) + data(message(b"a"), end=True))
        return status(client.answer()[2])

    word = ":te" if missing == "te" else missing
    assert asyncio.run(go()) == (13, f"Missing {word} header")


def test_a_message_above_the_limit_names_the_flag_before_it_arrives() -> None:
    async def go() -> None:
        client = Client(Limits(max_message_bytes=10))
        client.send(headers(1, call_fields(), end=False) + data(message(b"x" * 11)[:5]))
        code, text = status(client.answer()[2])
        assert code == 8
        assert text == "Received message larger than max (11 vs. 10); --max_message_mb sets it"
        assert client.guard.counters[Hit.MESSAGE_SIZE] == 1
        client.send(data(b"x" * 11, end=True))
        assert not client.connection.is_closed

    asyncio.run(go())


def test_a_message_as_long_as_the_limit_is_fine() -> None:
    assert one_call("/s/Echo", message(b"x" * 10), limits=Limits(max_message_bytes=10))[2] == message(
        b"x" * 10
    )


def test_more_metadata_than_announced_is_refused() -> None:
    limits = Limits(max_header_list_bytes=1000)

    code, text = status(one_call("/s/Echo", message(b"a"), ("a", "x" * 900), limits=limits)[3])

    assert code == 8
    assert text.startswith("metadata larger than max (")


def test_early_refusals_tell_the_client_to_stop() -> None:
    async def go() -> None:
        client = Client()
        client.send(headers(1, call_fields("/s/Unknown"), end=False))
        assert [described(*part) for part in client.frames()] == ["HEADERS 1 end", "rst 1 NO_ERROR"]
        client.send(data(message(b"late"), end=True))
        assert client.frames() == []
        assert not client.connection.is_closed

    asyncio.run(go())


# Encodings.


@pytest.mark.parametrize(("name", "bits"), [("gzip", 31), ("deflate", 15)])
@pytest.mark.parametrize("path", ["/s/Echo", "/s/Sink"])
@pytest.mark.parametrize("size", [3, 100_000])
def test_compression_both_ways(name: str, bits: int, path: str, size: int) -> None:
    machine = zlib.compressobj(wbits=bits)
    octets = machine.compress(b"abc" * size) + machine.flush()

    client, head, body, trailers = one_call(
        path, message(octets, 1), ("grpc-encoding", name), ("grpc-accept-encoding", f"identity, {name}")
    )

    assert client.handlers.seen == [(b"abc" * size, 0)]
    assert head[b"grpc-encoding"] == name.encode()
    assert body[0] == 1
    assert int.from_bytes(body[1:5], "big") == len(body) - 5
    assert zlib.decompress(body[5:], wbits=bits) == b"abc" * size
    assert status(trailers) == (0, "")


def test_a_reply_is_plain_if_the_client_does_not_take_the_encoding() -> None:
    _, head, body, _ = one_call(
        "/s/Echo", message(gzip.compress(b"abc", mtime=0), 1), ("grpc-encoding", "gzip")
    )

    assert b"grpc-encoding" not in head
    assert body == message(b"abc")


def test_a_message_may_be_plain_in_a_call_with_an_encoding() -> None:
    assert one_call("/s/Echo", message(b"abc"), ("grpc-encoding", "gzip"))[2] == message(b"abc")


def test_a_bomb_stops_at_the_limit() -> None:
    bomb = gzip.compress(bytes(10**6))

    trailers = one_call(
        "/s/Echo", message(bomb, 1), ("grpc-encoding", "gzip"), limits=Limits(max_message_bytes=10_000)
    )[3]

    assert status(trailers)[0] == 8


# Timeouts, texts and metadata as values.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"1H", 3600 * SECOND), (b"2M", 120 * SECOND), (b"3S", 3 * SECOND), (b"4m", 4_000_000), (b"5u", 5000),
        (b"6n", 6), (b"0S", 0), (b"99999999n", 99_999_999), (b"99999999H", 99_999_999 * 3600 * SECOND),
        (b"100000000n", None), (b"", None), (b"S", None), (b"1", None), (b"1s", None), (b"-1S", None),
        (b"1.5S", None), (b" 1S", None), (b"1 S", None), ("\u0661S".encode(), None),
    ],
)  # fmt: skip
def test_timeouts(value: bytes, expected: int | None) -> None:
    assert parse_timeout_ns(value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", b"plain"),
        (" ~!\"#$&'()*+,-./:;<=>?@[\\]^_`{|}", b" ~!\"#$&'()*+,-./:;<=>?@[\\]^_`{|}"),
        ("100%", b"100%25"), ("a\tb\r\n", b"a%09b%0D%0A"), ("\x7f", b"%7F"), ("ü", b"%C3%BC"),
        ("\U0001f600", b"%F0%9F%98%80"), ("\ud800", b"?"), ("", b""),
    ],
)  # fmt: skip
def test_status_messages(text: str, expected: bytes) -> None:
    assert percent_encoded(text).encode() == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", [b""]), (b"AAEC", [b"\0\1\2"]), (b"AAE=", [b"\0\1"]), (b"AAE", [b"\0\1"]), (b"AA", [b"\0"]),
        (b"AA==", [b"\0"]), (b"AAE,AAEC", [b"\0\1", b"\0\1\2"]), (b"AAE=, AA==", [b"\0\1", b"\0"]),
        (b"+/+/", [b"\xfb\xff\xbf"]),
    ],
)  # fmt: skip
def test_binary_metadata(value: bytes, expected: list[bytes]) -> None:
    assert decode_metadata([(b"x-bin", value)]) == [("x-bin", octets) for octets in expected]


@pytest.mark.parametrize("value", [b"A", b"!!!!", b"AA-_", b"A A="])
def test_what_is_no_binary_metadata(value: bytes) -> None:
    with pytest.raises(OvmsError, match="illegal base64"):
        decode_metadata([(b"x-bin", value)])


def test_other_metadata_is_text() -> None:
    assert decode_metadata([(b"a", b"b"), (b"bin", b"\xe9")]) == [("a", "b"), ("bin", "\xe9")]


# Time and cancellation.


def test_a_handler_is_told_whose_call_it_is() -> None:
    client = one_call("/s/Echo", message(b"a"), ("y", "z"))[0]

    (context,) = client.handlers.contexts
    assert (context.protocol, context.method, context.deadline_ns) == ("p", "Echo", 0)
    assert context.flow == client.connection.number > 0
    assert ("y", "z") in context.metadata
    assert context.peer == "host:1"


def test_the_deadline_is_carried_to_the_handler() -> None:
    client = one_call("/s/Echo", message(b"a"), ("grpc-timeout", "250m"))[0]

    assert client.handlers.seen == [(b"a", SECOND + 250_000_000)]


@run
async def test_a_handler_that_misses_the_deadline_is_cancelled() -> None:
    client = Client()
    fields = call_fields("/s/Wait", ("grpc-timeout", "1S"))
    client.send(headers(1, fields, end=False) + data(message(b"a"), end=True))
    await client.settle()
    call = client.connection.streams[1]
    call.tick(client.now_ns + SECOND)
    assert client.frames() == []

    call.tick(client.now_ns + SECOND + 1)
    await client.settle()

    assert status(client.answer()[2]) == (4, "Deadline Exceeded")
    assert client.handlers.was_cancelled


@run
async def test_a_reset_cancels_the_handler_and_nothing_is_sent() -> None:
    client = Client()
    client.send(headers(1, call_fields("/s/Wait"), end=False) + data(message(b"abc"), end=True))
    await client.settle()

    client.send(reset(1))
    await client.settle()

    assert client.handlers.was_cancelled
    assert client.frames() == []
    assert client.guard.held_bytes == 0


@run
async def test_a_slow_message_is_refused() -> None:
    client = Client(Limits(message_timeout_s=10))
    client.send(headers(1, call_fields(), end=False) + data(message(b"x" * (2 << 20))[:100]))
    call = client.connection.streams[1]
    assert client.guard.held_bytes == 95 + 64
    call.tick(client.now_ns + 12 * SECOND)
    assert client.frames() == []

    call.tick(client.now_ns + 12 * SECOND + 1)

    frames = client.frames()
    assert [described(*part) for part in frames] == ["HEADERS 1 end", "rst 1 NO_ERROR"]
    assert status(parse_block(frames[0][3])) == (8, "the message took too long")
    assert client.guard.counters[Hit.SLOW_MESSAGE] == 1
    assert client.guard.held_bytes == 0


@run
async def test_small_pieces_are_counted_with_what_they_cost() -> None:
    client = Client()
    client.send(headers(1, call_fields("/s/Bidi"), end=False) + data(message(b"x" * 1000)[:5]))
    for _ in range(400):
        client.send(data(b"x"))
    assert client.guard.held_bytes == 400 * (1 + 64) + 64, "the first frame had a piece of nothing"

    client.send(data(b"x" * 600))
    assert client.guard.held_bytes == client.connection.held_bytes == 1000
    await client.settle()

    assert client.handlers.seen == [b"x" * 1000]
    assert client.guard.held_bytes == client.connection.held_bytes == 0
    client.send(reset(1))
    await client.settle()


@run
async def test_a_message_without_memory_is_refused_in_time() -> None:
    client = Client(Limits(message_timeout_s=10, process_buffer_bytes=50))
    client.send(headers(1, call_fields(), end=False) + data(message(b"x" * 1000)[:100]))

    client.connection.streams[1].tick(client.now_ns + 11 * SECOND)

    assert status(parse_block(client.frames()[0][3])) == (
        8,
        "no memory for the message (--max_body_memory_mb, --arena_size_mb); try again later",
    )
    assert client.guard.counters[Hit.BUDGET] == 1


@run
async def test_a_message_beyond_the_budget_is_refused_as_it_arrives() -> None:
    """What windows promised before the budget was used up is not kept, whoever sends it."""
    client = Client(Limits(process_limit_bytes=3000))
    client.send(headers(1, call_fields(), end=False) + data(message(b"x" * 4000)[:2000]))
    client.send(headers(3, call_fields(), end=False) + data(message(b"x" * 4000)[:2000], stream=3))

    code, text = status(client.answer(3)[2])
    assert code == 8
    assert "--max_body_memory_mb" in text
    assert 2000 <= client.guard.held_bytes < 3000
    assert client.guard.counters[Hit.BUDGET] == 1
    client.send(data(message(b"x" * 4000)[2000:2500]))
    client.send(reset(1))
    assert client.guard.held_bytes == 0


@run
async def test_whoever_lags_gives_way_when_memory_is_short() -> None:
    client = Client(Limits(process_buffer_bytes=150_000, stream_window_bytes=1 << 20))
    client.send(headers(1, call_fields(), end=False))
    for _ in range(5):
        client.send(data(b"\0\0\2\0\0" + b"x" * 16_000 if not client.guard.held_bytes else b"x" * 16_000))
    held = client.guard.held_bytes
    stream = client.connection.streams[1]
    stream.tick(client.now_ns + 5 * SECOND)
    assert client.guard.held_bytes == held, "there is memory enough"

    client.guard.held_bytes += 100_000  # Others.
    stream.tick(client.now_ns + SECOND // 2)
    assert client.guard.held_bytes == held + 100_000, "it is on its way"
    stream.tick(client.now_ns + 5 * SECOND)
    assert client.guard.held_bytes == 100_000
    assert status(client.answer()[2])[0] == 8


@run
async def test_who_reads_an_answer_octet_by_octet_gives_way_when_memory_is_short() -> None:
    client = Client(Limits(process_buffer_bytes=150_000))
    client.send(wire.settings((4, 1)))
    client.send(headers(1, call_fields("/s/Gather"), end=False) + data(message(b"x" * 70_000), end=True))
    await client.settle()
    held = client.guard.held_bytes
    stream = client.connection.streams[1]
    stream.tick(client.now_ns)
    for second in range(1, 10):
        client.send(window(1, 1))
        stream.tick(client.now_ns + second * SECOND)
    assert client.guard.held_bytes == held - 9, "there is memory enough"

    client.guard.held_bytes += 100_000  # Others.
    stream.tick(client.now_ns + 10 * SECOND)
    assert client.guard.held_bytes == 100_000
    assert client.guard.counters[Hit.STALLED_STREAM] == 1


@pytest.mark.parametrize("limit", [100, 101])
def test_what_comes_of_a_packed_message_has_a_limit_of_its_own(limit: int) -> None:
    body = message(gzip.compress(bytes(101)), 1)
    client, _, answered, trailers = one_call("/s/Unpacked", body, ("grpc-encoding", "gzip"), limit=limit)

    assert client.guard.held_bytes == 0
    if limit == 101:
        assert (answered, status(trailers)) == (message(bytes(101)), (0, ""))
    else:
        assert status(trailers)[0] == 8
        assert "--max_unpacked_mb" in status(trailers)[1]


@pytest.mark.parametrize("pieces", [1, 50])
def test_what_comes_of_a_packed_message_counts(pieces: int) -> None:
    """All that is unpacked is held in the budget, until the call's end."""
    body = message(gzip.compress(bytes(1 << 20)) * pieces, 1)
    limits = Limits(process_limit_bytes=(4 << 20))
    client, _, _, trailers = one_call("/s/Refuse", body, ("grpc-encoding", "gzip"), limits=limits)

    if pieces == 1:
        assert status(trailers)[0] == 5
        assert (1 << 20) <= client.guard.peak_bytes < (4 << 20)
    else:
        assert status(trailers)[0] == 8
        assert client.guard.peak_bytes < (6 << 20)


@run
async def test_a_failed_call_keeps_nothing_alive() -> None:
    """An error's traceback refers to the request: no circle may keep it until somebody collects garbage."""
    client = Client()
    gc.collect()
    gc.disable()
    try:
        client.send(headers(1, call_fields("/s/Refuse"), end=False) + data(message(b"x"), end=True))
        call = weakref.ref(client.connection.streams[1])
        await client.finish()
        await client.settle()
        assert call() is None
    finally:
        gc.enable()


@run
async def test_a_reply_that_nobody_reads_is_given_up() -> None:
    client = Client(Limits(send_timeout_s=5))
    client.send(
        wire.settings((4, 3)) + headers(1, call_fields(), end=False) + data(message(b"abc"), end=True)
    )
    await client.settle()
    client.frames()
    call = client.connection.streams[1]
    call.tick(SECOND)
    client.send(window(1, 1))
    call.tick(2 * SECOND)
    call.tick(7 * SECOND)
    assert client.connection.streams

    call.tick(7 * SECOND + 1)

    assert [described(*part) for part in client.frames()] == ["DATA 1 1", "rst 1 ENHANCE_YOUR_CALM"]
    assert client.guard.counters[Hit.STALLED_STREAM] == 1


@pytest.mark.parametrize("opening", [window(1, 1000), wire.settings((4, 1000))])
def test_a_call_begins_when_there_is_window_for_its_answer(opening: bytes) -> None:
    asyncio.run(begin_later(opening))


async def begin_later(opening: bytes) -> None:
    client = Client()
    client.send(wire.settings((4, 0)))
    client.send(headers(1, call_fields(), end=False) + data(message(b"abc"), end=True))
    call = client.connection.streams[1]
    call.tick(2 * SECOND)
    await client.settle()
    assert client.handlers.seen == []

    client.send(opening)
    await client.finish()

    assert client.answer()[1] == message(b"abc")
    assert len(client.handlers.seen) == 1


@run
async def test_a_call_that_never_has_window_is_given_up() -> None:
    client = Client(Limits(send_timeout_s=5))
    client.send(wire.settings((4, 0)))
    client.send(headers(1, call_fields(), end=False) + data(message(b"abc"), end=True))
    client.frames()
    call = client.connection.streams[1]
    call.tick(2 * SECOND)
    call.tick(7 * SECOND)
    assert client.connection.streams

    call.tick(7 * SECOND + 1)

    assert [described(*part) for part in client.frames()] == ["rst 1 ENHANCE_YOUR_CALM"]
    assert client.guard.counters[Hit.STALLED_STREAM] == 1
    assert client.handlers.seen == []


def test_too_many_long_header_lists_end_the_connection() -> None:
    client = Client(Limits(max_header_list_bytes=500, rates={Hit.HEADER_LIST: 2, Hit.SETTINGS: 9}))
    for stream in (1, 3, 5):
        client.send(headers(stream, call_fields("/s/Echo", ("x", "v" * 500)), end=False))

    answers = [described(*part) for part in client.frames()]
    assert [answer.split()[0] for answer in answers] == ["HEADERS", "rst", "HEADERS", "rst", "goaway"]
    assert answers[-1] == "goaway 5 ENHANCE_YOUR_CALM"
    assert client.guard.counters[Hit.HEADER_LIST] == 4  # Three refused calls, and the fault.
    assert not client.connection.streams


@run
async def test_a_stop_tells_calls_that_go_on() -> None:
    client = Client()
    client.send(headers(1, call_fields("/s/Wait"), end=False) + data(message(b"abc"), end=True))
    await client.settle()

    call = client.connection.streams[1]
    assert isinstance(call, Call)
    call.finish(Code.UNAVAILABLE, "the server is stopping")
    await client.settle()

    assert status(client.answer()[2]) == (14, "the server is stopping")
    assert client.handlers.was_cancelled


# Streaming.


@run
async def test_several_messages_in_one_frame_and_one_in_several() -> None:
    client = Client()
    client.send(headers(1, call_fields("/s/Bidi"), end=False))
    client.send(data(message(b"a") + message(b"") + message(b"bc") + b"\0\0"))
    client.send(data(b"\0\0\3d") + data(b"ef", end=True))
    await client.finish()

    head, body, trailers = client.answer()
    assert client.handlers.seen == [b"a", b"", b"bc", b"def"]
    assert body == message(b"<a>") + message(b"<>") + message(b"<bc>") + message(b"<def>")
    assert head[b":status"] == b"200"
    assert status(trailers) == (0, "")
    assert client.guard.held_bytes == 0


@run
async def test_a_stream_answers_before_it_ends() -> None:
    client = Client()
    client.send(headers(1, call_fields("/s/Bidi"), end=False) + data(message(b"a")))
    await client.settle()

    assert [described(*part) for part in client.frames()] == ["HEADERS 1", "DATA 1 8"]
    client.send(data(message(b"b")))
    await client.settle()
    assert [described(*part) for part in client.frames()] == ["DATA 1 8"]
    client.send(data(b"", end=True))
    await client.settle()

    assert [described(*part) for part in client.frames()] == ["HEADERS 1 end"]


@run
async def test_a_server_stream_waits_for_its_reader() -> None:
    client = Client()
    client.send(wire.settings((4, 12)))
    client.send(headers(1, call_fields("/s/Many"), end=False) + data(message(b"5"), end=True))
    await client.settle()
    assert client.handlers.seen == [0, 1]
    client.frames()

    client.send(window(1, 6))
    await client.settle()
    assert client.handlers.seen == [0, 1, 2]
    client.send(window(1, 100))
    await client.finish()

    assert client.handlers.seen == [0, 1, 2, 3, 4]
    assert status(client.answer()[2]) == (0, "")


@run
async def test_a_client_stream_waits_for_its_reader() -> None:
    client = Client(Limits(stream_window_bytes=100))
    client.send(wire.settings((4, 0)))
    client.send(headers(1, call_fields("/s/Bidi"), end=False) + data(message(b"x" * 40)))
    await client.settle()
    assert client.handlers.seen == [b"x" * 40]
    client.frames()

    client.send(data(message(b"y" * 40)))
    await client.settle()
    assert [described(*part) for part in client.frames()] == []
    client.send(window(1, 1000))
    await client.settle()

    assert client.handlers.seen == [b"x" * 40, b"y" * 40]
    assert "window 1 90" in [described(*part) for part in client.frames()]


def test_a_stream_without_replies_is_a_whole_response() -> None:
    client, head, body, trailers = one_call("/s/None", message(b"a") + message(b"b"))

    assert client.handlers.seen == [b"a", b"b"]
    assert (head, body) == ({}, b"")
    assert trailers[b":status"] == b"200"
    assert trailers[b"content-type"] == b"application/grpc"
    assert status(trailers) == (0, "")


def test_a_stream_that_is_cut_off_is_internal() -> None:
    assert status(one_call("/s/Bidi", message(b"abc")[:-1])[3]) == (13, "The last message is cut off")


@run
async def test_a_failure_after_a_reply_is_a_trailer() -> None:
    client = Client()
    client.send(headers(1, call_fields("/s/Late")))
    await client.settle()

    head, body, trailers = client.answer()

    assert (head[b":status"], body, trailers) == (
        b"200",
        message(b"first"),
        {b"grpc-status": b"13", b"grpc-message": b"too late"},
    )


@run
async def test_a_stream_that_is_reset_ends_its_handler() -> None:
    client = Client()
    client.send(headers(1, call_fields("/s/Bidi"), end=False) + data(message(b"a") + b"\0\0"))
    await client.settle()
    client.frames()

    client.send(reset(1))
    await client.settle()

    assert client.frames() == []
    assert client.guard.held_bytes == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


@run
async def test_metadata_is_the_handlers_to_read() -> None:
    client = Client()
    client.send(headers(1, call_fields("/s/Bidi", ("x-bin", "AAE"), ("y", "z")), end=False))
    call = client.connection.streams[1]

    assert isinstance(call, Call)
    assert {("x-bin", b"\0\1"), ("y", "z")} <= set(call.head.metadata)
    assert (call.metadata, call.peer) == (call.head.metadata, "host:1")
    client.send(reset(1))
    await client.settle()


# Sinks.


@run
async def test_octets_go_straight_to_the_wanted_memory() -> None:
    client = Client()
    octets = bytes(range(200))
    client.send(headers(1, call_fields("/s/Sink"), end=False))
    frame = data(message(octets), end=True)
    assert client.connection.wanted(1) is None
    client.send(frame[: 9 + 5 + 2])
    sink = Sink.made[0]

    assert client.connection.wanted(1000) is None
    sent = 16
    while (target := client.connection.wanted(1)) is not None:
        size = min(70, len(target))
        target[:size] = frame[sent : sent + size]
        client.connection.advance(size, client.now_ns)
        sent += size
    assert sent == len(frame)
    await client.finish()

    assert bytes(sink.memory) == octets[2:]
    assert client.handlers.seen == [(octets, 0)]
    assert client.answer()[1] == message(octets)
    assert (sink.finished, sink.aborted) == (1, 0)
    assert client.guard.held_bytes == 0


@run
async def test_wanted_memory_ends_with_the_frame_and_with_the_message() -> None:
    client = Client()
    client.send(headers(1, call_fields("/s/Sink"), end=False))
    client.send(data(message(b"x" * 100)[:50])[: 9 + 5 + 2 + 10])

    target = client.connection.wanted(1)
    assert target is not None
    assert len(target) == 33
    client.send(b"x" * 33)
    assert client.connection.wanted(1) is None
    client.send(data(b"x" * 55 + b"\0" * 5)[:9])
    target = client.connection.wanted(1)

    assert target is not None
    assert len(target) == 55


@run
async def test_a_sink_of_a_call_that_is_reset_is_aborted_once() -> None:
    client = Client()
    client.send(headers(1, call_fields("/s/Sink"), end=False) + data(message(b"x" * 10)[:9]))

    client.send(reset(1))

    assert (Sink.made[0].aborted, Sink.made[0].finished) == (1, 0)
    assert client.connection.wanted(1) is None


@run
async def test_a_sink_whose_handler_has_not_begun_is_aborted_once() -> None:
    client = Client()
    client.send(headers(1, call_fields("/s/Sink"), end=False) + data(message(b"x" * 10), end=True) + reset(1))
    await client.settle()

    assert (Sink.made[0].aborted, Sink.made[0].finished) == (1, 0)
    assert not client.handlers.seen


@run
async def test_wanted_memory_of_a_call_that_ends_midway_is_not_used_any_more() -> None:
    client = Client(Limits(message_timeout_s=1))
    client.send(headers(1, call_fields("/s/Sink"), end=False) + data(message(b"x" * 100))[:40])
    assert client.connection.wanted(1) is not None

    client.connection.streams[1].tick(client.now_ns + 5 * SECOND)

    assert client.connection.wanted(1) is None
    assert Sink.made[0].aborted == 1
    client.send(b"x" * 74)
    assert not client.connection.is_closed
    assert not client.connection.is_mid_frame


@run
async def test_a_stream_whose_client_takes_all_lets_others_have_their_turn() -> None:
    client = Client()
    client.send(headers(1, call_fields("/s/Many"), end=False) + data(message(b"1000"), end=True))
    client.send(headers(3, call_fields("/s/Echo"), end=False) + data(message(b"x"), stream=3, end=True))
    await client.settle()

    assert client.answer(3)[1] == message(b"x")
    assert len(client.handlers.seen) < 100


@run
async def test_a_refused_header_list_is_counted() -> None:
    client = Client()
    long_fields = [(f"x-{number}", "v" * 3000) for number in range(6)]
    client.send(headers(1, call_fields("/s/Echo", *long_fields), end=False) + data(message(b"x"), end=True))
    await client.settle()

    assert status(client.answer()[2])[0] == 8
    assert client.guard.counters[Hit.HEADER_LIST] == 1
