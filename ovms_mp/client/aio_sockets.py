# SPDX-License-Identifier: Apache-2.0
"""Connections of the client of asyncio: a protocol of asyncio's around one of ours, and those that there are.

An HTTP/2 connection carries any number of requests at a time, as many as its server takes.
PERF: what the requests of one turn of the loop send is written at its end, at once; one timer serves all deadlines.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, cast

from ovms_mp.client import forks
from ovms_mp.client.checks import wrong
from ovms_mp.client.errors import Cancelled, ClientError
from ovms_mp.client.exchange import not_sent
from ovms_mp.client.failures import check_alpn, ended, not_connected, too_late
from ovms_mp.codes import Code

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.client.exchange import Exchange
    from ovms_mp.client.session import Session

_JOINED_BYTES = 64 << 10


class AioConnection(asyncio.Protocol):
    """A connection to the server. Its maker connects it."""

    def __init__(self, session: Session, on_change: Callable[[], None]) -> None:
        """Prepare.

        Args:
            session: Says what is spoken.
            on_change: Called when there may be room for a request, or when it has ended.
        """
        self.protocol = session.new_connection()
        self._target = session.target
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._is_flush_due = self._is_aborted = False
        self._due: dict[asyncio.Future[None], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Of asyncio."""
        protocol = self.protocol
        room = protocol.most_streams
        try:
            protocol.receive(data)
        except ClientError as error:
            protocol.close(error)
            self.abort()
        if not protocol.is_usable and protocol.is_idle:
            self.close()
        if not protocol.is_usable or room != protocol.most_streams:
            self._on_change()  # Who waits for room looks elsewhere, or here.
        self.flush_soon()

    def eof_received(self) -> bool:
        """Of asyncio."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio."""
        self.protocol.close(ended(self._target, exc), is_clean=exc is None and not self._is_aborted)
        if self._timer is not None:
            self._timer.cancel()
        self._on_change()

    async def run(self, exchange: Exchange) -> None:
        """Carry an exchange until it has ended; one whose task is cancelled is given up.

        Raises:
            ClientError: The deadline has passed.
        """
        end = self._loop.create_future()

        def set_end() -> None:
            if not end.done():
                end.set_result(None)

        exchange.on_end = set_end
        stream_id = self.protocol.begin(exchange)
        self.flush_soon()
        deadline = exchange.deadline
        self._due[end] = deadline
        if self._timer is None or deadline < self._timer_at:
            self._set_timer(deadline)
        try:
            await end
        finally:
            del self._due[end]
            if not exchange.is_done:
                self.cancel(stream_id)

    def cancel(self, stream_id: int) -> None:
        """Give a request up."""
        self.protocol.cancel(stream_id)
        if self.protocol.is_usable:
            self.flush_soon()
        elif self.protocol.is_idle:
            self.abort()

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._look_at_deadlines)

    def _look_at_deadlines(self) -> None:
        self._timer = None
        now = self._loop.time()
        for end, deadline in list(self._due.items()):
            if deadline <= now and not end.done():
                end.set_exception(too_late(self._target))
        left = [deadline for end, deadline in self._due.items() if not end.done()]
        if left:
            self._set_timer(min(left))

    def flush_soon(self) -> None:
        """Send what is to be sent when this turn of the loop ends."""
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        pieces = self.protocol.take_outgoing()
        if not pieces or self._transport is None or self._transport.is_closing():
            return
        if sum(map(len, pieces)) <= _JOINED_BYTES:
            self._transport.write(b"".join(pieces))
        else:
            self._transport.writelines(pieces)

    def check_secure(self) -> None:
        """Refuse to go on where TLS has not agreed to what is spoken.

        Raises:
            NotSecure: It has not.
        """
        tls = self._transport.get_extra_info("ssl_object") if self._transport is not None else None
        if tls is not None:
            try:
                check_alpn(self._target, tls.selected_alpn_protocol())
            except ClientError:
                self.abort()
                raise

    @property
    def has_room(self) -> bool:
        """Whether a request may begin."""
        return self.protocol.has_room and self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        """End it when what is written has been sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End it at once."""
        self._is_aborted = True  # Its end is that of no answer.
        if self._transport is not None:
            self._transport.abort()


