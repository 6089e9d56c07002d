# SPDX-License-Identifier: Apache-2.0
"""Answers ``ovms_mp status`` on this machine, from the first second and without a REST port.

::

    connection --same user or root?--> the document in a memfd, its descriptor sent in one message --> closed

The address is in Linux's abstract namespace, so nothing is left behind; its name tells the ports, by which
``ovms_mp status`` finds the server in ``/proc/net/unix``. One message carries the descriptor whatever the document's
size, so nobody who is slow to read can hold the manager up.

Source: unix(7), SO_PEERCRED and SCM_RIGHTS; memfd_create(2).
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

from ovms_mp.wire.status_document import status_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.manager.timers import Timers
    from ovms_mp.wire.channels import Poller

_BACKLOG = 8
_PAUSE_S = 0.02
"""Between two answers: who connects in a loop costs the manager next to nothing."""
_CREDENTIALS = struct.Struct("3i")
"""pid, uid, gid; ``struct ucred``."""


def listen_for_status(port: int, rest_port: int) -> socket.socket:
    """Listen under a name that tells the server's ports; the caller owns the socket.

    Raises:
        OSError: Sockets are refused.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.bind(status_address(os.getpid(), port, rest_port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


class StatusSocket:
    """Owns the listening socket. Belongs to the manager's loop."""

    def __init__(
        self,
        listener: socket.socket | None,
        poller: Poller,
        timers: Timers,
        document: Callable[[], bytes],
    ) -> None:
        """Answer from now on.

        Args:
            listener: Of :func:`listen_for_status`, owned from now on; None where sockets are refused.
            poller: Watches it.
            timers: The manager's.
            document: Makes the answer, a JSON document.
        """
        self._listener = listener
        self._poller = poller
        self._timers = timers
        self._document = document
        if listener is not None:
            poller.register(listener.fileno())

    def take(self, readable: set[int]) -> None:
        """Answer one connection, if there is one; those of other users before it are closed."""
        listener = self._listener
        if listener is None or listener.fileno() not in readable:
            return
        self._poller.unregister(listener.fileno())
        self._timers.call_after(_PAUSE_S, self._go_on)
        # As many as can have come before it, so that strangers keep nobody out.
        for _ in range(_BACKLOG + 1):
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # Nobody is left, or there is no descriptor for it.
            with connection:
                if _is_trusted(connection):
                    _send(connection, self._document())
                    return

    def close(self) -> None:
        """Stop listening; may be called twice."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def _go_on(self) -> None:
        if self._listener is not None:
            self._poller.register(self._listener.fileno())


def _is_trusted(connection: socket.socket) -> bool:
    """Whether the other end is of this server's user, or root."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    return uid in (0, os.getuid())


def _send(connection: socket.socket, document: bytes) -> None:
    try:
        descriptor = os.memfd_create("ovms_mp-status", os.MFD_CLOEXEC)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(document)
            socket.send_fds(connection, [b"\n"], [descriptor])
        finally:
            os.close(descriptor)
    except OSError:
        return  # Whoever asked sees the end of the connection and can ask again.
