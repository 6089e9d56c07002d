# SPDX-License-Identifier: Apache-2.0
"""A request as the protocols' handlers want it, whatever it came by; and one of falcon's."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from ovms_mp.front.call_context import LOAD_FORMAT, Target, address_text
from ovms_mp.front.endpoints import TIMEOUT_HEADER
from ovms_mp.front.rest.body import read_body, receive_body
from ovms_mp.front.rest.early import CERTIFICATE_NAME
from ovms_mp.front.sinks import fill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from typing import Any

    from falcon.asgi import Request

    from ovms_mp.child.specs import FrontLimits
    from ovms_mp.front.budget import BodyShare
    from ovms_mp.front.sinks import MessageSink

_LARGEST_FLOW = (1 << 31) - 1


class IncomingRequest(ABC):
    """A :class:`~ovms_mp.front.endpoints.RestRequest`, and a :class:`~ovms_mp.front.call_context.CallOrigin`."""

    __slots__ = ("_limits", "arrived_ns", "note_sent", "received_bytes", "share")

    def __init__(self, limits: FrontLimits, share: BodyShare) -> None:
        """Begin, before anything of the body is read.

        Args:
            limits: For the body.
            share: Grows by what is held of the body.
        """
        self._limits = limits
        self.share = share
        self.received_bytes = self.arrived_ns = 0
        """How long the body was, and when it was there."""
        self.note_sent: Callable[[], None] | None = None
        """Called when the socket has the answer of an inference; knows nothing of the request, as that knows it."""

    @property
    @abstractmethod
    def verb(self) -> str:
        """The HTTP method."""

    @property
    @abstractmethod
    def path(self) -> str:
        """Percent-decoded, for messages."""

    @property
    @abstractmethod
    def raw_path(self) -> bytes:
        """As it was sent, without the query."""

    @property
    @abstractmethod
    def scheme(self) -> str:
        """``http`` or ``https``."""

    @property
    @abstractmethod
    def fields(self) -> Sequence[tuple[bytes, bytes]]:
        """The header, names in lower case."""

    @property
    @abstractmethod
    def addresses(self) -> tuple[Any, Any]:  # Any: as ASGI has them.
        """The server's and the client's."""

    @property
    @abstractmethod
    def certificate_name(self) -> str:
        """See :class:`~ovms_mp.front.call_context.CallOrigin`."""

    @property
    @abstractmethod
    def expects_go_ahead(self) -> bool:
        """Whether the client has said that it would wait before it sends the body."""

    @property
    @abstractmethod
    def content_length(self) -> int | None:
        """How long the client says that the body is."""

    @abstractmethod
    def take_here(self) -> bytes | None:
        """All of the body, if nothing of it has to be waited for."""

    @abstractmethod
    def get_header(self, name: str) -> str | None:
        """A header of the client's; None without it."""

    @abstractmethod
    def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives."""

    def header(self, name: str) -> str | None:
        """A header of the client's; None without it."""
        return self.get_header(name)

    async def fill(self, sink: MessageSink) -> None:
        """Give a sink all of the body."""
        async for piece in self.pieces():
            self.share.grow(fill(sink, memoryview(piece)))

    async def read_body(self, bound_bytes: int | None) -> bytes | bytearray:
        """The whole body; see :func:`~ovms_mp.front.rest.body.read_body`."""
        body = await read_body(self, self._limits, bound_bytes, self.share)
        self.received_bytes = self.content_length or len(body)
        self.arrived_ns = time.monotonic_ns()
        return body

    async def receive_body(
        self, bound_bytes: int | None, least_bytes: int, make_sink: Callable[[int], MessageSink | None]
    ) -> Any:  # Any: as of the sink.
        """What a sink makes of the body; see :func:`~ovms_mp.front.rest.body.receive_body`."""
        length = self.content_length
        if length is None or length < least_bytes:
            return None
        made = await receive_body(self, length, self._limits, bound_bytes, make_sink)
        if made is not None:
            self.received_bytes = length
            self.arrived_ns = time.monotonic_ns()
        return made

    def wishes(self) -> tuple[str | None, str | None]:
        """How the client wants to hear of the server's load, and how long it waits; None if it does not say."""
        return self.get_header(LOAD_FORMAT), self.get_header(TIMEOUT_HEADER)

    @property
    def metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """The headers."""
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.fields]

    @property
    def target(self) -> Target:
        """What was asked for."""
        return Target(self.verb, self.path, self.scheme)

    @property
    def peer(self) -> str:
        """The client's address."""
        match self.addresses:
            case ((_, None), _):
                return address_text("")  # A Unix socket's.
            case (_, client):
                return address_text(client)

    @property
    def flow(self) -> int:
        """A number of the client's address, whose connections take turns with others' as if they were one; 0 without.

        PERF: 0.2 us.
        """
        client = self.addresses[1]
        return hash(client[0]) & _LARGEST_FLOW if client else 0


class FalconRequest(IncomingRequest):
    """A request of falcon's."""

    __slots__ = ("_request",)

    def __init__(self, request: Request, limits: FrontLimits, share: BodyShare) -> None:
        """Wrap; see :class:`IncomingRequest`."""
        super().__init__(limits, share)
        self._request = request

    @property
    def verb(self) -> str:
        """See :class:`IncomingRequest`."""
        return self._request.method

    @property
    def path(self) -> str:
        """See :class:`IncomingRequest`."""
        return self._request.path

    @property
    def raw_path(self) -> bytes:
        """See :class:`IncomingRequest`."""
        raw_path: bytes = self._request.scope["raw_path"]
        return raw_path

    @property
    def scheme(self) -> str:
        """See :class:`IncomingRequest`."""
        return self._request.scheme

    @property
    def fields(self) -> Sequence[tuple[bytes, bytes]]:
        """See :class:`IncomingRequest`."""
        fields: Sequence[tuple[bytes, bytes]] = self._request.scope["headers"]
        return fields

    @property
    def addresses(self) -> tuple[Any, Any]:  # Any: as ASGI has them.
        """See :class:`IncomingRequest`."""
        return self._request.scope.get("server"), self._request.scope.get("client")

    @property
    def certificate_name(self) -> str:
        """See :class:`~ovms_mp.front.call_context.CallOrigin`."""
        return str(self._request.scope.get("state", {}).get(CERTIFICATE_NAME, ""))

    @property
    def expects_go_ahead(self) -> bool:
        """See :class:`IncomingRequest`."""
        return bool(self._request.expect)

    @property
    def content_length(self) -> int | None:
        """See :class:`IncomingRequest`."""
        return self._request.content_length

    def take_here(self) -> None:
        """See :class:`IncomingRequest`; falcon has bodies by events."""

    def get_header(self, name: str) -> str | None:
        """See :class:`IncomingRequest`."""
        return self._request.get_header(name)

    async def pieces(self) -> AsyncIterator[bytes]:
        """See :class:`IncomingRequest`."""
        async for piece in self._request.stream:
            yield piece
