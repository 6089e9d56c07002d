# SPDX-License-Identifier: Apache-2.0
"""A client's HTTP/2, with a server's frames written by hand."""

from __future__ import annotations

import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_mp.client import hpack
from ovms_mp.client.errors import Cancelled, Failed, InvalidRequest, NotSent, Overloaded, Unavailable
from ovms_mp.client.exchange import Exchange, Request, lost
from ovms_mp.client.http2 import Http2Connection
from ovms_mp.client.http2_frames import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)

OK = hpack.encode([(":status", "200"), ("content-type", "application/grpc")])
DONE = hpack.encode([("grpc-status", "0")])


class Peer:
    """A connection whose server is the test."""

    def __init__(self) -> None:
        self.connection = Http2Connection("host:1", is_secure=False, headers=(("te", "trailers"),))
        self.sent()

    def begin(self, body: bytes = b"x", most_bytes: int = 1 << 20) -> tuple[int, Exchange]:
        exchange = Exchange(Request("POST", "/a", (body,)), time.monotonic() + 60, most_bytes=most_bytes)
        return self.connection.begin(exchange), exchange

    def sent(self) -> list[tuple[int, int, int, bytes]]:
        octets = b"".join(self.connection.take_outgoing()).removeprefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        found = []
        while octets:
            high, low, kind, flags, stream_id = struct.unpack_from(">HBBBI", octets)
            end = 9 + (high << 8 | low)
            found.append((kind, flags, stream_id, octets[9:end]))
            octets = octets[end:]
        return found

    def says(self, kind: int, flags: int, stream_id: int, payload: bytes = b"") -> None:
        self.connection.receive(frame(kind, flags, stream_id, payload))


def setting(identifier: int, value: int) -> bytes:
    return struct.pack(">HI", identifier, value)


@pytest.fixture
def peer() -> Peer:
    return Peer()


def answer(stream_id: int, body: bytes) -> bytes:
    return (
        frame(HEADERS, END_HEADERS, stream_id, OK)
        + frame(DATA, 0, stream_id, body)
        + frame(HEADERS, END_HEADERS | END_STREAM, stream_id, DONE)
    )


@given(st.integers(1, 40))
def test_answers_come_in_any_pieces_and_order(size: int) -> None:
    peer = Peer()
    (one, first), (two, second) = peer.begin(), peer.begin()
    octets = answer(two, b"second") + answer(one, b"first")
    for at in range(0, len(octets), size):
        peer.connection.receive(octets[at : at + size])

    assert (bytes(first.reply().body), bytes(second.reply().body)) == (b"first", b"second")
    assert first.reply().headers["grpc-status"] == "0"
    assert peer.connection.is_idle
    assert peer.connection.has_room


def test_a_request_is_a_head_and_its_body(peer: Peer) -> None:
    stream_id, _ = peer.begin(b"body")

    (head, data) = peer.sent()
    assert head[:3] == (HEADERS, END_HEADERS, stream_id)
    assert hpack.BlockDecoder().decode(head[3])[":path"] == "/a"
    assert data == (DATA, END_STREAM, stream_id, b"body")


def test_a_long_body_waits_for_windows(peer: Peer) -> None:
    stream_id, _ = peer.begin(bytes(100_000))
    first = sum(len(payload) for kind, _, _, payload in peer.sent() if kind == DATA)
    peer.says(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 20))
    nothing = peer.sent()
    peer.says(WINDOW_UPDATE, 0, stream_id, struct.pack(">I", 1 << 20))
    rest = peer.sent()

    assert (first, nothing) == (65535, [])
    assert sum(len(payload) for _, _, _, payload in rest) == 100_000 - 65535
    assert [flags for _, flags, _, _ in rest] == [0, 0, END_STREAM]


