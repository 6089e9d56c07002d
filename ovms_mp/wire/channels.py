# SPDX-License-Identifier: Apache-2.0
"""ZeroMQ sockets, and the only module that imports zmq.

All channels are ``ipc://``, in a directory that only this user may enter. Where there is none they are in Linux's
abstract socket namespace, which has no permissions; so a bound socket takes connections of its own user only, in either
case (SO_PEERCRED, ZMQ_IPC_FILTER_UID), and names carry 128 random bits. http://api.zeromq.org/4-3:zmq-ipc

No high-water marks: every queue that could grow is bounded where its items are made (arena space in the
fronts, the queue bounds in the worker), and a dropped message would be a lost answer.
"""

from __future__ import annotations

import math
import os
import secrets
from typing import TYPE_CHECKING

import zmq

from ovms_mp.errors import ProtocolError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

_NO_LIMIT = 0
MAX_MESSAGE_BYTES = 64 << 20
"""A batch is some kilobytes, a large snapshot a few megabytes; whatever says more is not ours.

A receiver drops the connection without a word, so a sender must not even try."""
# PERF: plain integers; every operation on pyzmq's enums costs a call.
_NOBLOCK = int(zmq.NOBLOCK)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
# Named in zmq.h, but without a member in pyzmq's typed enum.
_IPC_FILTER_UID = 59


def new_endpoint(directory: Path | None = None) -> str:
    """A fresh address that nobody can guess or has used before, in a directory or an abstract one."""
    if directory is None:
        return f"ipc://@ovms_mp-{secrets.token_hex(16)}"
    # Shorter, as a socket's path has 107 bytes at most.
    return f"ipc://{directory}/{secrets.token_hex(8)}"


def close_all(linger_ms: int) -> None:
    """Close this process's sockets and wait, at most ``linger_ms``, until what they were given has left.

    A socket's own ``close`` only asks for that: a process that ends right after it takes its last words with it.
    SAFETY: no thread may be using a socket.
    """
    zmq.Context.instance().destroy(linger=linger_ms)


def _too_long(payload: bytes) -> ProtocolError:
    return ProtocolError(
        f"a message of {len(payload)} bytes is longer than {MAX_MESSAGE_BYTES}, the limit between processes"
    )


class _Socket:
    """What both ends share: options, one owner, an idempotent close."""

    def __init__(self, kind: int) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, _NO_LIMIT)
        self._socket.setsockopt(zmq.RCVHWM, _NO_LIMIT)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)

    def fileno(self) -> int:
        """Descriptor that signals *changes*: after each event and after each send, receive until None.

        Source: http://api.zeromq.org/4-3:zmq-getsockopt, ZMQ_FD.
        """
        return int(self._socket.getsockopt(zmq.FD))

    @property
    def zmq_socket(self) -> zmq.Socket[bytes]:
        """What :class:`Poller` watches; for this module only."""
        return self._socket

    @property
    def is_closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return bool(self._socket.closed)

    def has_input(self) -> bool:
        """Whether a message waits. PERF: 1.5 us; receiving and catching zmq.Again takes 3.2."""
        return bool(int(self._socket.getsockopt(_EVENTS)) & _POLLIN)

    def close(self, linger_ms: int = 0) -> None:
        """Close; unsent messages are dropped after ``linger_ms``. May be called twice."""
        self._socket.close(linger=linger_ms)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Dealer(_Socket):
    """The connecting end; talks to exactly one :class:`Router`."""

    def __init__(self, endpoint: str, identity: bytes | None = None) -> None:
        super().__init__(zmq.DEALER)
        if identity is not None:
            self._socket.setsockopt(zmq.ROUTING_ID, identity)
        self._socket.connect(endpoint)

    def send(self, payload: bytes) -> None:
        """Queue a message; never blocks.

        Raises:
            ProtocolError: It is too long.
        """
        if len(payload) > MAX_MESSAGE_BYTES:
            raise _too_long(payload)
        self._socket.send(payload, _NOBLOCK)

    def receive(self) -> bytes | None:
        """The next message, or None when there is none now."""
        return self._socket.recv(_NOBLOCK) if self.has_input() else None

    def wait(self, timeout_s: float) -> bytes | None:
        """The next message, or None after the timeout."""
        if self._socket.poll(max(0, int(timeout_s * 1000))):
            return self.receive()
        return None


class Router(_Socket):
    """The bound end; knows its peers by their identity and takes only peers of this process's user."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(zmq.ROUTER)
        self._socket.setsockopt(_IPC_FILTER_UID, os.getuid())
        self._socket.bind(endpoint)

    def send(self, identity: bytes, payload: bytes) -> None:
        """Queue a message for a peer; silently dropped when the peer is gone, whose waiters are told by other ways.

        Raises:
            ProtocolError: It is too long.
        """
        if len(payload) > MAX_MESSAGE_BYTES:
            raise _too_long(payload)
        self._socket.send_multipart((identity, payload), _NOBLOCK)

    def receive(self) -> tuple[bytes, bytes] | None:
        """(identity, payload) of the next message, or None when there is none now."""
        if not self.has_input():
            return None
        frames = self._socket.recv_multipart(_NOBLOCK)
        # A peer of ours sends one frame; of anything else the rest says nothing.
        return frames[0], frames[-1]


class Poller:
    """Waits on sockets and raw descriptors together.

    A thin coat over zmq.Poller, which asks the sockets themselves, so that no edge of their descriptors can be missed.
    PERF: 2.5 us a wait with two sockets and a descriptor; an epoll on the sockets' descriptors, each of which had to be
    asked before the wait, took 4.4.
    """

    def __init__(self) -> None:
        self._poller = zmq.Poller()
        self._sources: dict[int, zmq.Socket[bytes] | int] = {}
        self._descriptors: dict[zmq.Socket[bytes] | int, int] = {}

    def register(self, source: _Socket | int) -> None:
        """Watch a socket or descriptor for input."""
        descriptor = source if isinstance(source, int) else source.fileno()
        watched = source if isinstance(source, int) else source.zmq_socket
        self._sources[descriptor] = watched
        self._descriptors[watched] = descriptor
        self._poller.register(watched, _POLLIN)

    def unregister(self, descriptor: int) -> None:
        """Stop watching a descriptor, before it is closed.

        Raises:
            KeyError: It is not watched.
        """
        watched = self._sources.pop(descriptor)
        del self._descriptors[watched]
        self._poller.unregister(watched)

    def wait(self, timeout_s: float | None) -> set[int]:
        """Wait for input; the descriptors that have some, or whose other end is gone. The caller drains the sockets.

        Args:
            timeout_s: Longest wait, rounded up to milliseconds; None means until something happens.
        """
        # Rounded up: a wait that ends just before a timer is due would be repeated many times in that millisecond.
        timeout_ms = None if timeout_s is None else max(0, math.ceil(timeout_s * 1000))
        descriptors = self._descriptors
        return {descriptors[watched] for watched, _ in self._poller.poll(timeout_ms)}

    def close(self) -> None:
        """Forget all sources; they stay open."""
        for descriptor in list(self._sources):
            self.unregister(descriptor)


class Wakeup:
    """Lets another thread wake a :class:`Poller`: an eventfd that is written at most once for each wait."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Descriptor to register; readable once :meth:`set` was called."""
        return self._descriptor

    def set(self) -> None:
        """Wake the poller. Callable from any thread."""
        os.eventfd_write(self._descriptor, 1)

    def clear(self) -> None:
        """Forget all earlier :meth:`set` calls. Only after the poller said that there was one."""
        os.eventfd_read(self._descriptor)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)
