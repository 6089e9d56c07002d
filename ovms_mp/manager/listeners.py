# SPDX-License-Identifier: Apache-2.0
"""Ports: REST's sockets live in the manager, gRPC's port is held for its fronts.

A REST socket that the manager owns survives gunicorn: connections wait in the backlog while an arbiter is
replaced. gRPC fronts bind for themselves (grpcio takes no descriptors) with SO_REUSEPORT; the manager holds a
bound socket that never listens, so the port stays ours while no front runs, and a second server on the port
is noticed at start.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack

from ovms_mp.errors import BootError

_EVERYWHERE = ("0.0.0.0", "::", "[::]")
"""Spellings of all addresses; a server on one of them is in the way of one on another."""


def split_addresses(text: str) -> tuple[str, ...]:
    """The addresses of a comma-separated setting."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def lock_ports(addresses: tuple[str, ...], port: int, protocol: str) -> tuple[socket.socket, ...]:
    """Abstract Unix sockets that only one server can have for an address and port; the caller owns them.

    The port itself is no lock: with SO_REUSEADDR, which a quick restart needs, two sockets may be bound to it as
    long as none listens.

    Raises:
        BootError: Another ovms_mp has one of them.
    """
    with ExitStack() as stack:
        locks: list[socket.socket] = []
        for address in addresses:
            lock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            try:
                where = "*" if address in _EVERYWHERE else address
                lock.bind(f"\0ovms_mp-port-{where}-{port}")
            except OSError:
                raise _taken(protocol, f"{address}:{port}", "port is busy: another ovms_mp has it") from None
            locks.append(lock)
        stack.pop_all()
        return tuple(locks)


def bind_rest(addresses: tuple[str, ...], port: int) -> tuple[socket.socket, ...]:
    """Bound sockets that do not listen yet; the caller owns them.

    Raises:
        BootError: An address is not ours, or the port is taken.
    """
    return _bind_all(addresses, port, "REST", reuse_port=False)


def hold_grpc_port(addresses: tuple[str, ...], port: int) -> tuple[socket.socket, ...]:
    """Sockets that hold the port and never listen; the caller owns them.

    Raises:
        BootError: An address is not ours, or the port is taken.
    """
    # Without SO_REUSEPORT first: with it, another program's server of the same user would not be noticed.
    for probe in _bind_all(addresses, port, "gRPC", reuse_port=False):
        probe.close()
    return _bind_all(addresses, port, "gRPC", reuse_port=True)


def _bind_all(
    addresses: tuple[str, ...], port: int, protocol: str, *, reuse_port: bool
) -> tuple[socket.socket, ...]:
    with ExitStack() as stack:
        bound = [
            stack.enter_context(_bind(address, port, protocol, reuse_port=reuse_port))
            for address in addresses
        ]
        stack.pop_all()
        return tuple(bound)


def _taken(protocol: str, where: str, why: str) -> BootError:
    flag = "port" if protocol == "gRPC" else "rest_port"
    return BootError(
        f"Failed to start {protocol} server - at {where} - {why}; "
        f"choose another --{flag} or stop what uses it"
    )


def _bind(address: str, port: int, protocol: str, *, reuse_port: bool) -> socket.socket:
    host = address.removeprefix("[").removesuffix("]")
    setting = f"{protocol.lower()}_bind_address"
    if host == "::" and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"  # A machine without IPv6; grpcio falls back in the same way.
    try:
        family, kind, number, _, target = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BootError(f"--{setting} {address!r}: {reason}") from None
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
        raise _taken(protocol, f"{address}:{port}", error.strerror or str(error)) from None
    return listener