class AioPool:
    """Connections to one server, for one event loop at a time: another one may follow when the first one is closed."""

    def __init__(self, session: Session) -> None:
        """Nothing is connected before there is a request.

        Args:
            session: Says where to.
        """
        self._session = session
        self._is_closed = False
        self.start_anew()
        forks.note(self)

    def start_anew(self) -> None:
        """See :class:`~ovms_mp.client.forks.Forked`. What the last loop had is left to it."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connections: list[AioConnection] = []
        self._idle: list[AioConnection] = []
        self._connecting = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        """Of those who wait for room, the longest waiting first."""

    async def take(self, deadline: float) -> AioConnection:
        """A connection with room for a request, which is to begin at once.

        Raises:
            ClientError: There is none in time.
        """
        self._enter_loop()
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    self._refuse_closed()
                    found = self._with_room()
                    if found is None and self._may_connect():
                        found = await self._connect()
                    if found is not None:
                        self._wake_next()  # There may be more than this one needs.
                        return found
                    await self._turn()
        except TimeoutError:
            raise too_late(self._session.target) from None

    async def _turn(self) -> None:
        """Wait until something has changed, and nobody who has waited for longer makes use of it.

        PERF: if all that wait looked at each change, ten thousand calls would take as many looks each.
        """
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._wake_next()  # It was this one's turn.
            raise

    def _wake_next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def now(self) -> AioConnection | None:
        """A connection with room, if there is one already. PERF: 0.3 us, and no task switches."""
        if self._is_closed or self._loop is not asyncio.get_running_loop():
            return None
        return self._with_room()

    def _enter_loop(self) -> None:
        """Be of the loop that runs now.

        Raises:
            InvalidRequest: It is of another one.
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        if self._loop is not None and not self._loop.is_closed():
            raise wrong(
                "this client is used by another event loop, which is not closed; make one for each loop"
            )
        self.start_anew()
        self._loop = loop

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise Cancelled(Code.CANCELLED, "the client is closed")

    def _with_room(self) -> AioConnection | None:
        if self._session.is_http2:
            for connection in self._connections:
                if connection.has_room:
                    return connection
            return None
        while self._idle:
            connection = self._idle.pop()
            if connection.has_room:
                return connection
        return None

    def _may_connect(self) -> bool:
        count = len(self._connections)
        if self._session.is_http2:
            if self._connecting:
                return False  # It will have room for many.
            # Those whose server goes away end by themselves, and nothing waits for that.
            count = sum(connection.protocol.is_usable for connection in self._connections)
        return count + self._connecting < self._session.options.connections

    async def _connect(self) -> AioConnection:
        session, target = self._session, self._session.target
        loop = asyncio.get_running_loop()
        self._connecting += 1
        connection = AioConnection(session, self._note_change)
        try:
            if target.path:
                await loop.create_unix_connection(
                    lambda: connection,
                    target.path,
                    ssl=session.tls,
                    server_hostname="localhost" if session.tls else None,
                )
            else:
                await loop.create_connection(
                    lambda: connection,
                    target.host,
                    target.port,
                    ssl=session.tls,
                    server_hostname=target.host if session.tls else None,
                )
        except OSError as error:
            raise not_connected(target, error) from None
        finally:
            self._connecting -= 1
            self._note_change()
        if self._is_closed:
            connection.abort()
        self._refuse_closed()
        connection.check_secure()
        self._connections.append(connection)
        if not connection.has_room:
            raise not_sent(f"{target} has closed the connection at once")
        return connection

    def give_back(self, connection: AioConnection) -> None:
        """Take note that a request has ended."""
        if not self._session.is_http2:
            if connection.has_room:
                self._idle.append(connection)
            elif connection.protocol.is_idle:
                connection.close()
        if self._waiting:
            if connection.has_room:
                self._wake_next()
            else:
                self._note_change()

    def _note_change(self) -> None:
        self._connections = [
            connection
            for connection in self._connections
            if connection.has_room or not connection.protocol.is_idle
        ]
        self._wake_next()

    async def close(self) -> None:
        """Close all; calls that are under way fail."""
        self._is_closed = True
        if self._loop is not asyncio.get_running_loop():
            self.start_anew()  # Another loop's, which is closed or does not run.
            return
        for connection in self._connections:
            connection.abort()
        self._idle.clear()
        self._note_change()
        while self._waiting:
            self._wake_next()
        await asyncio.sleep(0)  # The ends of connections are called back.
