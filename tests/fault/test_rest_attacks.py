# SPDX-License-Identifier: Apache-2.0
"""Requests that cost more than they look, and clients that hold what they do not use, against the REST front.

Beside each a client that wants nothing but answers: it sees no failure. The front's memory and processor time are
bounded, and the attacker hears what HTTP has for it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support import rest_client
from tests.support.rest_attacks import MIB, Client, Watch, exchange, status_of
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.models import ModelZoo

CLIENT_TIMEOUT_S = 2
BODY_MEMORY_MB = 64
DESCRIPTORS = 300
MOST_GROWTH_MIB = 64
MOST_PROCESSOR_S = 1.0
WITHIN_S = 20.0
PREDICT = b"POST /v1/models/%s:predict HTTP/1.1\r\nHost: a\r\n"


@pytest.fixture(scope="module")
def server(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One REST front with low limits for all attacks."""
    directory = tmp_path_factory.mktemp("attacked_rest")
    config = zoo.config_file(directory, ["tiny", "id_f32", "slow"])
    limits = ["--rest_client_timeout_s", str(CLIENT_TIMEOUT_S), "--max_body_memory_mb", str(BODY_MEMORY_MB)]
    arguments = ["config", "--config_path", str(config), *limits]
    with Server(arguments, directory / "server.log", descriptor_limit=DESCRIPTORS) as started:
        yield started
        assert "Traceback" not in started.log()


@pytest.fixture
def pid(server: Server) -> Iterator[int]:
    """The front, which is the same after the test."""
    pids = server.pids("rest")
    yield pids[0]
    assert server.pids("rest") == pids


# Bodies.


def test_uploads_that_stall_hold_no_more_than_the_budget_and_not_for_long(server: Server, pid: int) -> None:
    port, length = server.rest_port, 20 * MIB
    head = PREDICT % b"id_f32" + b"Content-Length: %d\r\n\r\n" % length
    with contextlib.ExitStack() as stack, Client(port) as beside, Watch(pid) as front:
        stalled = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S))
            for _ in range(10)
        ]
        answers = []
        for connection in stalled:
            with contextlib.suppress(ConnectionError, TimeoutError):
                connection.sendall(head + b" " * (length - 1))
        for connection in stalled:
            with contextlib.suppress(ConnectionError):
                answers.append(status_of(connection.recv(MIB)))
        beside.wait_for_answers()

    assert not beside.failures
    assert front.growth_mib <= BODY_MEMORY_MB + MOST_GROWTH_MIB
    assert answers.count(429) >= 5
    assert set(answers) <= {0, 429}
    body = b'{"instances": [1.5]' + b" " * length + b"}"
    assert eventually(
        lambda: rest_client.request(port, "POST", "/v1/models/id_f32:predict", body).status == 200,
        WITHIN_S,
        "memory for a body",
    )
    reply = rest_client.request(port, "POST", "/v1/models/id_f32:predict", body + b" " * (45 * MIB))
    assert (reply.status, "--max_body_memory_mb" in reply.text()) == (413, True)


# Heads.

GOOD = b"GET /v1/models/tiny HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (b"GET / HTTP/0.9\r\n\r\n", 505),
        (b"GET /x HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"POST /v1/models/tiny:predict HTTP/2.0\r\nContent-Length: 2\r\n\r\n{}", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (GOOD.replace(b"Host: a\r\n", b""), 400),
        (GOOD.replace(b"Host: a\r\n", b"Host: a\r\nHost: a\r\n"), 400),
        (PREDICT % b"tiny" + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET / HTTP/1.1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"a" * 70_000 + b": 1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 300 + b"\r\n", 431),
        (
            PREDICT % b"tiny" + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
            431,
        ),
        (PREDICT % b"tiny" + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (GOOD + b"garbage", 200),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else None,
)
def test_heads_that_are_refused(octets: bytes, status: int, server: Server) -> None:
    answer = exchange(server.rest_port, octets)

    assert status_of(answer) == status
    assert b'{"error"' in answer
    assert b"nternal" not in answer


@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        (b"GET / HTTP/1.1\r\nX: ", b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n", b": 1\r\n\r\n", 431),
        (b"GET /", b" HTTP/1.1\r\n\r\n", 414),
        (PREDICT % b"tiny" + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"\r\n\r\n", 431),
        (PREDICT % b"tiny" + b"Transfer-Encoding: chunked\r\n\r\n1;", b"\r\n\r\n", 431),
    ],
    ids=["value", "name", "URL", "trailer", "chunk extension"],
)
def test_heads_without_end(before: bytes, after: bytes, status: int, server: Server, pid: int) -> None:
    with Client(server.rest_port) as beside, Watch(pid) as front:
        answer = exchange(server.rest_port, before + b"a" * 60 * MIB + after)
        beside.wait_for_answers()

    assert status_of(answer) == status
    assert not beside.failures
    assert front.growth_mib <= MOST_GROWTH_MIB
    assert front.processor_s <= MOST_PROCESSOR_S


def test_errors_do_not_reflect_all_that_was_sent(server: Server) -> None:
    port, long = server.rest_port, "n" * 60_000
    for method, path, body in (
        ("GET", f"/{long}", None),
        ("GET", f"/v1/models/{long}", None),
        ("GET", f"/v1/models/tiny/versions/{long}", None),
        ("POST", "/v1/models/id_f32:predict", json.dumps({"inputs": {long * 50: [1]}})),
        ("POST", "/v1/models/id_f32:predict", json.dumps({"inputs": {f"{long}{n}": [1] for n in range(50)}})),
        ("POST", f"/v1/models/tiny:{long}", "{}"),
    ):
        reply = rest_client.request(port, method, path, body)
        assert reply.status in (400, 404)
        assert len(reply.body) < 8192
    reply = rest_client.request(port, "POST", "/v1/models/tiny:predict", "{}", {"Content-Encoding": long})
    assert (reply.status, len(reply.body) < 8192) == (415, True)


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"


def tiny(
    *fields: bytes, model: bytes = b"tiny", body: bytes = b'{"instances": [[0,1,2,3,4,5,6,7,8,9]]}'
) -> bytes:
    """A predict request as octets."""
    return PREDICT % model + b"".join(fields) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def heard_behind_the_end(port: int, octets: bytes) -> bytes:
    """Send octets and say that no more will come; all that the server answers."""
    heard = b""
    with socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S) as connection:
        connection.sendall(octets)
        connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(MIB):
            heard += part
    return heard


