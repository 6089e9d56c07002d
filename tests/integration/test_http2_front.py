# SPDX-License-Identifier: Apache-2.0
"""The HTTP/2 server on real sockets: a grpcio client, an h2 client, TLS, drain and deadlines.

The server runs in a thread of this process with uvloop; every wait has a deadline.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import socket
import ssl
import subprocess
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
import uvloop

from ovms_mp.errors import ModelNotFound
from ovms_mp.front.gathered import Gathered
from ovms_mp.front.grpc.http2.limits import Guard, Hit, Limits
from ovms_mp.front.grpc.http2.server import Http2Server
from ovms_mp.front.methods import Streaming, Unary
from tests.support.http2_peer import Attacker, Closed
from tests.support.tls import handshakes
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.grpc.http2.call import Call

DEADLINE_S = 20
LARGE = 3 << 20


class Slots:
    """Memory for tensors; what is lent out must come back."""

    def __init__(self) -> None:
        self.lent = 0
        self.direct_bytes = 0

    def make(self, length: int) -> Slot:
        self.lent += 1
        return Slot(self, length)


class Slot:
    """A sink that wants all octets in its memory; what it was fed by copies is not distinguished."""

    def __init__(self, slots: Slots, length: int) -> None:
        self.slots, self.memory, self.filled = slots, bytearray(length), 0
        self.place: memoryview | None = memoryview(self.memory)

    def advance(self, nbytes: int) -> None:
        self.filled += nbytes
        self.place = None if self.filled == len(self.memory) else self.place

    def feed(self, piece: memoryview) -> int:
        raise AssertionError("all octets are wanted")

    def finish(self) -> Slot:
        return self

    def abort(self) -> None:
        self.slots.lent -= 1


class Front:
    """A server in its own thread, and what its handlers saw."""

    def __init__(self, limits: Limits | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.slots = Slots()
        self.started: list[str] = []
        self.was_cancelled = threading.Event()
        self.gate: asyncio.Event
        self.guard = Guard(limits if limits is not None else Limits())
        self._tls = tls
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.server: Http2Server

    def __enter__(self) -> Front:
        self._thread.start()
        self.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        self._loop.close()
        assert self.slots.lent == 0
        assert self.guard.held_bytes == 0

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE_S)

    async def _start(self) -> None:
        self.gate = asyncio.Event()
        methods: dict[str, Unary | Streaming] = {
            "/s/Echo": Unary("/s/Echo", self.echo),
            "/s/Sink": Unary("/s/Sink", self.sink, self.slots.make),
            "/s/Refuse": Unary("/s/Refuse", self.refuse),
            "/s/Wait": Unary("/s/Wait", self.wait),
            "/s/Bidi": Streaming("/s/Bidi", self.bidi),
        }
        self.server = Http2Server(methods, self.guard, handshakes(self._tls))
        await self.server.start(["127.0.0.1:0"])

    def stop(self, grace_s: float) -> None:
        self.run(self.server.stop(grace_s))

    def open_gate(self) -> None:
        self._loop.call_soon_threadsafe(self.gate.set)

    @property
    def port(self) -> int:
        return self.server.ports[0]

    async def echo(self, request: bytes | bytearray, _context: CallContext) -> bytes:
        return bytes(request)

    async def sink(self, slot: Slot | bytes, _context: CallContext) -> Gathered:
        if not isinstance(slot, Slot):  # It came packed.
            return Gathered([slot])
        return Gathered([memoryview(slot.memory)], slot.abort)

    async def refuse(self, request: bytes, _context: CallContext) -> bytes:
        raise ModelNotFound(f"no {request.decode()}: ü%")

    async def wait(self, request: bytes, _context: CallContext) -> bytes:
        self.started.append("wait")
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.was_cancelled.set()
            raise
        return request

    async def bidi(self, call: Call, _context: CallContext) -> None:
        async for request in call:
            await call.send(b"<" + request + b">")


@pytest.fixture(scope="module", autouse=True)
def _grpcio_is_initialised() -> None:
    """What grpcio opens once for a process is in every test's ledger from the beginning."""
    with Front() as running, grpc.insecure_channel(f"127.0.0.1:{running.port}") as opened:
        assert method(opened, "Echo")(b"") == b""


@pytest.fixture
def front() -> Iterator[Front]:
    with Front() as running:
        yield running


@pytest.fixture
def channel(front: Front) -> Iterator[grpc.Channel]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{front.port}", options) as opened:
        yield opened


def method(channel: grpc.Channel, name: str) -> Callable[..., bytes]:
    untyped: Any = channel
    call = untyped.unary_unary(f"/s/{name}")

    def ask(request: bytes, **more: Any) -> bytes:
        answer: bytes = call(request, timeout=more.pop("timeout", DEADLINE_S), **more)
        return answer

    return ask


