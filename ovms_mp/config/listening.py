# SPDX-License-Identifier: Apache-2.0
"""Whether ports and addresses of the protocols agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.config.addresses import check_unix_paths, parse_socket_mode
from ovms_mp.errors import ConfigError

if TYPE_CHECKING:
    from ovms_mp.config.transports import GrpcConfig, RestConfig, UnixSocketConfig


def check_ports(port: int, rest_port: int) -> None:
    """Refuse a server without any port, and one port for both protocols.

    Raises:
        ConfigError: It is so.
    """
    if not port and not rest_port:
        raise ConfigError("port and rest_port cannot both be unset; give --port, --rest_port or both")
    if port == rest_port:
        raise ConfigError(f"port and rest_port cannot have the same values; both are {port}")


def check_listening(grpc: GrpcConfig, rest: RestConfig, unix: UnixSocketConfig) -> None:
    """Refuse what cannot be listened on.

    Raises:
        ConfigError: There is nothing to listen on, or both protocols would have the same, or a path is none.
    """
    # An address without a path first: without it there may be nothing to listen on, which would be said instead.
    for flag, config in (("grpc_bind_address", grpc), ("rest_bind_address", rest)):
        check_unix_paths(config.bind_address, flag)
    if (not grpc.unix_paths and not rest.unix_paths) or grpc.tcp_port:
        check_ports(grpc.tcp_port, rest.tcp_port)
    parse_socket_mode(unix.mode)
    for path in grpc.unix_paths:
        if path in rest.unix_paths:
            raise ConfigError(
                f"--grpc_bind_address and --rest_bind_address cannot have the same socket; both have unix:{path}"
            )
    if grpc.unix_paths and grpc.front != "native":
        raise ConfigError(
            f"--grpc_bind_address unix:{grpc.unix_paths[0]}: --grpc_front {grpc.front} cannot take sockets from the "
            "manager process, which fronts share; use --grpc_front native"
        )
