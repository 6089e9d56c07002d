# SPDX-License-Identifier: Apache-2.0
"""Connections of the client of threads: a blocking socket under a protocol, and those that nobody uses now.

A connection carries one request at a time, so a thread reads what is its own, and no thread waits for another.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from typing import TYPE_CHECKING

from ovms_mp.client.errors import Cancelled, ClientError
from ovms_mp.client.exchange import lost
from ovms_mp.client.session import not_connected, too_late
from ovms_mp.codes import Code

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.client.exchange import Exchange, Octets
    from ovms_mp.client.session import Session

_RECEIVED_AT_ONCE = 256 << 10
_LAST_WORDS_S = 1.0
_MOST_PIECES = 512
"""Of one system call (IOV_MAX is 1024)."""


class Cancellation:
    """A call that another thread may give up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: SocketConnection | None = None
        self._given_up = threading.Event()

    def cancel(self) -> None:
        """Give it up: its connection ends, so the server hears of it, and the thread that waits."""
        with self._lock:
            self._given_up.set()
            if self._connection is not None:
                self._connection.abort()

    def pause(self, seconds: float) -> None:
        """Wait before the next try; not longer than until it is given up."""
        self._given_up.wait(seconds)

    @property
    def is_cancelled(self) -> bool:
        """Whether it was given up."""
        return self._given_up.is_set()

    def holds(self, connection: SocketConnection | None) -> None:
        """Note what the call uses.

        Raises:
            Cancelled: It was given up before.
        """
        with self._lock:
            self._connection = connection
            if self.is_cancelled:
                raise Cancelled(Code.CANCELLED, "the call was cancelled")


class SocketConnection:
    """A connection to the server."""

    def __init__(self, session: Session, deadline: float) -> None:
        """Connect.

        Args:
            session: Says where to, and what is spoken there.
            deadline: Monotonic.

        Raises:
            NotSent: Nobody listens there.
        """
        target = session.target
        self._target = target
        timeout = max(0.001, deadline - time.monotonic())
        try:
            if target.path:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._socket.settimeout(timeout)
                self._socket.connect(target.path)
            else:
                self._socket = socket.create_connection((target.host, target.port), timeout)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if session.tls is not None:
                self._socket = session.tls.wrap_socket(self._socket, server_hostname=target.host)
        except OSError as error:
            if hasattr(self, "_socket"):
                self._socket.close()
            raise not_connected(target, error) from None
        self.protocol = session.new_connection()

    def is_reusable(self) -> bool:
        """Whether a request may begin: the server has not closed it, and is not going away."""
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        try:
            while poller.poll(0):
                self._socket.settimeout(0)
                octets = self._socket.recv(_RECEIVED_AT_ONCE)
                if not octets:
                    return False
                self.protocol.receive(octets)
        except (BlockingIOError, InterruptedError):
            pass
        except (OSError, ClientError):
            return False
        return self.protocol.has_room

    def run(self, exchange: Exchange) -> None:
        """Carry an exchange until it has ended.

        Raises:
            ClientError: The connection has failed; so has the exchange.
        """
        self.protocol.begin(exchange)
        while not exchange.is_done:
            self.turn(exchange.deadline)

    def turn(self, deadline: float) -> None:
        """Send what is to be sent, and take what comes next.

        Raises:
            ClientError: The connection is of no use any more, or the deadline has passed.
        """
        try:
            self.flush(deadline)
            octets = b""
            self._socket.settimeout(self._left(deadline))
            octets = self._socket.recv(_RECEIVED_AT_ONCE)
        except TimeoutError:
            self._fail(too_late(self._target))
        except OSError as error:
            self._fail(lost(f"the connection to {self._target} has ended: {error}"))
        if not octets:
            self._fail(lost(f"{self._target} has closed the connection"))
            return
        try:
            self.protocol.receive(octets)
        except ClientError as error:
            self._fail(error)

    def flush(self, deadline: float) -> None:
        """Send what is to be sent."""
        pieces = self.protocol.take_outgoing()
        if not pieces:
            return
        if sum(map(len, pieces)) < _RECEIVED_AT_ONCE:
            self._socket.settimeout(self._left(deadline))
            try:
                self._socket.sendall(b"".join(pieces))
            except (BrokenPipeError, ConnectionResetError):
                return  # What the server has said before it closed the connection is still to be read.
            return
        self._send_all(pieces, deadline)

    def _send_all(self, pieces: Sequence[Octets], deadline: float) -> None:
        """Send long pieces without joining them."""
        left = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
        at = 0
        while at < len(left):
            self._socket.settimeout(self._left(deadline))
            try:
                if hasattr(self._socket, "context"):  # TLS, which takes one piece at a time.
                    sent = self._socket.send(left[at])
                else:
                    sent = self._socket.sendmsg(left[at : at + _MOST_PIECES])
            except (BrokenPipeError, ConnectionResetError):
                return  # As above.
            while at < len(left) and sent >= len(left[at]):
                sent -= len(left[at])
                at += 1
            if sent:
                left[at] = left[at][sent:]

    def _left(self, deadline: float) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _fail(self, failure: ClientError) -> None:
        self.protocol.close(failure)
        self.close()

    def finish(self) -> None:
        """Send what ends a request that was given up."""
        try:
            self.flush(time.monotonic() + _LAST_WORDS_S)
        except OSError:
            self.protocol.is_usable = False

    def abort(self) -> None:
        """Have whoever reads it see its end; from another thread."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # It has ended.

    def close(self) -> None:
        """End it."""
        self._socket.close()


class Pool:
    """Connections to one server. For any number of threads."""

    def __init__(self, session: Session) -> None:
        """Nothing is connected before there is a request.

        Args:
            session: Says where to.
        """
        self._session = session
        self._lock = threading.Lock()
        self._idle: list[SocketConnection] = []
        self._used: set[SocketConnection] = set()
        self._room = threading.Semaphore(session.options.connections)
        self._is_closed = False

    def take(self, deadline: float) -> SocketConnection:
        """A connection that nobody else uses; to be given back.

        Raises:
            ClientError: There is none in time.
        """
        if not self._room.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise too_late(self._session.target)
        connection = None
        try:
            connection = self._idle_one() or SocketConnection(self._session, deadline)
        finally:
            if connection is None:
                self._room.release()
        with self._lock:
            self._used.add(connection)
        return connection

    def _idle_one(self) -> SocketConnection | None:
        while True:
            with self._lock:
                if self._is_closed:
                    raise Cancelled(Code.CANCELLED, "the client is closed")
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if connection.is_reusable():
                return connection
            connection.close()

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

    def close(self) -> None:
        """Close all; calls that are under way fail."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            for connection in self._used:
                connection.abort()
        for connection in idle:
            connection.close()
