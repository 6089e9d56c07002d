# SPDX-License-Identifier: Apache-2.0
"""Ports: REST's sockets live in the manager, gRPC's port is held for its fronts.

A REST socket that the manager owns survives gunicorn: connections wait in the backlog while an arbiter is
replaced. gRPC fronts bind for themselves (grpcio takes no descriptors) with SO_REUSEPORT; the manager holds a
bound socket that never listens, so the port stays ours while no front runs, and a second server on the port
is noticed at start.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from contextlib import ExitStack
from pathlib import Path

from ovms_mp.errors import BootError

_log = logging.getLogger(__name__)

ALL_ADDRESSES = ("0.0.0.0", "::", "[::]")
"""Spellings of all addresses; a server on one of them is in the way of one on another."""
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
"""How a machine without IPv6 answers a bind to ``::``."""
_FIRST_FREE_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def lock_ports(addresses: tuple[str, ...], port: int, protocol: str) -> tuple[socket.socket, ...]:
    """Abstract Unix sockets that only one server of this user has for an address and port; the caller owns them.

    The port itself is no lock: with SO_REUSEADDR, which a quick restart needs, two sockets may be bound to it as
    long as none listens. Anybody can take an abstract name, so one that another user has says nothing and is done
    without; a server of that user is noticed when it listens.

    Raises:
        BootError: Another ovms_mp of this user has one of them.
    """
    # All addresses are one name, whatever their spelling.
    names = {"*" if address in ALL_ADDRESSES else address: address for address in addresses}
    with ExitStack() as stack:
        locks: list[socket.socket] = []
        for where, address in names.items():
            lock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            if not take_name(lock, f"\0ovms_mp-port-{os.geteuid()}-{where}-{port}"):
                raise _taken(protocol, f"{address}:{port}", "port is busy: another ovms_mp has it")
            locks.append(lock)
        stack.pop_all()
        return tuple(lock for lock in locks if lock.fileno() >= 0)


def take_name(lock: socket.socket, name: str) -> bool:
    """Have an abstract name that tells servers of this user apart; whether none of them has it.

    Anybody can take one: that another user has it says nothing, and is done without; ``lock`` is closed then.
    """
    try:
        lock.bind(name)
        lock.listen()  # From now on a peer is told whose it is.
    except OSError:
        if _owner_of(name) == os.geteuid():
            return False
        lock.close()
        _log.warning("event=no_lock name=@%s another user has it; starting without", name[1:])
    return True


def _owner_of(name: str) -> int | None:
    """The user who listens on an abstract name; None when nobody does, or does not say. unix(7), SO_PEERCRED."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)  # A full backlog would hold a start up for ever.
        try:
            client.connect(name)
            _, user, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except OSError:
            return None
    return int(user)


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
    places = {address: _resolved(address, port, protocol) for address in addresses}
    families = {family for family, _ in places.values()}
    # "[::]" alone means both families, as in grpcio and the legacy server; beside an address of IPv4 it would be in
    # that one's way.
    is_ipv6_only = socket.AF_INET in families
    with ExitStack() as stack:
        bound: list[socket.socket] = []
        seen: set[tuple[object, ...]] = set()
        for address, (family, target) in places.items():
            if target[:2] in seen:
                continue  # Another spelling of one that is there already.
            seen.add(target[:2])
            try:
                listener = _bound(family, target, is_ipv6_only=is_ipv6_only, reuse_port=reuse_port)
            except OSError as error:
                raise _taken(protocol, f"{address}:{port}", _reason(error, port)) from None
            bound.append(stack.enter_context(listener))
        stack.pop_all()
        return tuple(bound)


def _bound(
    family: socket.AddressFamily, target: tuple[object, ...], *, is_ipv6_only: bool, reuse_port: bool
) -> socket.socket:
    """A bound socket; for all of IPv6 one of IPv4 where the machine turns out to have none.

    Raises:
        OSError: It cannot be bound.
    """
    try:
        with ExitStack() as stack:
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(is_ipv6_only))
            listener.bind(target)
            stack.pop_all()
            return listener
    except OSError as error:
        if target[0] != "::" or error.errno not in _NO_IPV6 or is_ipv6_only:
            raise
        fallback = ("0.0.0.0", target[1])
        return _bound(socket.AF_INET, fallback, is_ipv6_only=False, reuse_port=reuse_port)


def _reason(error: OSError, port: int) -> str:
    """Why a port cannot be bound, with what a low one needs."""
    reason = error.strerror or str(error)
    if error.errno not in (errno.EACCES, errno.EPERM):
        return reason
    try:
        first = int(_FIRST_FREE_PORT.read_text())
    except (OSError, ValueError):
        first = 1024
    if port >= first:
        return reason
    return (
        f"{reason}: ports below {first} (net.ipv4.ip_unprivileged_port_start) need CAP_NET_BIND_SERVICE, e.g. "
        "AmbientCapabilities=CAP_NET_BIND_SERVICE in a systemd unit"
    )


def _taken(protocol: str, where: str, why: str) -> BootError:
    flag = "port" if protocol == "gRPC" else "rest_port"
    is_refused = "CAP_NET_BIND_SERVICE" in why
    remedy = f"or choose a higher --{flag}" if is_refused else f"choose another --{flag} or stop what uses it"
    return BootError(f"Failed to start {protocol} server - at {where} - {why}; {remedy}")


def _resolved(address: str, port: int, protocol: str) -> tuple[socket.AddressFamily, tuple[object, ...]]:
    """Where to bind.

    Raises:
        BootError: The address is none.
    """
    host = address.removeprefix("[").removesuffix("]")
    if host == "::" and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"  # Most machines without IPv6; grpcio falls back in the same way.
    try:
        family, _, _, _, target = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BootError(f"--{protocol.lower()}_bind_address {address!r}: {reason}") from None
    return family, target
