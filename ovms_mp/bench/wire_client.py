# SPDX-License-Identifier: Apache-2.0
"""What the clients of both transports have in common: a connection that sends one prepared request again and again."""

from __future__ import annotations

import abc
import asyncio
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

OK = ""
"""The outcome of a request that was answered well; others have a code for people."""
CONNECTION_LOST = "connection lost"
Token: TypeAlias = int
"""Which of a load's requests one is."""


class WireRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it is sent.

    Attributes:
        body: With gRPC's prefix of five bytes, where it is for gRPC.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Listener(Protocol):
    """Who hears what comes back."""

    def on_answer(self, client: WireClient, token: Token, outcome: str, nbytes: int) -> None:
        """A request was answered; more may be sent from here."""

    def on_lost(self, client: WireClient, tokens: list[Token], reason: str) -> None:
        """The connection has ended, with these unanswered."""


class WireClient(asyncio.Protocol, abc.ABC):
    """A connection.

    Attributes:
        ready: Done when requests may be sent; an exception where they never can.
        most: How many requests may be under way.
        body: Of the last answer, if answers are kept; they are counted only.
        detail: What the last failed answer says of itself, if anything.
    """

    def __init__(self, request: WireRequest, listener: Listener, *, keeps_body: bool = False) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.most = 1
        self.body = bytearray()
        self.detail = ""
        self._request = request
        self._listener = listener
        self._keeps_body = keeps_body
        self._transport: asyncio.Transport | None = None

    @property
    @abc.abstractmethod
    def in_flight(self) -> int:
        """How many requests are under way."""

    @abc.abstractmethod
    def send(self, token: Token) -> None:
        """Send the request once more; there must be room for it."""

    @abc.abstractmethod
    def flush(self) -> None:
        """Write what :meth:`send` has gathered outside of the listener's calls."""

    @abc.abstractmethod
    def give_up(self, is_late: Callable[[Token], bool]) -> list[Token]:
        """Forget requests that take too long; those that were."""

    @abc.abstractmethod
    def pending(self) -> list[Token]:
        """Requests under way."""

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the listener, or whoever waits for the connection to become ready."""
        reason = str(exc) if exc else "the server closed the connection"
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(reason))
        self._transport = None
        self._listener.on_lost(self, self.pending(), reason)