def test_settings_change_windows_of_streams_that_wait(peer: Peer) -> None:
    peer.says(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 20))
    peer.begin(bytes(100_000))
    peer.sent()
    peer.says(SETTINGS, 0, 0, setting(4, 200_000) + setting(5, 1 << 20) + setting(3, 1))

    kinds = [(kind, len(payload)) for kind, _, _, payload in peer.sent()]
    assert sorted(kinds) == [(DATA, 100_000 - 65535), (SETTINGS, 0)]
    assert not peer.connection.has_room, "one stream is what the server takes"


def test_a_server_that_goes_away_answers_what_it_has_and_the_rest_goes_elsewhere(peer: Peer) -> None:
    (one, first), (_, second) = peer.begin(), peer.begin()
    peer.says(GOAWAY, 0, 0, struct.pack(">II", one, 0) + b"drain")

    assert not peer.connection.is_usable
    assert isinstance(second.failure, NotSent)
    peer.connection.receive(answer(one, b"ok"))
    assert bytes(first.reply().body) == b"ok"


@pytest.mark.parametrize(
    ("code", "error"), [(REFUSED_STREAM, NotSent), (CANCEL, Cancelled), (11, Overloaded), (2, Unavailable)]
)
def test_resets_say_whether_the_request_may_be_sent_again(peer: Peer, code: int, error: type) -> None:
    stream_id, exchange = peer.begin()
    peer.says(RST_STREAM, 0, stream_id, struct.pack(">I", code))

    assert type(exchange.failure) is error


def test_pings_are_answered(peer: Peer) -> None:
    peer.says(PING, 0, 0, b"12345678")
    peer.says(PING, ACK, 0, b"12345678")

    assert peer.sent() == [(PING, ACK, 0, b"12345678")]


def test_headers_may_be_continued_and_data_padded(peer: Peer) -> None:
    stream_id, exchange = peer.begin()
    peer.says(HEADERS, 0, stream_id, OK[:5])
    peer.says(CONTINUATION, END_HEADERS, stream_id, OK[5:])
    peer.says(DATA, PADDED | END_STREAM, stream_id, b"\2ab\0\0")

    assert (exchange.status, bytes(exchange.reply().body)) == (200, b"ab")


def test_a_cancelled_request_is_reset_and_its_late_answer_means_nothing(peer: Peer) -> None:
    stream_id, exchange = peer.begin()
    peer.sent()
    peer.connection.cancel(stream_id)
    peer.connection.receive(answer(stream_id, b"late"))

    assert peer.sent() == [(RST_STREAM, 0, stream_id, struct.pack(">I", CANCEL))]
    assert not exchange.is_done


def test_answers_are_bounded(peer: Peer) -> None:
    stream_id, exchange = peer.begin(most_bytes=10)
    peer.connection.receive(answer(stream_id, bytes(11)))

    with pytest.raises(Overloaded, match="max_answer_bytes"):
        exchange.reply()


def test_the_end_of_the_connection_is_the_end_of_all_requests(peer: Peer) -> None:
    (_, first), (_, second) = peer.begin(), peer.begin()
    peer.connection.close(lost("gone"))

    assert first.failure is not second.failure, "each has a request id of its own"
    for exchange in (first, second):
        with pytest.raises(Unavailable, match="gone"):
            exchange.reply()
    assert not peer.connection.has_room


def test_a_request_that_cannot_be_sent_has_not_begun(peer: Peer) -> None:
    request = Request("POST", "/a", (b"x",), (("a", "x" * 20_000),))
    with pytest.raises(InvalidRequest, match="the headers have"):
        peer.connection.begin(Exchange(request, time.monotonic() + 60))

    assert (peer.connection.is_idle, peer.sent()) == (True, [])


def test_a_stream_can_be_finished_while_its_window_is_below_zero(peer: Peer) -> None:
    exchange = Exchange(Request("POST", "/a", (b"x" * 1000,)), time.monotonic() + 60)
    stream_id = peer.connection.begin(exchange, is_whole=False)
    peer.sent()
    peer.says(SETTINGS, 0, 0, setting(4, 10))
    peer.sent()
    peer.connection.send(stream_id, (), is_whole=True)

    assert peer.sent() == [(DATA, END_STREAM, stream_id, b"")]


