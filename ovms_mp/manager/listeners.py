# SPDX-License-Identifier: Apache-2.0
"""Ports: REST's sockets live in the manager, gRPC's port is held for its fronts.

A REST socket that the manager owns survives gunicorn: connections wait in the backlog while an arbiter is
replaced. gRPC fronts bind for themselves (grpcio takes no descriptors) with SO_REUSEPORT; the manager holds a
bound socket that never listens, so the port stays ours while no front runs, and a second server on the port
is noticed at start.
"""

from __future__ import annotations

import socket

from ovms_mp.errors import BootError


def split_addresses(text: str) -> tuple[str, ...]:
    """The addresses of a comma-separated setting."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def bind_rest(addresses: tuple[str, ...], port: int) -> tuple[socket.socket, ...]:
    """Bound sockets that do not listen yet; the caller owns them.

    Raises:
        BootError: An address is not ours, or the port is taken.
    """
    return tuple(_bind(address, port, "REST", reuse_port=False) for address in addresses)


def hold_grpc_port(addresses: tuple[str, ...], port: int) -> tuple[socket.socket, ...]:
    """Sockets that hold the port and never listen; the caller owns them.

    Raises:
        BootError: An address is not ours, or the port is taken.
    """
    for address in addresses:
        # Without SO_REUSEPORT first: with it, another server of the same user would not be noticed.
        _bind(address, port, "gRPC", reuse_port=False).close()
    return tuple(_bind(address, port, "gRPC", reuse_port=True) for address in addresses)


def _bind(address: str, port: int, protocol: str, *, reuse_port: bool) -> socket.socket:
    host = address.removeprefix("[").removesuffix("]")
    setting = f"{protocol.lower()}_bind_address"
    if host == "::" and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"  # A machine without IPv6; grpcio falls back in the same way.
    try:
        family, kind, number, _, target = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise BootError(f"--{setting} {address!r}: {error.strerror or error}") from None
    listener = socket.socket(family, kind, number)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # "[::]" means both families, as in grpcio and the legacy server.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(target)
    except OSError as error:
        listener.close()
        flag = "port" if protocol == "gRPC" else "rest_port"
        raise BootError(
            f"Failed to start {protocol} server - at {address}:{port} - {error.strerror or error}; "
            f"choose another --{flag} or stop what uses it"
        ) from None
    return listener
