# SPDX-License-Identifier: Apache-2.0
"""What a protocol hands to the REST transport: its paths, and what answers each HTTP method on them.

Nothing here knows the web framework. A handler reads the body when it wants it, if it wants it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from ovms_mp.front.budget import BodyShare
from ovms_mp.front.call_context import CallContext
from ovms_mp.front.gathered import Gathered, reply_nbytes
from ovms_mp.front.sinks import MessageSink

TIMEOUT_HEADER = "X-Request-Timeout-Seconds"
"""A header of requests: how long the client waits for the answer. The name is that of Ray Serve."""


class RestRequest(Protocol):
    """A request whose body has not been read yet."""

    @property
    def verb(self) -> str:
        """The HTTP method."""

    @property
    def path(self) -> str:
        """Percent-decoded, for messages."""

    @property
    def raw_path(self) -> bytes:
        """As it was sent, without the query."""

    @property
    def share(self) -> BodyShare:
        """What the body takes of the memory for bodies; ends with the request."""

    def header(self, name: str) -> str | None:
        """A header of the client's; None without it."""

    def read_body(self, bound_bytes: int | None) -> Awaitable[bytes | bytearray]:
        """The whole body, unpacked.

        Args:
            bound_bytes: The longest that the call can need; None without an end.

        Raises:
            OvmsError: It is too long, too late or not what its headers say.
        """

    def receive_body(
        self, bound_bytes: int | None, least_bytes: int, make_sink: Callable[[int], MessageSink | None]
    ) -> Awaitable[Any]:
        """What a sink makes of the body as it arrives; None, and nothing is read, where no sink can take it.

        Args:
            bound_bytes: As of :meth:`read_body`.
            least_bytes: Of a body that is worth a sink.
            make_sink: By the body's length; None if octets are as good. What it makes gives back something else.

        Raises:
            OvmsError: As of :meth:`read_body`; or the sink refuses what comes.
        """


class Answer(NamedTuple):
    """What a handler gives back.

    Attributes:
        headers: Besides those that every answer has.
        stream: Gives the body piece by piece, in place of ``body``, for as long as it wants. Its ``close`` is awaited
            at its end, also where the client has gone. The call itself has ended before.
    """

    body: bytes | bytearray | Gathered
    status: int = 200
    content_type: str = "application/json"
    headers: Sequence[tuple[str, str]] = ()
    stream: AsyncIterator[bytes] | None = None

    @property
    def nbytes(self) -> int:
        """How long the body is."""
        return reply_nbytes(self.body)


Handler: TypeAlias = Callable[[RestRequest, CallContext], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What answers one HTTP method on one kind of path.

    Attributes:
        handler: The protocol's code.
        protocol: The API's name.
        name: The method's name; the same as over gRPC where it is there, too.
        takes_body: Whether the handler reads the body.
        changes_server: Whether only administrators may call it, and pages of other sites must not have a browser do so.
        is_open: Whether anybody may call it, as of probes.
        compresses: Whether its answers may be compressed for clients that ask for that.
        carries_tensors: Whether it is called for what the server is there for: the transport takes the shortest way.
    """

    handler: Handler
    protocol: str
    name: str
    takes_body: bool = False
    changes_server: bool = False
    is_open: bool = False
    compresses: bool = False
    carries_tensors: bool = False


class Route(Protocol):
    """Paths of one form. ``find`` and ``allowed`` are pure and quick."""

    @property
    def template(self) -> str:
        """The form, with ``{path:path}`` for a rest that the protocol takes apart itself."""

    def find(self, verb: str, raw_path: bytes) -> Endpoint | None:
        """What answers; None where the path does not have this HTTP method. GET stands for HEAD."""

    def allowed(self, raw_path: bytes) -> tuple[str, ...]:
        """The HTTP methods of a path, as ``Allow`` names them, without OPTIONS."""

    def operations(self) -> Iterable[tuple[str, str, Endpoint]]:
        """All that can be called: HTTP method, path with ``{names}`` for what varies, and what answers."""


class FixedRoute:
    """One path with nothing variable in it."""

    def __init__(self, path: str, endpoints: Mapping[str, Endpoint]) -> None:
        self.template = path
        self._endpoints = endpoints
        self._allowed = tuple(endpoints) + (("HEAD",) if "GET" in endpoints else ())

    def find(self, verb: str, raw_path: bytes) -> Endpoint | None:
        """See :class:`Route`."""
        return self._endpoints.get(verb)

    def allowed(self, raw_path: bytes) -> tuple[str, ...]:
        """See :class:`Route`."""
        return self._allowed

    def operations(self) -> Iterable[tuple[str, str, Endpoint]]:
        """See :class:`Route`."""
        return [(verb, self.template, endpoint) for verb, endpoint in self._endpoints.items()]
