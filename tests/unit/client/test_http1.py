# SPDX-License-Identifier: Apache-2.0
"""A client's HTTP/1.1, with a server's octets written by hand."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_mp.client.errors import ClientError, Failed, InvalidRequest, NotSent, Overloaded, Unavailable
from ovms_mp.client.exchange import Exchange, Request, lost
from ovms_mp.client.http1 import Http1Connection

HEAD = b"HTTP/1.1 200 OK\r\n"
PLAIN = HEAD + b"Content-Length: 5\r\nA: 1\r\na:2\r\n\r\nhello"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nt: 1\r\n\r\n"


def begun(most_bytes: int = 1 << 20) -> tuple[Http1Connection, Exchange]:
    connection = Http1Connection("host:1", (("accept", "*/*"),))
    exchange = Exchange(Request("POST", "/a", (b"12", b"3")), time.monotonic() + 60, most_bytes=most_bytes)
    connection.begin(exchange)
    return connection, exchange


def test_a_request_is_its_head_and_its_body() -> None:
    connection, _ = begun()

    assert b"".join(connection.take_outgoing()) == (
        b"POST /a HTTP/1.1\r\nhost: host:1\r\naccept: */*\r\ncontent-length: 3\r\n\r\n123"
    )
    assert not connection.has_room


@pytest.mark.parametrize("octets", [PLAIN, CHUNKED, b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN], ids=repr)
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_an_answer_comes_in_any_pieces(octets: bytes, size: int) -> None:
    connection, exchange = begun()
    for at in range(0, len(octets), size):
        connection.receive(octets[at : at + size])

    assert (exchange.status, bytes(exchange.reply().body)) == (200, b"hello")
    assert connection.has_room


def test_headers_of_the_same_name_are_one() -> None:
    connection, exchange = begun()
    connection.receive(PLAIN)

    assert exchange.headers["a"] == "1, 2"


@pytest.mark.parametrize(
    "octets",
    [
        HEAD + b"connection: close\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        PLAIN + b"more",
    ],
    ids=repr,
)
def test_some_answers_are_the_last_of_their_connection(octets: bytes) -> None:
    connection, exchange = begun()
    connection.receive(octets)

    assert exchange.reply().status == 200
    assert not connection.has_room


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    connection, exchange = begun()
    connection.receive(HEAD + b"\r\nhel")
    connection.receive(b"lo")
    assert not exchange.is_done
    connection.close(lost("end"), is_clean=True)

    assert bytes(exchange.reply().body) == b"hello"


def test_a_body_without_a_length_is_not_whole_when_the_connection_is_cut_off() -> None:
    connection, exchange = begun()
    connection.receive(HEAD + b"\r\nhel")
    connection.close(lost("reset"))

    with pytest.raises(Unavailable, match="reset"):
        exchange.reply()


def test_an_idle_connection_that_was_closed_has_not_begun_with_the_request() -> None:
    """Only one that has answered before: from a fresh one it may be the request that ends the server."""
    connection, exchange = begun()
    connection.receive(PLAIN)
    again = Exchange(exchange.request, time.monotonic() + 60)
    connection.begin(again)
    connection.close(lost("end"))
    fresh, first = begun()
    fresh.close(lost("end"))

    assert type(again.failure) is NotSent
    assert type(first.failure) is Unavailable


@pytest.mark.parametrize("octets", [PLAIN[:-1], CHUNKED[:-3], HEAD], ids=repr)
def test_half_an_answer_is_none(octets: bytes) -> None:
    connection, exchange = begun()
    connection.receive(octets)
    connection.close(lost("end"))

    with pytest.raises(Unavailable, match="end"):
        exchange.reply()


def test_answers_are_bounded() -> None:
    connection, exchange = begun(most_bytes=4)
    connection.receive(PLAIN)

    assert isinstance(exchange.failure, Overloaded)
    assert not connection.has_room


@pytest.mark.parametrize(
    "octets",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 101,
        HEAD + b"no colon\r\n\r\n",
        HEAD + b"content-length: 5, 6\r\n\r\n",
        HEAD + b"content-length: -5\r\n\r\n",
        HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        HEAD + b"transfer-encoding: gzip\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\n-1\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\nab\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 101,
        HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"1" * 5000,
        HEAD + b"a: b\r\n" * 20_000,
    ],
    ids=lambda octets: repr(octets[:60]),
)
def test_what_is_no_answer_is_refused(octets: bytes) -> None:
    connection, _ = begun()
    with pytest.raises(Failed, match="cannot be read"):
        connection.receive(octets)


@given(st.lists(st.binary(max_size=20)))
def test_anything_is_taken_or_refused(pieces: list[bytes]) -> None:
    connection, _ = begun()
    try:
        for piece in [HEAD + b"transfer-encoding: chunked\r\n\r\n", *pieces]:
            connection.receive(piece)
    except ClientError:
        pass


def test_a_header_cannot_have_a_line_break() -> None:
    with pytest.raises(InvalidRequest, match="line break"):
        Http1Connection("host", (("a", "b\r\nc: d"),))


def test_a_request_that_cannot_be_sent_has_not_begun() -> None:
    connection = Http1Connection("host", ())
    for value in ("\u20ac", "a\r\nb"):
        with pytest.raises((InvalidRequest, UnicodeEncodeError)):
            connection.begin(Exchange(Request("GET", "/", headers=(("a", value),)), time.monotonic() + 60))

    assert (connection.has_room, connection.take_outgoing()) == (True, [])


@pytest.mark.parametrize(
    ("octets", "hint"),
    [
        (b"\x15\x03\x01\0\2\2\x46", "it speaks TLS; give https://"),
        (b"\0\0\6\4\0\0\0\0\0\0\3\0\0\0\x80", "it speaks HTTP/2, as for gRPC; give grpc://"),
        (b"220 ready\r\n", "no status line"),
    ],
)
def test_who_speaks_something_else_is_told_apart(octets: bytes, hint: str) -> None:
    connection, _ = begun()
    with pytest.raises(Failed, match=hint):
        connection.receive(octets)
