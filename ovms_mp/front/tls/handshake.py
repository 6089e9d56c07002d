# SPDX-License-Identifier: Apache-2.0
"""The first moments of one connection to a TLS port: what the client begins with, and the handshake.

asyncio's own TLS servers neither tell who failed nor tell those who fail why: the alert stays in their buffer. Here the
connection is plain at first. If it begins like TLS, the loop's ``start_tls`` takes it over, and then the protocol of
the port. If it does not, the client is told in words of the port's protocol, which it may read.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.front.call_context import address_text
from ovms_mp.front.tls.reasons import Reason, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, Self

    NewProtocol = Callable[[asyncio.Transport], asyncio.BaseProtocol]
    """Makes what speaks over a connection that is secure, or from a Unix socket."""

    class Keeper(Protocol):
        """What a handshake asks of the keeper of all."""

        def context(self) -> ssl.SSLContext:
            """For handshakes that begin now."""

        def plain_answer(self, start: bytes) -> bytes:
            """For a client that does not speak TLS but began like this."""

        def entered(self, handshake: Handshake) -> None:
            """One has connected."""

        def left(self, handshake: Handshake, reason: Reason | None, peer: str) -> None:
            """It is through; or not, for a reason. Called once for each that entered."""


HANDSHAKE_S = 10.0
"""From the connection on; OpenSSL bounds how long a client's messages may be."""
_SHUTDOWN_S = 1.0
"""For the client's farewell in answer to ours."""
_FAREWELL_S = 1.0
"""For a client that is refused to read why, and to close."""
_TLS_HANDSHAKE = 0x16
"""The type of a record with which all clients of TLS begin (RFC 8446, 5.1)."""

_beginning: dict[Handshake, None] = {}
"""Those for which ``start_tls`` was called and the loop has not made the object yet, in that order.

NOTE: the loop makes the objects in the same order, a turn later. A context variable cannot tell whose an object is, as
uvloop runs the callbacks of all connections of a listener in one context.
"""


class _AlertingObject(ssl.SSLObject):
    """Has what the server tells a client that it refuses sent, before the handshake is given up."""

    _handshake: Handshake | None

    def __new__(cls, *_: object, **__: object) -> Self:
        """Make it for the connection whose turn it is."""
        made = super().__new__(cls)
        made._handshake = next(iter(_beginning), None)
        _beginning.pop(made._handshake, None)  # type: ignore[arg-type]  # None is no key
        return made

    def do_handshake(self) -> None:
        """Go on with the handshake."""
        handshake = self._handshake
        if handshake is not None and handshake.error is not None:
            raise handshake.error
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            if handshake is None:
                raise
            handshake.refuse(error)
            # The loop sends what waits to be sent, the alert, only for a handshake that goes on.
            raise ssl.SSLWantReadError from None


def alerting(context: ssl.SSLContext) -> ssl.SSLContext:
    """The same context, whose refusals reach the client."""
    context.sslobject_class = _AlertingObject
    return context


class Handshake(asyncio.Protocol):
    """The protocol of a connection until it is secure.

    Attributes:
        error: Why the client is refused; None if it is not, so far.
    """

    def __init__(self, keeper: Keeper, new_protocol: NewProtocol) -> None:
        """Wait for the connection.

        Args:
            keeper: Of all handshakes.
            new_protocol: Makes what speaks over a secure connection.
        """
        self.error: ssl.SSLError | None = None
        self._keeper = keeper
        self._new_protocol = new_protocol
        self._loop = asyncio.get_running_loop()
        self._reason: Reason | None = None
        self._has_begun = self._has_left = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected; over a Unix socket there is no TLS."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # as all of stream servers
        if transport.get_extra_info("socket").family == socket.AF_UNIX:
            self._has_left = True
            self._hand_over(self._transport)
            return
        self._peer = address_text(transport.get_extra_info("peername"))
        self._deadline = self._loop.call_later(HANDSHAKE_S, self.end, Reason.LATE)
        self._keeper.entered(self)

    def data_received(self, data: bytes) -> None:
        """The first octets; or what follows them where they were refused."""
        if self._has_begun:
            return
        self._has_begun = True
        if data[0] != _TLS_HANDSHAKE:
            self._refuse_plain(data)
            return
        self._transport.pause_reading()  # Until the loop's TLS has what was read, so that it comes in order.
        self._task = self._loop.create_task(self._secure())
        # Behind the task's first step, which calls the loop soon to begin, and then to read on.
        self._loop.call_soon(self._loop.call_soon, self._replay, data)

    def _replay(self, data: bytes) -> None:
        """Give the loop's TLS what was read before it was there."""
        protocol = self._transport.get_protocol()
        if protocol is self or self._transport.is_closing() or not isinstance(data, bytes):
            return
        rest = memoryview(data)
        while rest:
            buffer = protocol.get_buffer(len(rest))  # type: ignore[attr-defined]  # TLS of loops is buffered
            taken = min(len(buffer), len(rest))
            buffer[:taken] = rest[:taken]
            rest = rest[taken:]
            protocol.buffer_updated(taken)  # type: ignore[attr-defined]  # as above

    async def _secure(self) -> None:
        _beginning[self] = None
        try:
            secure = await self._loop.start_tls(
                self._transport,
                asyncio.Protocol(),
                self._keeper.context(),
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        except OSError as error:
            self._leave(self._reason or reason_of(self.error or error))
            return
        finally:
            _beginning.pop(self, None)  # Of one for which no object was made.
        if self._reason is not None or self.error is not None or secure is None or secure.is_closing():
            self._leave(self._reason or reason_of(self.error or ConnectionResetError()))
            return
        # NOTE: at once, as the loop's next step reads what the client has sent behind its handshake.
        self._leave(None)
        if not contain("front.tls", "this connection", self._hand_over, secure):
            secure.abort()

    def _hand_over(self, transport: asyncio.Transport) -> None:
        protocol = self._new_protocol(transport)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def _refuse_plain(self, data: bytes) -> None:
        self._reason = Reason.PLAINTEXT
        self._transport.write(self._keeper.plain_answer(data))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        # A close with octets unread would reset the connection, and the client might lose the answer.
        self._loop.call_later(_FAREWELL_S, self._transport.abort)

    def refuse(self, error: ssl.SSLError) -> None:
        """OpenSSL has refused the client; it is told by an alert, and has a moment to read it."""
        self.error = error
        self._loop.call_later(_FAREWELL_S, self._transport.abort)

    def end(self, reason: Reason) -> None:
        """End at once."""
        self._reason = reason
        self._transport.abort()

    def eof_received(self) -> bool:
        """The client sends no more, before TLS or behind a refusal; it is closed."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone before TLS began. Who has said nothing may be a probe, and is not counted."""
        self._leave(self._reason or (Reason.LEFT if self._has_begun else None))

    def _leave(self, reason: Reason | None) -> None:
        if self._has_left:
            return
        self._has_left = True
        self._deadline.cancel()
        self._keeper.left(self, reason, self._peer)
