# SPDX-License-Identifier: Apache-2.0
"""The ports and Unix sockets of one server, from its start until the fronts have stopped accepting."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.config.addresses import parse_socket_mode
from ovms_mp.errors import BootError
from ovms_mp.manager.fronts.listeners import bind_rest, hold_grpc_port, lock_ports
from ovms_mp.manager.fronts.unix_sockets import bind_unix
from ovms_mp.manager.service.sockets import by_path, by_port, refuse_other_paths

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from ovms_mp.config.server import ServerConfig
    from ovms_mp.config.transports import UnixSocketConfig
    from ovms_mp.manager.fronts.unix_sockets import UnixSocket


@dataclass
class Ports:
    """Owns the sockets.

    Attributes:
        grpc: Shared by all gRPC fronts: from a service manager, or in the file system. Fronts have their own besides.
        rest: Bound; they listen from :meth:`listen` on. Empty where REST is not served.
        held: Hold the gRPC port, and lock both ports against other servers of this user.
        files: Those of ``grpc`` and ``rest`` that have a file which is ours.
        has_grpc_port: Whether ``grpc`` is on the gRPC port, so that fronts must not be.
    """

    grpc: tuple[socket.socket, ...] = ()
    rest: tuple[socket.socket, ...] = ()
    held: tuple[socket.socket, ...] = ()
    files: tuple[UnixSocket, ...] = ()
    has_grpc_port: bool = False

    def listen(self, rest_port: int, backlog: int) -> None:
        """Let connections to REST come; they wait until a front takes them.

        Raises:
            BootError: Another program listens there.
        """
        try:
            for listener in self.rest:
                listener.listen(backlog)
        except OSError as error:
            # Bound sockets with SO_REUSEADDR can be overtaken until one of them listens.
            raise BootError(f"--rest_port {rest_port}: {error.strerror}") from None

    def close(self) -> None:
        """Give the ports back; may be called twice."""
        for file in self.files:
            file.close()
        for held in (*self.grpc, *self.rest, *self.held):
            held.close()
        self.grpc = self.rest = self.held = ()
        self.files = ()


def take_ports(config: ServerConfig, inherited: Sequence[socket.socket] = ()) -> Ports:
    """Bind the ports of a server; the caller owns them.

    Args:
        config: Ports and addresses.
        inherited: Listening sockets from a service manager, for the ports and paths that they are on.

    Raises:
        BootError: A port is taken, an address is not ours, or an inherited socket is on another port or of no use.
    """
    ports = Ports()
    with ExitStack() as stack:
        stack.callback(ports.close)
        ports.grpc, ports.rest = by_port(inherited, config.grpc.tcp_port, config.rest.tcp_port)
        ports.has_grpc_port = bool(ports.grpc)
        if ports.grpc and config.grpc.front != "native":
            raise BootError(
                f"--grpc_front {config.grpc.front} cannot take sockets from a service manager; use native, or leave "
                f"port {config.grpc.port} out of the socket unit"
            )
        if config.grpc.tcp_port and not ports.grpc:
            ports.held += lock_ports(config.grpc.hosts, config.grpc.port, "gRPC")
            ports.held += hold_grpc_port(config.grpc.hosts, config.grpc.port)
        if config.rest.tcp_port and not ports.rest:
            ports.held += lock_ports(config.rest.hosts, config.rest.port, "REST")
            ports.rest = bind_rest(config.rest.hosts, config.rest.port)
        refuse_other_paths(inherited, (*config.grpc.unix_paths, *config.rest.unix_paths))
        ports.grpc += _take_unix(ports, config.grpc.unix_paths, "grpc_bind_address", inherited, config.unix)
        ports.rest += _take_unix(ports, config.rest.unix_paths, "rest_bind_address", inherited, config.unix)
        stack.pop_all()
    return ports


def _take_unix(
    ports: Ports,
    paths: Sequence[str],
    flag: str,
    inherited: Sequence[socket.socket],
    config: UnixSocketConfig,
) -> tuple[socket.socket, ...]:
    """The sockets of a protocol in the file system: those that were handed over, and new ones for other paths."""
    given = by_path(inherited, paths)
    files = bind_unix(
        [path for path in paths if path not in given], flag, parse_socket_mode(config.mode), config.group
    )
    ports.files += files
    return (*given.values(), *(file.listener for file in files))
