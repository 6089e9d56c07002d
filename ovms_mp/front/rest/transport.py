# SPDX-License-Identifier: Apache-2.0
"""What the REST protocol puts between itself and uvloop's transport, and how it reads on."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from uvicorn.protocols.http.flow_control import FlowControl

from ovms_mp.front.rest.heads import ANSWER_START

if TYPE_CHECKING:
    import asyncio
    from typing import Any, Protocol

    class Closing(Protocol):
        """The protocol of a connection."""

        is_lingering: bool

        def close(self) -> None:
            """Close now, or when the client has read the answer."""


_TCP_CLOSE = 7
"""``TCP_CLOSE`` of Linux's ``enum`` in include/net/tcp_states.h."""


class GatedFlow(FlowControl):
    """Reading goes on only when nothing is left of what was read before."""

    is_held = False

    def resume_reading(self) -> None:
        """Read on, unless something is left."""
        if not self.is_held:
            super().resume_reading()


class LingeringTransport:
    """The connection's transport, but that it lets the protocol decide how it closes."""

    def __init__(self, transport: asyncio.Transport, protocol: Closing) -> None:
        self._protocol = protocol
        self.inner = transport
        self.write = transport.write

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

    def _write_rest(self, data: bytes | bytearray | memoryview) -> None:
        self.write = self.inner.write
        self.inner.write(data[len(ANSWER_START) :])

    def is_refused(self) -> bool:
        """Whether the client's host has refused what it was sent. A connection that is not read would not tell."""
        state: bytes = self.inner.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        return state[0] == _TCP_CLOSE

    def __getattr__(self, name: str) -> Any:  # Any: whatever the attribute is.
        return getattr(self.inner, name)
