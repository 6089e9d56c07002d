# SPDX-License-Identifier: Apache-2.0
"""The ports of one server, from its start until the fronts have stopped accepting."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.config.addresses import split_addresses
from ovms_mp.errors import BootError
from ovms_mp.manager.fronts.listeners import bind_rest, hold_grpc_port, lock_ports
from ovms_mp.manager.service.sockets import by_port

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from ovms_mp.config.server import ServerConfig


@dataclass
class Ports:
    """Owns the sockets.

    Attributes:
        grpc: Listening, shared by all gRPC fronts: from a service manager. Empty where each front has its own.
        rest: Bound; they listen from :meth:`listen` on. Empty without a REST port.
        held: Hold the gRPC port, and lock both ports against other servers of this user.
    """

    grpc: tuple[socket.socket, ...] = ()
    rest: tuple[socket.socket, ...] = ()
    held: tuple[socket.socket, ...] = ()

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
        for held in (*self.grpc, *self.rest, *self.held):
            held.close()
        self.grpc = self.rest = self.held = ()


def take_ports(config: ServerConfig, inherited: Sequence[socket.socket] = ()) -> Ports:
    """Bind the ports of a server; the caller owns them.

    Args:
        config: Ports and addresses.
        inherited: Listening sockets from a service manager, for the ports that they are on.

    Raises:
        BootError: A port is taken, an address is not ours, or an inherited socket is on another port or of no use.
    """
    ports = Ports()
    with ExitStack() as stack:
        stack.callback(ports.close)
        ports.grpc, ports.rest = by_port(inherited, config.grpc.port, config.rest.port)
        if ports.grpc and config.grpc.front != "native":
            raise BootError(
                f"--grpc_front {config.grpc.front} cannot take sockets from a service manager; use native, or leave "
                f"port {config.grpc.port} out of the socket unit"
            )
        if config.grpc.port and not ports.grpc:
            addresses = split_addresses(config.grpc.bind_address)
            ports.held += lock_ports(addresses, config.grpc.port, "gRPC")
            ports.held += hold_grpc_port(addresses, config.grpc.port)
        if config.rest.port and not ports.rest:
            addresses = split_addresses(config.rest.bind_address)
            ports.held += lock_ports(addresses, config.rest.port, "REST")
            ports.rest = bind_rest(addresses, config.rest.port)
        stack.pop_all()
    return ports
