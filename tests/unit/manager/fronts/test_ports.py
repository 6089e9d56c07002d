# SPDX-License-Identifier: Apache-2.0
"""A server's ports, taken and given back. The ports are real ones of this machine."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ovms_mp.config.server import ServerConfig
from ovms_mp.config.transports import GrpcConfig, RestConfig
from ovms_mp.errors import BootError
from ovms_mp.manager.fronts.ports import take_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        port: int = taken.getsockname()[1]
        return port


def config(grpc: int, rest: int) -> ServerConfig:
    return ServerConfig(
        models=(),
        grpc=GrpcConfig(port=grpc, bind_address=HOST),
        rest=RestConfig(port=rest, bind_address=HOST),
    )


def is_free(port: int) -> bool:
    with socket.socket() as other:
        try:
            other.bind((HOST, port))
        except OSError:
            return False
    return True


def test_both_are_held_until_they_are_closed() -> None:
    grpc, rest = free_port(), free_port()
    ports = take_ports(config(grpc, rest))
    assert len(ports.rest) == 1
    assert not is_free(grpc)
    assert not is_free(rest)
    ports.close()
    ports.close()

    assert is_free(grpc)
    assert is_free(rest)


def test_without_a_port_there_is_no_socket() -> None:
    ports = take_ports(config(0, 0))

    assert (ports.rest, ports.held) == ((), ())


def test_if_the_second_is_taken_the_first_is_given_back() -> None:
    grpc = free_port()
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(BootError, match="choose another --rest_port"):
            take_ports(config(grpc, taken.getsockname()[1]))

    assert is_free(grpc)


def test_connections_come_from_listening_on() -> None:
    rest = free_port()
    ports = take_ports(config(0, rest))
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect((HOST, rest))
    ports.listen(rest, 5)
    with socket.create_connection((HOST, rest), timeout=5):
        pass
    ports.close()


@contextlib.contextmanager
def handed_over(port: int) -> Iterator[socket.socket]:
    with socket.socket() as made:
        made.bind((HOST, port))
        made.listen()
        yield made


def test_sockets_that_were_handed_over_are_used_instead_of_own_ones() -> None:
    grpc, rest = free_port(), free_port()
    with handed_over(grpc) as one, handed_over(rest) as other:
        ports = take_ports(config(grpc, rest), (one, other))
        assert (ports.grpc, ports.rest, ports.held) == ((one,), (other,), ())
        ports.close()
        assert is_free(grpc)


def test_grpcio_cannot_take_a_socket() -> None:
    grpc = free_port()
    given = replace(config(grpc, 0), grpc=GrpcConfig(port=grpc, bind_address=HOST, front="grpcio"))
    with handed_over(grpc) as one, pytest.raises(BootError, match="--grpc_front grpcio cannot take sockets"):
        take_ports(given, (one,))
