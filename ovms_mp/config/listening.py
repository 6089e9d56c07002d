# SPDX-License-Identifier: Apache-2.0
"""Whether ports and addresses of the protocols agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.config.addresses import check_unix_paths, parse_socket_mode
from ovms_mp.errors import ConfigError
from ovms_mp.tls.material import read_material

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.config.transports import ClientsConfig, GrpcConfig, RestConfig, TlsConfig, UnixSocketConfig


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


def check_client_shm(clients: ClientsConfig) -> None:
    """Refuse a socket for clients' memory that could not be bound, or that nobody may use.

    Raises:
        ConfigError: It is so.
    """
    if not clients.shm_socket:
        return
    if not clients.allows_shm:
        raise ConfigError("--client_shm_socket is given without --allow_client_shm, which it needs")
    check_unix_paths(f"unix:{clients.shm_socket}", "client_shm_socket")


def check_tls(tls: TlsConfig, grpc: GrpcConfig, rest: RestConfig) -> Iterator[str]:
    """Refuse certificates that cannot be used; what is odd about those that can.

    Raises:
        ConfigError: A flag is missing beside another one, or a file is of no use.
    """
    if bool(tls.cert) != bool(tls.key):
        given, missing = ("--tls_cert", "--tls_key") if tls.cert else ("--tls_key", "--tls_cert")
        raise ConfigError(f"{given} is given without {missing}; TLS needs both")
    if tls.client_ca and not tls.cert:
        raise ConfigError("--tls_client_ca is given without --tls_cert and --tls_key; TLS needs them")
    if tls.files is None:
        return
    yield from read_material(tls.files).warnings
    if not grpc.tcp_port and not rest.tcp_port:
        yield "--tls_cert has no effect: there are Unix sockets only, which stay plain"
