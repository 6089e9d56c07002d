# SPDX-License-Identifier: Apache-2.0
"""What the REST protocol puts between itself and uvloop's transport, and how it reads on."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from typing import TYPE_CHECKING

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.utils import get_local_addr, get_remote_addr

from ovms_mp.front.call_context import new_flow
from ovms_mp.front.gathered import Gathered
from ovms_mp.front.rest.heads import ANSWER_START

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    class Closing(Protocol):
        """The protocol of a connection."""

        is_lingering: bool

        def close(self) -> None:
            """Close now, or when the client has read the answer."""


_TCP_CLOSE = 7
"""``TCP_CLOSE`` of Linux's ``enum`` in include/net/tcp_states.h."""


_JOINED_BYTES = 64 << 10
"""Of a body that is copied behind its head; for a longer one another call is cheaper."""
_MOST_PIECES = 1024
"""Linux's ``IOV_MAX``."""


def addresses(transport: asyncio.Transport) -> tuple[Any, Any]:  # Any: as ASGI has them.
    """The server's and the client's; a Unix socket tells none of the latter, so each of its connections is one."""
    server, client = get_local_addr(transport), get_remote_addr(transport)
    if server is not None and server[1] is None:
        client = (f"unix:{new_flow()}", 0)
    return server, client


class GatedFlow(FlowControl):
    """Reading goes on only when nothing is left of what was read before, whoever wants it to go on.

    Attributes:
        unfed: What was read and may not be parsed yet.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self.unfed = b""
        self._is_paused = False

    def pause_reading(self) -> None:
        """Read no more, until somebody wants that."""
        self._is_paused = True
        super().pause_reading()

    def resume_reading(self) -> None:
        """Read on, when nothing is left."""
        self._is_paused = False
        if not self.unfed:
            super().resume_reading()

    def keep(self, rest: memoryview) -> None:
        """Keep this for later."""
        self.unfed = bytes(rest)
        super().pause_reading()

    def take(self) -> bytes:
        """What was kept; :meth:`read_on` follows."""
        unfed, self.unfed = self.unfed, b""
        return unfed

    def read_on(self) -> None:
        """Read on, unless something is left or nobody wants it."""
        if not self.unfed and not self._is_paused:
            super().resume_reading()


class LingeringTransport:
    """The connection's transport, but that it lets the protocol decide how it closes."""

    def __init__(self, transport: asyncio.Transport, protocol: Closing) -> None:
        self._protocol = protocol
        self.inner = transport
        self.write = transport.write
        self._has_begun = False
        """Whether an answer's first octets are ahead of it."""

    def close(self) -> None:
        """Close now, or when the client has read the answer."""
        self._protocol.close()

    def is_closing(self) -> bool:
        """Whether nothing more will be written."""
        return self._protocol.is_lingering or self.inner.is_closing()

    def begin_answer(self) -> None:
        """Write what every answer begins with, ahead of the next one, to learn from the client's host who listens.

        That a client sends no more looks the same whether it has closed its connection or waits for its answer. Only
        in the first case its host refuses what it is sent.
        """
        self.inner.write(ANSWER_START)
        self.write = self._write_rest
        self._has_begun = True

    def _write_rest(self, data: bytes | bytearray | memoryview) -> None:
        self.write = self.inner.write
        self._has_begun = False
        self.inner.write(data[len(ANSWER_START) :])

    def write_answer(self, head: bytes, body: bytes | bytearray | Gathered) -> None:
        """Write a whole answer; a system call takes it, and so does a packet if it fits."""
        if isinstance(body, Gathered):
            self._write_gathered([head, *body.pieces], body.release)
        elif len(body) <= _JOINED_BYTES:
            self.write(head + body)
        else:
            self.write(head)
            self.write(body)

    def _write_gathered(
        self, pieces: Sequence[bytes | bytearray | memoryview], release: Callable[[], None]
    ) -> None:
        """Write from where the pieces are, which nothing refers to afterwards.

        What the socket does not take at once is copied, so that no slow reader holds the arena.
        """
        sent = 0
        inner = self.inner
        try:
            is_plain = inner.get_extra_info("ssl_object") is None
            if is_plain and not self._has_begun and not inner.get_write_buffer_size():
                with contextlib.suppress(OSError):  # The transport finds out what it is.
                    sent = os.writev(inner.get_extra_info("socket").fileno(), pieces[:_MOST_PIECES])
            rest: list[bytes | bytearray | memoryview] = []
            for piece in pieces:
                if sent < len(piece):
                    rest.append(piece[sent:])
                sent = max(0, sent - len(piece))
            unsent = b"".join(rest)
        finally:
            release()
        if unsent:
            self.write(unsent)

    def is_refused(self) -> bool:
        """Whether the client's host has refused what it was sent. A connection that is not read would not tell."""
        connected = self.inner.get_extra_info("socket")
        if connected.family == socket.AF_UNIX:
            poller = select.poll()
            poller.register(
                connected.fileno(), 0
            )  # What is told unasked: whether both sides have been closed.
            return bool(poller.poll(0))
        state: bytes = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        return state[0] == _TCP_CLOSE

    def __getattr__(self, name: str) -> Any:  # Any: whatever the attribute is.
        return getattr(self.inner, name)
