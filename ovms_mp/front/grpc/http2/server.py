# SPDX-License-Identifier: Apache-2.0
"""A server on sockets: listens, looks at its connections at intervals, and stops. One event loop, best uvloop's."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from ovms_mp.errors import BootError
from ovms_mp.front.grpc.http2.connections import Connections, Member
from ovms_mp.front.grpc.http2.deadlines import FAREWELL_S
from ovms_mp.front.grpc.http2.limits import Guard
from ovms_mp.front.grpc.http2.protocol import Http2Protocol
from ovms_mp.front.methods import Methods
from ovms_mp.front.steps import Periodic
from ovms_mp.front.tls.handshakes import Handshakes

_BACKLOG = 4096
"""Of sockets that were handed over; the kernel's own limit may be lower."""
_TICK_S = 0.1
_FEW_CONNECTIONS = 50
"""More than these are looked at in parts."""
_PARTS = 10
_IDLE_TURNS = 10
"""Idle connections are looked at in each of so many turns only."""


class Http2Server:
    """Methods on sockets that other processes may share (SO_REUSEPORT).

    Attributes:
        ports: Those that it listens on, in the order of its addresses.
        protocols: Its connections.
    """

    def __init__(self, methods: Methods, guard: Guard, handshakes: Handshakes | None = None) -> None:
        """Prepare; nothing listens yet.

        Args:
            methods: What clients may call.
            guard: The limits, and who counts.
            handshakes: For TLS on all but Unix sockets, with ``h2`` as the one protocol.
        """
        self.ports: list[int] = []
        self._methods = methods
        self._guard = guard
        self._handshakes = handshakes
        self._connections = Connections(guard.limits.max_connections)
        self.protocols = self._connections.members
        self._listeners: list[asyncio.Server] = []
        self._timer: Periodic | None = None
        self._turn = 0

    async def start(self, addresses: Sequence[str | int]) -> None:
        """Listen.

        Args:
            addresses: ``host:port`` each, where port 0 is any (see ``ports``); or a descriptor of a bound socket,
                ours now.

        Raises:
            BootError: An address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        for address in addresses:
            try:
                listener = await self._listener(loop, address)
            except (OSError, ValueError) as error:
                text = f"Failed to start gRPC server - at {address} - port is busy: {error}"
                raise BootError(text) from None
            self._listeners.append(listener)
            self.ports += [
                listening.getsockname()[1]
                for listening in listener.sockets
                if listening.family != socket.AF_UNIX
            ]
        self._timer = Periodic(loop, "grpc.tick", lambda: _TICK_S / self._parts, self._tick)

    async def _listener(self, loop: asyncio.AbstractEventLoop, address: str | int) -> asyncio.Server:
        if isinstance(address, int):
            given = socket.socket(fileno=address)
            if given.family == socket.AF_UNIX:
                return await loop.create_unix_server(self._new_protocol, sock=given, backlog=_BACKLOG)
            return await loop.create_server(self._tcp_protocol, sock=given, backlog=_BACKLOG)
        host, _, port = address.rpartition(":")
        # "::" alone would be IPv6 only here, while to C-core it is every address of either kind.
        name = None if host in ("::", "[::]") else host.strip("[]")
        return await loop.create_server(self._tcp_protocol, name, int(port), reuse_port=True)

    def _tcp_protocol(self) -> asyncio.BaseProtocol:
        handshakes = self._handshakes
        return self._new_protocol() if handshakes is None else handshakes.begin(self._new_protocol)

    def _new_protocol(self, _transport: asyncio.Transport | None = None) -> Http2Protocol:
        return Http2Protocol(self._methods, self._guard, self._connections)

    @property
    def _parts(self) -> int:
        """In how many turns all connections are looked at."""
        return _PARTS if len(self.protocols) > _FEW_CONNECTIONS else 1

    def _tick(self) -> None:
        """Look at a part of the connections, and of those that are idle only at some."""
        self._turn += 1
        parts = self._parts
        part: list[Member] = list(self.protocols)[self._turn % parts :: parts]
        for index, protocol in enumerate(part, self._turn // parts):
            if index % _IDLE_TURNS == 0 or not protocol.is_idle:
                protocol.tick()

    async def stop(self, grace_s: float) -> None:
        """Accept no connection and let calls end; those that go on after the grace period are told UNAVAILABLE."""
        for listener in self._listeners:
            listener.close()
        for within_s in (grace_s, FAREWELL_S, FAREWELL_S):
            try:
                async with asyncio.timeout(within_s):
                    await self._drain_all()
            except TimeoutError:
                for protocol in list(self.protocols):
                    protocol.stop()
        if self._timer is not None:
            self._timer.cancel()

    async def _drain_all(self) -> None:
        """Ask all clients to leave, and wait until they have."""
        while self.protocols:
            for protocol in list(self.protocols):  # One may have been accepted just before.
                protocol.drain()
            self._connections.changed.clear()
            await self._connections.changed.wait()
