# SPDX-License-Identifier: Apache-2.0
"""Connections of the client of threads: a blocking socket under a protocol.

A connection carries one request at a time, so a thread reads what is its own, and no thread waits for another.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from ovms_mp.client.errors import Cancelled, ClientError
from ovms_mp.client.failures import check_alpn, ended, not_connected, too_late
from ovms_mp.codes import Code

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from ovms_mp.client.exchange import Exchange, Octets
    from ovms_mp.client.session import Session
    from ovms_mp.client.target import Target

_RECEIVED_AT_ONCE = 256 << 10
_LAST_WORDS_S = 1.0
_MOST_LOOKS = 16
"""At what a server has said since the last request."""
_MOST_PIECES = 512
"""Of one system call (IOV_MAX is 1024)."""


class Cancellation:
    """A call that another thread may give up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: SocketConnection | None = None
        self._is_given_up = False
        self._woken = threading.Event()

    def cancel(self) -> None:
        """Give it up: its connection ends, so the server hears of it, and the thread that waits."""
        with self._lock:
            self._is_given_up = True
            self._woken.set()
            if self._connection is not None:
                self._connection.abort()

    def pause(self, seconds: float) -> None:
        """Wait before the next try; not longer than until it is given up, or woken."""
        self._woken.wait(seconds)

    def wake(self) -> None:
        """Have it go on at once, now and later."""
        self._woken.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether it was given up."""
        return self._is_given_up

    def holds(self, connection: SocketConnection) -> None:
        """Note what the call uses.

        Raises:
            Cancelled: It was given up before.
        """
        with self._lock:
            self.refuse_cancelled()
            self._connection = connection

    def lets_go(self) -> None:
        """Note that the call uses nothing any more; what it has used may be another's from now on."""
        with self._lock:
            self._connection = None

    def refuse_cancelled(self) -> None:
        """Stop here if it was given up.

        Raises:
            Cancelled: It was.
        """
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
            NotSent: Nobody listens there, or not by TLS.
            DeadlineExceeded: It takes too long. (The system's resolver of names knows no deadline.)
        """
        self._target = session.target
        self._is_aborted = False
        self._nothing_there: tuple[type[OSError], ...] = (BlockingIOError, InterruptedError)
        try:
            self._socket = _connected(session.target, deadline)
            if session.tls is not None:
                self._make_secure(session.tls, deadline)
        except OSError as error:
            if isinstance(error, ClientError):
                raise
            if _is_time_over(error):
                raise too_late(self._target) from None
            raise not_connected(self._target, error) from None
        self.protocol = session.new_connection()

    def _make_secure(self, tls: ssl.SSLContext, deadline: float) -> None:
        import ssl  # plain clients need none of it

        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            self._socket.settimeout(_left(deadline))
            secure = tls.wrap_socket(self._socket, server_hostname=self._target.host)
            self._socket = secure
            check_alpn(self._target, secure.selected_alpn_protocol())
            stack.pop_all()
        self._nothing_there = (*self._nothing_there, ssl.SSLWantReadError)

    def is_reusable(self) -> bool:
        """Whether a request may begin: the server has not closed it, and is not going away."""
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        try:
            for _ in range(_MOST_LOOKS):
                if not poller.poll(0):
                    return self.protocol.has_room
                self._socket.settimeout(0)
                octets = self._socket.recv(_RECEIVED_AT_ONCE)
                if not octets:
                    return False
                self.protocol.receive(octets)
        except self._nothing_there:
            return self.protocol.has_room
        except (OSError, ClientError):
            return False
        return False  # It does not stop to speak without being asked.

    def run(self, exchange: Exchange) -> None:
        """Carry an exchange until it has ended.

        Raises:
            ClientError: The connection has failed; so has the exchange.
        """
        self.protocol.begin(exchange)
        while not exchange.is_done:
            self.turn(exchange.deadline)

    def turn(self, deadline: float, *, waits: bool = True) -> None:
        """Send what is to be sent, and take what comes next.

        Args:
            deadline: Monotonic.
            waits: Whether to wait for that; else what has come is taken.

        Raises:
            ClientError: The connection is of no use any more, or the deadline has passed.
        """
        try:
            self.flush(deadline)
            self._socket.settimeout(_left(deadline) if waits else 0)
            octets = self._socket.recv(_RECEIVED_AT_ONCE)
        except self._nothing_there:
            return
        except OSError as error:
            is_late = _is_time_over(error)
            self._fail(too_late(self._target) if is_late else ended(self._target, error))
            return
        if not octets:
            self._fail(ended(self._target, None), is_clean=not self._is_aborted)
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
            self._socket.settimeout(_left(deadline))
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
            self._socket.settimeout(_left(deadline))
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

    def _fail(self, failure: ClientError, *, is_clean: bool = False) -> None:
        self.protocol.close(failure, is_clean=is_clean)
        self.close()

    def finish(self) -> None:
        """Send what ends a request that was given up."""
        try:
            self.flush(time.monotonic() + _LAST_WORDS_S)
        except OSError:
            self.protocol.is_usable = False

    def abort(self) -> None:
        """Have whoever reads it see its end; from another thread."""
        self._is_aborted = True  # So that it is not taken for the end of an answer.
        try:
            # Not by way of TLS, whose sockets would send without it from then on.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        except OSError:
            pass  # It has ended.

    def close(self) -> None:
        """End it."""
        self._socket.close()


def _connected(target: Target, deadline: float) -> socket.socket:
    """A plain socket that is connected.

    Raises:
        OSError: There is none; TimeoutError without a number if the time is over.
    """
    if target.path:
        return _connected_to(socket.AF_UNIX, target.path, _left(deadline))
    addresses = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    failure: OSError = OSError(f"{target.host} has no address")
    for number, (family, _, _, _, address) in enumerate(addresses):
        try:
            # None takes the time of all others.
            connected = _connected_to(family, address, _left(deadline) / (len(addresses) - number))
        except OSError as error:
            failure = error
        else:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connected
    raise failure


def _connected_to(family: int, address: Any, within_s: float) -> socket.socket:
    with contextlib.ExitStack() as stack:
        connecting = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        connecting.settimeout(within_s)
        connecting.connect(address)
        stack.pop_all()
    return connecting


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _is_time_over(error: OSError) -> bool:
    """Whether our time is over; the system has one of its own, which has a number."""
    return isinstance(error, TimeoutError) and error.errno is None