@pytest.mark.parametrize("offer", [H2C, WEBSOCKET], ids=["h2c", "websocket"])
def test_offers_of_other_protocols_are_ignored(offer: bytes, server: Server) -> None:
    """As Java's HttpClient and ``curl --http2`` make them, also on a connection that is used again."""
    answers = heard_behind_the_end(server.rest_port, tiny(offer) * 3 + GOOD + tiny(offer))

    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 5
    assert answers.count(b"HTTP/1.1 ") == 5


SLOW = tiny(model=b"slow", body=b'{"instances": [1.0]}')


@pytest.mark.parametrize(
    ("octets", "statuses"),
    [
        (tiny(), [200]),
        (SLOW, [200]),
        (tiny() * 3 + GOOD, [200] * 4),
        (SLOW + tiny() + tiny()[:-4], [200, 200]),
        (tiny() * 2 + b"\x16\x03garbage", [200, 200, 400]),
        (SLOW + b"garbage", [200, 400]),
        (GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"), [200]),
    ],
    ids=lambda value: repr(value[-20:]) if isinstance(value, bytes) else None,
)
def test_who_only_stops_sending_gets_the_answers(octets: bytes, statuses: list[int], server: Server) -> None:
    answers = heard_behind_the_end(server.rest_port, octets)

    assert [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", answers)] == statuses


@pytest.mark.parametrize("is_chunked", [False, True])
def test_who_sends_too_much_reads_why(is_chunked: bool, server: Server, pid: int) -> None:
    """The client sends all before it reads, and more than the socket's buffers hold."""
    length = 200 * MIB
    framing = b"Transfer-Encoding: chunked\r\n\r\n%x" if is_chunked else b"Content-Length: %d\r\n"
    with (
        Watch(pid) as front,
        socket.create_connection(("127.0.0.1", server.rest_port), timeout=WITHIN_S) as connection,
    ):
        connection.sendall(PREDICT % b"tiny" + framing % length + b"\r\n")
        for _ in range(length // MIB):
            connection.sendall(bytes(MIB))
        answer = connection.recv(MIB)

    assert status_of(answer) == 413
    assert b"is longer than the limit" in answer
    assert front.growth_mib <= MOST_GROWTH_MIB


def test_strangers_are_one_line_in_the_log(server: Server) -> None:
    before = len(server.log().splitlines())
    for octets, count in (
        (b"\x16\x03\x01\x02\0\1\0\1\xfc\3\3", 50),
        (b"\0" * 9, 10),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 3),
    ):
        for _ in range(count):
            exchange(server.rest_port, octets)

    def has_logged(kind: str, count: int) -> bool:
        text = "\n".join(server.log().splitlines()[before:])
        return sum(map(int, re.findall(rf"{kind}=(\d+)", text))) >= count

    for kind, count in (
        ("tls_hello", 50),
        ("http2_preface", 3),
        ("http_400", 10),
    ):  # Or more, of earlier tests.
        eventually(functools.partial(has_logged, kind, count), WITHIN_S, f"all of {kind}")
    lines = server.log().splitlines()[before:]
    assert len(lines) <= 3


# Clients that do not read, do not send, or leave.


@pytest.mark.parametrize(
    "request_octets",
    [
        GOOD,
        b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["status", "not found"],
)
def test_pipelined_requests_whose_answers_nobody_reads(
    request_octets: bytes, server: Server, pid: int
) -> None:
    with Client(server.rest_port) as beside, Watch(pid) as front:
        with socket.create_connection(("127.0.0.1", server.rest_port), timeout=WITHIN_S) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            with pytest.raises(ConnectionError):
                connection.sendall(request_octets * 500_000)
        beside.wait_for_answers()

    assert not beside.failures
    assert front.growth_mib <= 16
    eventually(lambda: "answer_unread=" in server.log(), WITHIN_S, "a line in the log")


def test_pipelined_requests_that_are_read_are_all_answered(server: Server) -> None:
    answers = exchange(server.rest_port, GOOD * 2000 + b"GET /nothing HTTP/1.0\r\n\r\n")

    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 2000
    assert answers.count(b"HTTP/1.1 404 ") == 1


def test_long_answers_that_nobody_reads(server: Server, pid: int) -> None:
    body = b'{"instances": [' + b"1," * 1_000_000 + b"1]}"
    octets = PREDICT % b"id_f32" + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with contextlib.ExitStack() as stack, Client(server.rest_port) as beside, Watch(pid) as front:
        connections = []
        for _ in range(30):
            connection = socket.create_connection(("127.0.0.1", server.rest_port), timeout=WITHIN_S)
            connections.append(stack.enter_context(connection))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            with contextlib.suppress(ConnectionError):
                connection.sendall(octets)
        eventually(lambda: front.now_mib() <= front.before_mib + MOST_GROWTH_MIB, WITHIN_S, "memory is back")
        beside.wait_for_answers()

    assert not beside.failures
    assert front.growth_mib <= 2 * BODY_MEMORY_MB + MOST_GROWTH_MIB


@pytest.mark.parametrize(
    "start",
    [b"GET / HT", b"GET / HTTP/1.1\r\nX: ", b"\r\n", PREDICT % b"tiny" + b"Content-Length: 9\r\n\r\n{"],
)
def test_who_sends_too_slowly_is_cut_off(start: bytes, server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=WITHIN_S) as connection:
        connection.sendall(start)
        heard = b""
        with contextlib.suppress(ConnectionError):
            heard = connection.recv(MIB)

    assert status_of(heard) in (0, 408)


def test_a_head_that_dribbles_is_cut_off(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=WITHIN_S) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")

        def is_over() -> bool:
            try:
                connection.sendall(b"a")
                connection.setblocking(False)
                return status_of(connection.recv(MIB)) == 408
            except BlockingIOError:
                return False
            finally:
                connection.setblocking(True)

        assert eventually(is_over, WITHIN_S, "408")


def test_idle_connections_beyond_the_descriptors(server: Server, pid: int) -> None:
    port = server.rest_port
    with contextlib.ExitStack() as stack, Client(port, may_be_evicted=True) as beside:
        for index in range(2 * DESCRIPTORS):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S))
            with contextlib.suppress(ConnectionError):
                connection.sendall((b"", GOOD, b"GET / HT")[index % 3])
        beside.wait_for_answers()
        for _ in range(20):
            assert rest_client.request(port, "GET", "/v1/models/tiny").status == 200
        beside.wait_for_answers(200)

    assert not beside.failures
    eventually(lambda: "idle_closed=" in server.log(), WITHIN_S, "a line in the log")


def test_connections_that_are_all_busy_leave_room_for_a_refusal(server: Server, pid: int) -> None:
    port = server.rest_port
    head = PREDICT % b"tiny" + b"Content-Length: 100\r\n\r\n{"
    answers = []
    with contextlib.ExitStack() as stack:
        busy = []
        for _ in range(DESCRIPTORS):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S))
            busy.append(connection)
            with contextlib.suppress(ConnectionError):
                connection.sendall(head)
        for connection in busy:
            with contextlib.suppress(ConnectionError):
                answers.append(status_of(connection.recv(MIB)))

    assert answers.count(503) > 0
    assert set(answers) <= {0, 503}
    assert rest_client.request(port, "GET", "/v1/models/tiny").status == 200


@pytest.mark.timeout(120)
@pytest.mark.parametrize("goodbye", ["close", "reset"])
def test_what_a_client_that_left_had_asked_for_is_not_computed(goodbye: str, server: Server) -> None:
    port, body = server.rest_port, b'{"instances": [1.0]}'
    octets = PREDICT % b"slow" + b"Content-Length: %d\r\n\r\n" % len(body) + body

    def runs() -> int:
        reply = rest_client.request(port, "GET", "/v2/models/slow/stats")
        return int(reply.json()["model_stats"][0]["execution_count"])

    before = runs()
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
    for connection in connections:
        connection.sendall(octets)
    # All are there once a later one has been answered by a front that takes them in their order.
    assert rest_client.request(port, "GET", "/v1/models/tiny").status == 200
    for connection in connections:
        if goodbye == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()

    # Asked behind all of them.
    assert rest_client.request(port, "POST", "/v1/models/slow:predict", body).status == 200
    assert runs() - before < 20