def test_a_body_goes_through_the_smallest_of_windows(peer: Peer) -> None:
    peer.says(SETTINGS, 0, 0, setting(4, 0))
    peer.sent()
    body = bytes(range(100))
    stream_id, _ = peer.begin(body)
    sent = peer.sent()[1:]
    for _ in body:
        peer.says(WINDOW_UPDATE, 0, stream_id, struct.pack(">I", 1))
        sent += peer.sent()

    assert b"".join(payload for _, _, _, payload in sent) == body
    assert [flags for _, flags, _, _ in sent] == [0] * 99 + [END_STREAM]


def test_a_long_frame_is_taken_as_it_comes(peer: Peer) -> None:
    stream_id, exchange = peer.begin()
    peer.says(HEADERS, END_HEADERS, stream_id, OK)
    octets = frame(DATA, END_STREAM, stream_id, bytes(range(250)) * 400)
    for at in range(0, len(octets), 1000):
        assert not exchange.is_done
        peer.connection.receive(octets[at : at + 1000])
        assert exchange.nbytes == at + len(octets[at : at + 1000]) - 9

    assert bytes(exchange.reply().body) == bytes(range(250)) * 400


def test_pings_do_not_end_a_stream_that_goes_on(peer: Peer) -> None:
    """Servers of gRPC ping with their answers, to find out how fast the network is."""
    stream_id, exchange = peer.begin()
    peer.says(HEADERS, END_HEADERS, stream_id, OK)
    for _ in range(20_000):
        peer.says(PING, 0, 0, bytes(8))
        peer.says(DATA, 0, stream_id, b"x")

    assert exchange.nbytes == 20_000


@pytest.mark.parametrize(
    ("octets", "hint"),
    [(b"HTTP/1.1 400 Bad Request\r\n", "give http://"), (b"\x15\x03\x03\0\2\2\x50\0\0", "give grpcs://")],
)
def test_who_speaks_something_else_is_told_apart(peer: Peer, octets: bytes, hint: str) -> None:
    peer.begin()
    with pytest.raises(Failed, match=hint):
        peer.connection.receive(octets)


@pytest.mark.parametrize(
    "octets",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        frame(HEADERS, 0, 1, OK) + frame(PING, 0, 0, bytes(8)),
        frame(CONTINUATION, END_HEADERS, 1, OK),
        frame(DATA, 0, 1, b"x"),
        frame(SETTINGS, 0, 0, b"12345"),
        frame(SETTINGS, 0, 0, setting(4, 1 << 31)),
        frame(SETTINGS, 0, 0, setting(5, 1)),
        frame(WINDOW_UPDATE, 0, 0, b"123"),
        frame(PING, 0, 0, b"123"),
        frame(5, 0, 1, b"1234"),
        frame(HEADERS, END_HEADERS, 1, hpack.encode([("a", "b")])),
        frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + OK),
        frame(HEADERS, END_HEADERS, 1, OK) + frame(HEADERS, END_HEADERS, 1, DONE),
        frame(PING, ACK, 0, bytes(8)) * 10_001,
        frame(SETTINGS, 0, 0) * 10_001,
        frame(HEADERS, 0, 1, OK) + frame(CONTINUATION, 0, 1) * 10_001,
        frame(HEADERS, END_HEADERS, 1, bytes(300_000)),
    ],
    ids=lambda octets: octets[:20].hex(),
)
def test_what_no_server_may_say_ends_the_connection(peer: Peer, octets: bytes) -> None:
    peer.begin()
    with pytest.raises(Failed, match="cannot be read"):
        peer.connection.receive(octets)


@given(
    st.lists(st.tuples(st.integers(0, 10), st.integers(0, 255), st.integers(0, 5), st.binary(max_size=12)))
)
def test_any_frames_are_taken_or_refused(frames: list[tuple[int, int, int, bytes]]) -> None:
    peer = Peer()
    peer.begin()
    try:
        for entry in frames:
            peer.says(*entry)
    except Failed:
        pass
