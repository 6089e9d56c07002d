# SPDX-License-Identifier: Apache-2.0
"""Frames of the socket over which memory is handed over, however they come."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from ovms_mp.errors import MalformedPayload
from ovms_mp.manager.changes.region_frames import (
    ConnectionEnded,
    FrameReader,
    ListRegions,
    Register,
    decode_call,
    encode_answer,
)
from ovms_mp.wire.closing import StrangersDescriptors

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, FrameReader]]:
    client, server = socket.socketpair()
    server.setblocking(False)
    with client, server:
        yield client, FrameReader(server, StrangersDescriptors())


def test_a_descriptor_belongs_to_the_frame_that_it_came_with(pair: tuple[socket.socket, FrameReader]) -> None:
    client, reader = pair
    client.sendall(encode_answer(number=1))
    with open(os.devnull, "rb") as file:
        socket.send_fds(client, [encode_answer(number=2)], [file.fileno()])
    client.sendall(encode_answer(number=3))

    counts = []
    for number in (1, 2, 3):
        assert reader.read() == b'{"version":1,"number":%d}' % number
        descriptors, has_more = reader.take_descriptors()
        assert not has_more
        counts.append(len(descriptors))
        for descriptor in descriptors:
            assert not os.get_inheritable(descriptor)
            os.close(descriptor)
    assert counts == [0, 1, 0]
    assert reader.read() is None
    assert not reader.has_begun


def test_frames_may_come_octet_by_octet(pair: tuple[socket.socket, FrameReader]) -> None:
    client, reader = pair
    *octets, last = encode_answer(number=1)
    for octet in octets:
        client.sendall(bytes([octet]))
        assert reader.read() is None
        assert reader.has_begun
    client.sendall(bytes([last]))
    assert reader.read() == b'{"version":1,"number":1}'


@pytest.mark.parametrize("length", [0, 4097, (1 << 32) - 1])
def test_lengths_that_no_call_has_are_refused(pair: tuple[socket.socket, FrameReader], length: int) -> None:
    client, reader = pair
    client.sendall(struct.pack(">I", length))
    with pytest.raises(MalformedPayload, match=f"a call of {length} bytes"):
        reader.read()


def test_an_end_is_told_also_within_a_frame(pair: tuple[socket.socket, FrameReader]) -> None:
    client, reader = pair
    client.sendall(b"\0\0")
    client.close()
    with pytest.raises(ConnectionEnded):
        reader.read()


def test_calls_are_read_and_unknown_keys_are_not() -> None:
    assert decode_call(b'{"call":"register","name":"r","version":1,"more":{}}') == Register(1, "r")
    assert decode_call(b'{"version":1,"call":"list"}') == ListRegions(1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"call":"list"}',
        b'{"call":"list","version":"1"}',
        b'{"call":"register","version":1}',
        b"\xff",
    ],
)
def test_what_is_no_call_is_refused(content: bytes) -> None:
    with pytest.raises(MalformedPayload, match="a call is a JSON object with 'version'"):
        decode_call(content)


def test_a_frame_that_is_cut_into_pieces_brings_no_more_descriptors(
    pair: tuple[socket.socket, FrameReader],
) -> None:
    client, reader = pair
    with open(os.devnull, "rb") as file:
        for octet in encode_answer(number=1):
            socket.send_fds(client, [bytes([octet])], [file.fileno()])

        assert reader.read() is not None
    descriptors, has_more = reader.take_descriptors()
    for descriptor in descriptors:
        os.close(descriptor)
    assert (len(descriptors), has_more) == (1, True)