def failure(ask: Callable[..., bytes], request: bytes, **more: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        ask(request, **more)
    error: Any = caught.value
    return error.code(), error.details()


@pytest.mark.parametrize("name", ["Echo", "Sink"])
@pytest.mark.parametrize("size", [0, 1, 100, 16_384, 300_000, LARGE])
def test_grpcio_messages_of_all_sizes(channel: grpc.Channel, name: str, size: int) -> None:
    request = bytes(range(251)) * (size // 251 + 1)

    assert method(channel, name)(request[:size]) == request[:size]


def test_grpcio_calls_at_once(channel: grpc.Channel) -> None:
    ask = method(channel, "Sink")
    requests = [bytes((number,)) * (1 + number * 3000) for number in range(100)]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, requests, timeout=DEADLINE_S)) == requests


def test_grpcio_statuses(channel: grpc.Channel) -> None:
    assert failure(method(channel, "Refuse"), b"model") == (grpc.StatusCode.NOT_FOUND, "no model: ü%")
    assert failure(method(channel, "Other"), b"") == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


def test_grpcio_message_above_the_limit() -> None:
    with (
        Front(Limits(max_message_bytes=1000)) as front,
        grpc.insecure_channel(f"127.0.0.1:{front.port}") as ch,
    ):
        code, text = failure(method(ch, "Echo"), b"x" * 2_000_000)

        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "--max_message_mb" in text
        assert method(ch, "Echo")(b"x" * 1000) == b"x" * 1000


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_grpcio_compression(channel: grpc.Channel, compression: grpc.Compression) -> None:
    for name in ("Echo", "Sink"):
        assert method(channel, name)(b"abc" * 70_000, compression=compression) == b"abc" * 70_000


def test_grpcio_streams(channel: grpc.Channel) -> None:
    untyped: Any = channel
    call = untyped.stream_stream("/s/Bidi")
    requests = [b"x" * (number * 1000) for number in range(200)]

    answers = list(call(iter(requests), timeout=DEADLINE_S))

    assert answers == [b"<" + request + b">" for request in requests]


def test_grpcio_deadline_and_cancellation(front: Front, channel: grpc.Channel) -> None:
    assert failure(method(channel, "Wait"), b"", timeout=0.3)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    assert front.was_cancelled.wait(DEADLINE_S)

    front.was_cancelled.clear()
    untyped: Any = channel
    call = untyped.unary_unary("/s/Wait")
    future = call.future(b"")
    eventually(lambda: len(front.started) == 2, within_s=DEADLINE_S, what="the second call waits")
    future.cancel()

    assert front.was_cancelled.wait(DEADLINE_S)


def test_grpcio_slow_message_is_told_why() -> None:
    """The reset behind the status does not hide the status from C-core."""
    with (
        Front(Limits(message_timeout_s=0.2)) as front,
        grpc.insecure_channel(f"127.0.0.1:{front.port}") as ch,
    ):
        untyped: Any = ch
        call = untyped.stream_unary("/s/Echo")
        release = threading.Event()

        def never() -> Iterator[bytes]:
            release.wait(DEADLINE_S)
            yield from ()

        try:
            with pytest.raises(grpc.RpcError) as caught:
                call(never(), timeout=DEADLINE_S)
        finally:
            release.set()
        error: Any = caught.value

        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == "the message took too long"
        assert front.guard.counters[Hit.SLOW_MESSAGE] == 1


def test_a_stop_loses_no_call(front: Front, channel: grpc.Channel) -> None:
    untyped: Any = channel
    call = untyped.unary_unary("/s/Wait")
    futures = [call.future(b"%d" % number, timeout=DEADLINE_S) for number in range(20)]
    eventually(lambda: len(front.started) == 20, within_s=DEADLINE_S, what="the second call waits")

    stopper = threading.Thread(target=front.stop, args=(DEADLINE_S,))
    stopper.start()
    front.open_gate()

    assert [future.result(DEADLINE_S) for future in futures] == [b"%d" % number for number in range(20)]
    stopper.join(DEADLINE_S)
    assert not stopper.is_alive()
    assert not front.server.protocols


def test_calls_go_on_while_connections_are_retired_by_age() -> None:
    """Each connection lives a third of a second; a client that keeps calling sees none of it."""
    with Front(Limits(max_age_s=0.3)) as front, grpc.insecure_channel(f"127.0.0.1:{front.port}") as ch:
        ask = method(ch, "Echo")
        seen: set[int] = set()

        def has_seen_three() -> bool:
            for number in range(200):
                assert ask(b"%d" % number) == b"%d" % number
            seen.update(id(protocol) for protocol in list(front.server.protocols))
            return len(seen) >= 3

        eventually(has_seen_three, within_s=DEADLINE_S, what="three connections")


