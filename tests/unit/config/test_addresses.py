# SPDX-License-Identifier: Apache-2.0
"""Addresses as settings have them, and what is said of those that nothing can listen on."""

from __future__ import annotations

import os

import pytest

from ovms_mp.config.addresses import check_unix_paths, parse_socket_mode, split_addresses, unix_paths
from ovms_mp.config.listening import check_listening
from ovms_mp.config.transports import GrpcConfig, RestConfig, UnixSocketConfig
from ovms_mp.errors import ConfigError

UNIX = UnixSocketConfig()


def test_hosts_and_sockets_are_told_apart() -> None:
    text = " 0.0.0.0, unix:/run/a.sock,[::1],unix:///run/b.sock, unix:c.sock , unix:/run/../run/a.sock"
    assert split_addresses(text) == ("0.0.0.0", "[::1]")
    assert unix_paths(text) == ("/run/a.sock", "/run/b.sock", os.path.abspath("c.sock"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.0.0.0, unix:", "needs the path of a socket"),
        ("unix:/" + "x" * 107, "has 107 bytes at most, this one has 108"),
        ("unix:/" + "é" * 60, "this one has 121"),
    ],
)
def test_paths_that_no_socket_can_have(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match="--rest_bind_address .*" + words):
        check_unix_paths(text, "rest_bind_address")
    check_unix_paths("unix:/" + "x" * 106, "rest_bind_address")


def test_modes() -> None:
    assert (parse_socket_mode("660"), parse_socket_mode("0777"), parse_socket_mode("0")) == (0o660, 0o777, 0)
    for text in ("", "rw", "888", "-1", "1777"):
        with pytest.raises(ConfigError, match="--unix_socket_mode"):
            parse_socket_mode(text)


def test_where_a_protocol_is_served() -> None:
    only_socket = GrpcConfig(port=9000, bind_address="unix:/g")
    assert (only_socket.is_served, only_socket.tcp_port, only_socket.hosts) == (True, 0, ())
    both = GrpcConfig(port=9000, bind_address="unix:/g,127.0.0.1")
    assert (both.is_served, both.tcp_port, both.hosts, both.unix_paths) == (
        True,
        9000,
        ("127.0.0.1",),
        ("/g",),
    )
    without_port = RestConfig(port=0, bind_address="unix:/r,127.0.0.1")
    assert (without_port.is_served, without_port.tcp_port, without_port.hosts) == (True, 0, ())
    assert not RestConfig(port=0).is_served


def test_ports_may_be_0_where_there_is_a_socket() -> None:
    socket, nothing = GrpcConfig(port=0, bind_address="unix:/g"), GrpcConfig(port=0)
    check_listening(socket, RestConfig(port=0), UNIX)
    check_listening(nothing, RestConfig(port=0, bind_address="unix:/r"), UNIX)
    check_listening(GrpcConfig(port=8000, bind_address="unix:/g"), RestConfig(port=8000), UNIX)
    with pytest.raises(ConfigError, match="cannot both be unset"):
        check_listening(nothing, RestConfig(port=0), UNIX)
    with pytest.raises(ConfigError, match="cannot have the same values; both are 8000"):
        check_listening(GrpcConfig(port=8000), RestConfig(port=8000), UNIX)
    with pytest.raises(ConfigError, match="both have unix:/g"):
        check_listening(socket, RestConfig(bind_address="unix:/g"), UNIX)
    with pytest.raises(ConfigError, match="needs the path of a socket"):
        check_listening(GrpcConfig(bind_address="unix:"), RestConfig(port=0), UNIX)
    with pytest.raises(ConfigError, match="--unix_socket_mode 999"):
        check_listening(socket, RestConfig(), UnixSocketConfig(mode="999"))


def test_grpcio_cannot_have_sockets_that_fronts_share() -> None:
    with pytest.raises(ConfigError, match=r"--grpc_front grpcio .* use --grpc_front native"):
        check_listening(GrpcConfig(bind_address="unix:/g", front="grpcio"), RestConfig(), UNIX)
