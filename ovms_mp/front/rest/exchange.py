# SPDX-License-Identifier: Apache-2.0
"""A request and its answer, as a connection sees them; and those that the application has, by way of ASGI."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from ovms_mp.front.rest.early import IS_GONE
from ovms_mp.front.rest.heads import Refused

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from ovms_mp.front.rest.reader import Head
    from ovms_mp.front.rest.transport import GatedFlow, LingeringTransport

_log = logging.getLogger("uvicorn.error")


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


class Line(Protocol):
    """The connection of an exchange."""

    config: Config
    server_state: ServerState
    app_state: dict[str, Any]
    transport: LingeringTransport
    flow: GatedFlow
    scheme: str
    server: Any
    client: Any

    def on_response_complete(self) -> None:
        """An answer has been handed to the transport."""

    def has_memory(self, waiting_bytes: int) -> bool:
        """Whether there is memory for answers that the client does not read; without it the connection is over.

        Args:
            waiting_bytes: Of an answer behind those that the transport has.
        """


class AsgiExchange(RequestResponseCycle):
    """An :class:`Exchange` that the ASGI application answers."""

    def __init__(self, head: Head, line: Line, *, keep_alive: bool) -> None:
        """Begin.

        Args:
            head: The request's.
            line: The connection.
            keep_alive: Whether it goes on behind the answer.

        Raises:
            Refused: The target is none.
        """
        self._app = line.config.loaded_app
        super().__init__(
            scope=_scope(head, line),
            transport=line.transport,  # type: ignore[arg-type]  # it passes on the rest
            flow=line.flow,
            logger=_log,
            access_logger=_log,
            access_log=False,
            default_headers=line.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=head.expects_go_ahead,
            keep_alive=keep_alive,
            on_response=line.on_response_complete,
        )

    def begin(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """See :class:`Exchange`."""
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
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]  # which has more than ASGI's keys
        scope[IS_GONE] = True
        self.message_event.set()


def _scope(head: Head, line: Line) -> HTTPScope:
    """See https://asgi.readthedocs.io/en/latest/specs/www.html#http-connection-scope."""
    try:
        target = httptools.parse_url(head.url)
    except httptools.HttpParserError:
        raise Refused(400, "the request's target is no URL") from None
    raw_path: bytes = target.path or b"/"  # An absolute target may have none (RFC 9112, 3.2.1).
    try:
        path = raw_path.decode("ascii")
    except UnicodeError:
        raise Refused(400, "the request's target is not ASCII") from None
    return {
        "type": "http",
        "asgi": {"version": line.config.asgi_version, "spec_version": "2.3"},
        "http_version": head.version,
        "method": head.method.decode("ascii"),
        "scheme": line.scheme,
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": target.query or b"",
        "root_path": "",
        "headers": head.fields,
        "client": line.client,
        "server": line.server,
        "state": line.app_state.copy(),
    }
