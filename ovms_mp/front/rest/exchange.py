# SPDX-License-Identifier: Apache-2.0
"""A request and its answer, as a connection sees them; and those that the application has, by way of ASGI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from ovms_mp.front.rest.early import CYCLE, IS_GONE

if TYPE_CHECKING:
    import asyncio
    from typing import Any


class Exchange(Protocol):
    """What a connection asks of a request that it has received the head of.

    Attributes:
        more_body: Whether the end of its body has not come.
        keep_alive: Whether the connection outlives it.
        response_started: Whether some of its answer has been written.
        response_complete: Whether all of it has.
    """

    more_body: bool
    keep_alive: bool
    response_started: bool
    response_complete: bool

    def begin(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """Have it answered."""

    def take(self, piece: bytes | memoryview) -> None:
        """Octets of its body; a view is valid during the call."""

    def wanted(self) -> memoryview | None:
        """Where the next octets of its body belong; None where :meth:`take` does."""

    def advance(self, nbytes: int) -> None:
        """So many of them are there."""

    def end_body(self) -> None:
        """Its body is here."""

    def disconnect(self) -> None:
        """Nobody waits for its answer any more."""


class AsgiExchange(RequestResponseCycle):
    """An :class:`Exchange` that an ASGI application answers."""

    def __init__(self, app: Any, **named: Any) -> None:  # Any: as uvicorn's.
        super().__init__(**named)
        self._app = app

    def begin(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """See :class:`Exchange`."""
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]  # which has more than ASGI's keys
        if scope["method"] == "POST":
            scope[CYCLE] = self
        return loop.create_task(self.run_asgi(self._app))

    def take(self, piece: bytes | memoryview) -> None:
        """See :class:`Exchange`."""
        if self.response_complete:
            return
        self.body += piece
        if len(self.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.message_event.set()

    def wanted(self) -> memoryview | None:
        """See :class:`Exchange`."""
        return None

    def advance(self, nbytes: int) -> None:
        """See :class:`Exchange`."""

    def end_body(self) -> None:
        """See :class:`Exchange`."""
        if self.response_complete:
            return
        self.more_body = False
        self.message_event.set()

    def disconnect(self) -> None:
        """See :class:`Exchange`."""
        self.disconnected = True
        self.scope[IS_GONE] = True  # type: ignore[typeddict-unknown-key]  # as above
        self.message_event.set()
