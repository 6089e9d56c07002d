# SPDX-License-Identifier: Apache-2.0
"""Answers of a stream as they come: in pieces of any size, and never longer than the caller wants to hold."""

from __future__ import annotations

import numpy as np
import pytest

from ovms_mp.client import Failed, Unavailable
from ovms_mp.client.exchange import Request
from ovms_mp.client.grpc_framing import framed
from ovms_mp.client.hpack import encode
from ovms_mp.client.http2_frames import DATA, END_HEADERS, END_STREAM, HEADERS, frame
from ovms_mp.client.options import Options
from ovms_mp.client.session import Session
from ovms_mp.client.streams import Messages, Stream
from ovms_mp.front.kserve._proto import kserve_pb2

SENT = [b"", b"a", b"b" * 300, b"", b"c" * 5000]
OCTETS = b"".join(b"".join(framed([message])) for message in SENT)


@pytest.mark.parametrize("size", [1, 4, 5, 6, 7, 1000, len(OCTETS)])
def test_messages_come_whole_and_in_their_order(size: int) -> None:
    told = 0

    def count() -> None:
        nonlocal told
        told += 1

    exchange = Messages(Request("POST", "/"), 5000)
    exchange.on_message = count
    for start in range(0, len(OCTETS), size):
        exchange.take_data(OCTETS[start : start + size])
    assert list(exchange.messages) == SENT
    assert not exchange.nbytes
    assert told == min(len(SENT), told) > 0


def test_a_long_message_is_put_together_once() -> None:
    """With each of its pieces it took minutes."""
    exchange = Messages(Request("POST", "/"), 1 << 20)
    octets = b"".join(framed([bytes(1 << 20)]))
    pieces = [octets[start : start + 4096] for start in range(0, len(octets), 4096)]
    exchange.take_data(pieces[0])
    for piece in pieces[1:-1]:
        exchange.take_data(piece)
        assert exchange.pieces[-1] is piece
    exchange.take_data(pieces[-1])
    assert [len(message) for message in exchange.messages] == [1 << 20]


@pytest.mark.parametrize("size", [3, 100, 10_000])
def test_a_message_that_is_too_long_is_refused_before_it_is_here(size: int) -> None:
    exchange = Messages(Request("POST", "/"), 4999)

    def take_all() -> None:
        for start in range(0, len(OCTETS) - 4000, size):
            exchange.take_data(OCTETS[start : start + size])

    with pytest.raises(Failed, match="more than 4999 bytes"):
        take_all()


def test_a_stream_that_ends_before_all_was_sent_is_no_success() -> None:
    session = Session("grpc://h", Options())
    stream = Stream(session, "m", 0, (), 8, return_errors=False)
    connection = session.new_connection()
    stream.begin(connection)
    stream.send({"x": np.zeros(1, np.float32)})
    answer = b"".join(framed([kserve_pb2.ModelStreamInferResponse(infer_response={}).SerializeToString()]))
    connection.receive(
        frame(HEADERS, END_HEADERS, 1, encode([(":status", "200")]))
        + frame(DATA, 0, 1, answer)
        + frame(HEADERS, END_HEADERS | END_STREAM, 1, encode([("grpc-status", "0")]))
    )
    assert stream.take() == {}
    with pytest.raises(Unavailable, match="ended the stream before all requests were sent"):
        _ = stream.has_ended
