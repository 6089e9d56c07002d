# SPDX-License-Identifier: Apache-2.0
"""The connections of a client of threads: those that calls use, and those that nobody uses now."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ovms_mp.client import forks
from ovms_mp.client.errors import Cancelled
from ovms_mp.client.failures import too_late
from ovms_mp.client.sockets import Cancellation, SocketConnection
from ovms_mp.codes import Code

if TYPE_CHECKING:
    from ovms_mp.client.session import Session


class Pool:
    """Connections to one server. For any number of threads."""

    def __init__(self, session: Session) -> None:
        """Nothing is connected before there is a request.

        Args:
            session: Says where to.
        """
        self._session = session
        self._idle: list[SocketConnection] = []
        self._used: set[SocketConnection] = set()
        self._pausing: set[Cancellation] = set()
        self._is_closed = False
        self.start_anew()
        forks.note(self)

    def start_anew(self) -> None:
        """See :class:`~ovms_mp.client.forks.Forked`."""
        self._lock = threading.Lock()
        self._room = threading.Semaphore(self._session.options.connections)
        for connection in (*self._idle, *self._used):
            connection.close()
        self._idle, self._used, self._pausing = [], set(), set()

    def take(self, deadline: float) -> SocketConnection:
        """A connection that nobody else uses; to be given back.

        Raises:
            ClientError: There is none in time.
        """
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not self._room.acquire(timeout=left_s):
            raise too_late(self._session.target)
        connection = None
        try:
            connection = self._idle_one() or SocketConnection(self._session, deadline)
        finally:
            if connection is None:
                self._room.release()
        with self._lock:
            self._used.add(connection)
            if self._is_closed:
                connection.abort()
        return connection

    def _idle_one(self) -> SocketConnection | None:
        while True:
            with self._lock:
                self.refuse_closed()
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if connection.is_reusable():
                return connection
            connection.close()

    def refuse_closed(self) -> None:
        """Stop here if the client is closed.

        Raises:
            Cancelled: It is.
        """
        if self._is_closed:
            raise Cancelled(Code.CANCELLED, "the client is closed")

    def give_back(self, connection: SocketConnection) -> None:
        """Take a connection back; one that is of no use any more is closed."""
        with self._lock:
            self._used.discard(connection)
            is_kept = connection.protocol.has_room and connection.protocol.is_idle and not self._is_closed
            if is_kept:
                self._idle.append(connection)
        if not is_kept:
            connection.close()
        self._room.release()

    def pause(self, cancellation: Cancellation, seconds: float) -> None:
        """Wait before a call's next try; not longer than until it is given up, or all are closed."""
        with self._lock:
            self.refuse_closed()
            self._pausing.add(cancellation)
        cancellation.pause(seconds)
        with self._lock:
            self._pausing.discard(cancellation)

    def close(self) -> None:
        """Close all; calls that are under way fail."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            for cancellation in self._pausing:
                cancellation.wake()
            for connection in self._used:
                connection.abort()
        for connection in idle:
            connection.close()