def test_calls_beyond_the_grace_period_are_told(front: Front, channel: grpc.Channel) -> None:
    untyped: Any = channel
    call = untyped.unary_unary("/s/Wait")
    future = call.future(b"", timeout=DEADLINE_S)
    eventually(lambda: front.started == ["wait"], within_s=DEADLINE_S, what="the call waits")

    front.stop(0.1)

    assert future.code() == grpc.StatusCode.UNAVAILABLE
    assert future.details() == "the server is stopping"
    assert front.was_cancelled.is_set()


def test_an_idle_connection_is_asked_to_leave() -> None:
    with Front(Limits(idle_timeout_s=0.2)) as front, Client(front.port) as client:
        assert client.ask(b"abc") == b"abc"

        octets = client.read_all()

        assert frame_types(octets)[:2] == [7, 6], "GOAWAY, PING"
        eventually(lambda: not front.server.protocols, within_s=DEADLINE_S, what="the connection is gone")


def test_a_silent_client_is_dropped() -> None:
    with Front(Limits(handshake_timeout_s=0.2)) as front:
        with socket.create_connection(("127.0.0.1", front.port), DEADLINE_S) as silent:
            silent.settimeout(DEADLINE_S)
            while silent.recv(4096):
                pass
        assert front.guard.counters[Hit.HANDSHAKE] == 1


def test_a_client_that_reads_nothing_is_dropped() -> None:
    with Front(Limits(send_timeout_s=0.3)) as front, Client(front.port, window=LARGE * 10) as client:
        for _ in range(4):
            client.send(b"x" * LARGE)

        eventually(lambda: not front.server.protocols, within_s=DEADLINE_S, what="the connection is gone")

        assert front.guard.counters[Hit.STALLED_CONNECTION] == 1


def test_a_connection_too_many_is_refused_while_all_are_busy() -> None:
    with Front(Limits(max_connections=1)) as front:
        with grpc.insecure_channel(f"127.0.0.1:{front.port}") as busy:
            untyped: Any = busy
            call = untyped.unary_unary("/s/Wait").future(b"a", timeout=DEADLINE_S)
            eventually(lambda: front.started, within_s=DEADLINE_S, what="the call waits")
            with socket.create_connection(("127.0.0.1", front.port), DEADLINE_S) as second:
                assert is_closed(second)
            front.open_gate()
            assert call.result() == b"a"
        assert front.guard.counters[Hit.CONNECTIONS] == 1


def test_the_connection_that_is_idle_for_longest_gives_way() -> None:
    """It is told why, so that its client begins no call in vain; whoever has a call stays."""
    with Front(Limits(max_connections=2)) as front:
        with grpc.insecure_channel(f"127.0.0.1:{front.port}") as busy:
            untyped: Any = busy
            call = untyped.unary_unary("/s/Wait").future(b"a", timeout=DEADLINE_S)
            eventually(lambda: front.started, within_s=DEADLINE_S, what="the call waits")
            heard: Counter[str] = Counter()
            idle = Attacker(front.port, heard)
            eventually(lambda: len(front.server.protocols) == 2, within_s=DEADLINE_S, what="both are there")
            with Client(front.port) as third:
                assert third.ask(b"c") == b"c"
                with pytest.raises(Closed):
                    idle.listen(DEADLINE_S)
                assert heard == {"goaway NO_ERROR": 1, "closed": 1}
                idle.close()
                assert third.ask(b"d") == b"d"
            front.open_gate()
            assert call.result() == b"a"
        assert front.guard.counters[Hit.CONNECTIONS] == 0


def test_many_idle_connections_keep_nobody_out() -> None:
    """Neither those that are settled, nor those that say nothing, however they react to their end."""
    with Front(Limits(max_connections=20)) as front, contextlib.ExitStack() as stack:
        heard: Counter[str] = Counter()
        for number in range(60):
            if number % 2:
                stack.enter_context(socket.create_connection(("127.0.0.1", front.port), DEADLINE_S))
            else:
                stack.callback(Attacker(front.port, heard).close)
            if number % 10 == 9:
                with Client(front.port) as client:
                    assert client.ask(b"a") == b"a"
            assert len(front.server.protocols) <= 20 + 2
        assert front.guard.counters[Hit.CONNECTIONS] == 0


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(DEADLINE_S)
    try:
        return connection.recv(10) == b""
    except ConnectionResetError:
        return True


