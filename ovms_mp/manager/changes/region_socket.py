# SPDX-License-Identifier: Apache-2.0
"""Where clients on this machine hand over sealed memory (``--client_shm_socket``).

The kernel says who connects, and only the server's user and members of its groups are let in: whose memory it could
open anyway. Nothing here waits for a client; what it sends is read as it comes, a little in each turn of the loop.

Source: unix(7), SO_PEERCRED; socket(7), SO_PEERGROUPS.
"""

from __future__ import annotations

import array
import itertools
import os
import socket
import struct
from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.errors import RegionForbidden, TooManyRegions
from ovms_mp.manager.changes.region_connection import RegionConnection
from ovms_mp.manager.changes.region_frames import encode_error
from ovms_mp.wire.closing import StrangersDescriptors

if TYPE_CHECKING:
    from ovms_mp.errors import OvmsError
    from ovms_mp.manager.changes.changes import Changes
    from ovms_mp.manager.changes.regions import Regions
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.fronts.unix_sockets import UnixSocket
    from ovms_mp.manager.timers import Timers
    from ovms_mp.wire.channels import Poller

MOST_CONNECTIONS = 64
_BACKLOG = 16
_PAUSE_S = 0.01
"""Between two looks at who has come."""
_CREDENTIALS = struct.Struct("3i")
"""pid, uid, gid; ``struct ucred``."""
_SO_PEERGROUPS = 59  # Of asm-generic/socket.h; the module has no name for it.
_MOST_GROUPS_BYTES = 1024


class RegionSocket:
    """Owns the listening socket and all connections. Belongs to the manager's loop."""

    def __init__(
        self,
        bound: UnixSocket | None,
        regions: Regions,
        changes: Changes,
        poller: Poller,
        timers: Timers,
        clock: Clock,
    ) -> None:
        """Listen from now on.

        Args:
            bound: Owned from now on; None where clients may hand over none.
            regions: What is registered.
            changes: Tells when every front knows.
            poller: Watches sockets.
            timers: The manager's.
            clock: The manager's.

        Raises:
            OSError: It cannot listen.
        """
        self._bound = bound
        self._regions = regions
        self._changes = changes
        self._poller = poller
        self._timers = timers
        self._clock = clock
        self._strangers = StrangersDescriptors()
        self._numbers = itertools.count(1)
        self._connections: dict[int, RegionConnection] = {}
        if bound is not None:
            bound.listener.setblocking(False)
            bound.listener.listen(_BACKLOG)
            poller.register(bound.listener.fileno())

    def take(self, readable: set[int]) -> None:
        """Let in who has come, and read what clients have sent."""
        if self._bound is None:
            return
        if self._bound.listener.fileno() in readable:
            self._poller.unregister(self._bound.listener.fileno())
            self._timers.call_after(_PAUSE_S, self._go_on)
            for _ in range(_BACKLOG):
                if not self._accept(self._bound.listener):
                    break
        for connection in list(self._connections.values()):
            if connection.fileno() in readable and not contain(
                "manager.region_call", "a client that hands over memory", connection.take
            ):
                connection.close()

    def close(self) -> None:
        """Stop listening, and forget all regions; may be called twice."""
        for connection in list(self._connections.values()):
            connection.close()
        bound, self._bound = self._bound, None
        if bound is not None:
            bound.close()

    def _go_on(self) -> None:
        if self._bound is not None:
            self._poller.register(self._bound.listener.fileno())

    def _accept(self, listener: socket.socket) -> bool:
        """Take one connection; whether there was one."""
        try:
            connection, _ = listener.accept()
        except OSError:
            return False  # Nobody is left, or there is no descriptor for it.
        connection.setblocking(False)
        if not is_trusted(connection):
            _refuse(
                connection,
                RegionForbidden(
                    f"only processes of user {os.geteuid()}, which is the server's, and members of its groups "
                    f"{sorted(_own_groups())} may hand over memory"
                ),
            )
        elif not self._has_room():
            _refuse(
                connection, TooManyRegions(f"{MOST_CONNECTIONS} clients hand over memory, which is the limit")
            )
        else:
            number = next(self._numbers)
            self._connections[number] = RegionConnection(
                connection,
                number,
                self._regions,
                self._changes,
                self._strangers,
                self._poller,
                self._timers,
                self._clock,
                self._ended,
            )
        return True

    def _has_room(self) -> bool:
        """Whether another client may come; the first of those that have handed over nothing makes room for it."""
        if len(self._connections) < MOST_CONNECTIONS:
            return True
        owners = self._regions.owners()
        for number, connection in self._connections.items():
            if connection.is_silent and number not in owners:
                text = f"{MOST_CONNECTIONS} clients have connected, and this one has registered nothing"
                connection.refuse(TooManyRegions(text))
                return True
        return False

    def _ended(self, number: int) -> None:
        del self._connections[number]


def is_trusted(connection: socket.socket) -> bool:
    """Whether the other end, as it was when it connected, is of the server's user or in one of its groups."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, group = _CREDENTIALS.unpack(raw)
    if user == os.geteuid():
        return True
    groups = {group}
    try:
        found = array.array("I")
        found.frombytes(connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_GROUPS_BYTES))
        groups.update(found)
    except OSError:
        pass  # More of them than can be asked for, or a kernel before 4.13: the first one decides.
    return not groups.isdisjoint(_own_groups())


def _own_groups() -> set[int]:
    return {os.getegid(), *os.getgroups()}


def _refuse(connection: socket.socket, error: OvmsError) -> None:
    with connection:
        try:
            connection.send(encode_error(error))
        except OSError:
            return  # It has gone already.