def test_what_is_no_http_2_is_answered_and_closed(front: Front) -> None:
    with socket.create_connection(("127.0.0.1", front.port), DEADLINE_S) as other:
        other.settimeout(DEADLINE_S)
        other.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = b""
        while piece := other.recv(4096):
            answer += piece

    assert answer.endswith(b"no HTTP/2 connection preface")


def frame_types(octets: bytes) -> list[int]:
    found = []
    while octets:
        found.append(octets[3])
        octets = octets[9 + int.from_bytes(octets[:3], "big") :]
    return found


class Client:
    """An h2 connection, as far as these tests need one."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None, window: int = 65_535) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
        self._socket.settimeout(DEADLINE_S)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname="localhost")
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.h2.initiate_connection()
        if window > 65_535:
            self.h2.increment_flow_control_window(window - 65_535)
            self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.bodies: dict[int, bytes] = {}
        self.statuses: dict[int, str] = {}
        self.is_at_end = False
        self._flush()
        self._windows_known = False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _flush(self) -> None:
        self._socket.sendall(self.h2.data_to_send())

    def send(self, request: bytes, path: str = "/s/Echo") -> int:
        if not self._windows_known:
            self.read_until(lambda: self.h2.remote_settings.initial_window_size > 65_535)
            self._windows_known = True
        stream = self.h2.get_next_available_stream_id()
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a")]
        self.h2.send_headers(stream, [*fields, ("te", "trailers"), ("content-type", "application/grpc")])
        octets = b"\0" + len(request).to_bytes(4, "big") + request
        size = self.h2.max_outbound_frame_size
        try:
            for start in range(0, len(octets), size):
                self.h2.send_data(stream, octets[start : start + size])
                self._flush()
            self.h2.end_stream(stream)
            self._flush()
        except (ConnectionError, TimeoutError):
            self.is_at_end = True
        return stream

    def read_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            octets = self._socket.recv(1 << 20)
            if not octets:
                self.is_at_end = True
                assert condition(), "the connection ended too early"
                return
            for event in self.h2.receive_data(octets):
                self._note(event)
            self._flush()

    def read_all(self) -> bytes:
        """Octets up to the end, as they are: for h2 a connection is over at the first of two GOAWAYs."""
        octets = b""
        while piece := self._socket.recv(1 << 16):
            octets += piece
        return octets

    def _note(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived | h2.events.ResponseReceived):
            status = dict(event.headers).get(b"grpc-status")
            if status is not None:
                self.statuses[event.stream_id] = status.decode()

    def ask(self, request: bytes, path: str = "/s/Echo") -> bytes:
        stream = self.send(request, path)
        self.read_until(lambda: stream in self.statuses)
        assert self.statuses[stream] == "0"
        return self.bodies[stream][5:]


@pytest.mark.parametrize("path", ["/s/Echo", "/s/Sink"])
def test_h2_messages(front: Front, path: str) -> None:
    with Client(front.port) as client:
        for size in (0, 1, 65_530, 65_531, 500_000, LARGE):
            request = bytes(range(251)) * (size // 251 + 1)
            assert client.ask(request[:size], path) == request[:size]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(path), "-out", f"{path}.crt"]
    subprocess.run(
        ["/usr/bin/env", *command.split(), *names], check=True, capture_output=True, timeout=DEADLINE_S
    )
    path.write_bytes(path.read_bytes() + path.with_name(path.name + ".crt").read_bytes())
    return path


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2"])
    return context


def client_context(certificate: Path, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificate))
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def test_tls(certificate: Path) -> None:
    with Front(tls=server_context(certificate)) as front:
        with Client(front.port, client_context(certificate, "h2")) as client:
            assert client.ask(b"x" * LARGE, "/s/Sink") == b"x" * LARGE
        trusted = certificate.read_bytes()
        credentials = grpc.ssl_channel_credentials(trusted[trusted.index(b"-----BEGIN CERT") :])
        options = [("grpc.ssl_target_name_override", "localhost")]
        with grpc.secure_channel(f"127.0.0.1:{front.port}", credentials, options) as ch:
            assert method(ch, "Echo")(b"x" * 1_000_000) == b"x" * 1_000_000


def test_tls_without_alpn_is_refused(certificate: Path) -> None:
    with (
        Front(tls=server_context(certificate)) as front,
        socket.create_connection(("127.0.0.1", front.port), DEADLINE_S) as plain,
        client_context(certificate).wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        secured.settimeout(DEADLINE_S)
        answer = b"".join(iter(lambda: secured.recv(1000), b""))
    assert answer.endswith(b"has not offered h2 by ALPN")
