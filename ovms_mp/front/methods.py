# SPDX-License-Identifier: Apache-2.0
"""What a protocol hands to the gRPC transports: its methods, each with what takes its messages and gives its replies.

Both transports take the same list. Handlers know nothing of them: they have octets, or what a sink made of them, and
the call's context, and give octets back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from ovms_mp.front.call_context import CallContext
from ovms_mp.front.gathered import Gathered
from ovms_mp.front.sinks import MessageSink

Octets: TypeAlias = bytes | bytearray
"""A message. One that was long and packed is a bytearray."""
Reply: TypeAlias = bytes | Gathered


class MessageStream(Protocol):
    """A streaming call: the handler iterates over its messages and sends on it."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The client's messages, until it has sent the last one."""

    async def send(self, reply: Reply) -> None:
        """Send a message; returns when the client has room for another one."""


def _name_of(path: str) -> str:
    return path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Unary:
    """A method with one message in and one out.

    Attributes:
        path: ``/package.Service/Method``.
        handler: Given the message's octets or what a sink made of them, and the context.
        make_sink: By the message's length; None if octets are as good. A transport that has whole messages anyway
            does not call it.
        max_bytes: Of a message, if that is less than what the server takes; 0 if not.
        unpacked_limit: How long so many packed octets may become.
        protocol: The API's name.
        changes_server: Whether only administrators may call it.
        is_open: Whether anybody may call it, as of probes.
        name: The last part of the path.
    """

    path: str
    handler: Callable[[Any, CallContext], Awaitable[Reply]]  # Any: as of ``MessageSink.finish``.
    make_sink: Callable[[int], MessageSink | None] | None = None
    max_bytes: int = 0
    unpacked_limit: Callable[[int], int] | None = None
    protocol: str = ""
    changes_server: bool = False
    is_open: bool = False
    name: str = field(init=False)

    def __post_init__(self) -> None:
        """Take the name from the path."""
        object.__setattr__(self, "name", _name_of(self.path))

    def longest_bytes(self, server_limit_bytes: int) -> int:
        """The longest message that is taken, as it is sent."""
        return self.max_bytes if 0 < self.max_bytes < server_limit_bytes else server_limit_bytes

    def longest_unpacked_bytes(self, packed_bytes: int, server_limit_bytes: int) -> int:
        """How long a packed message may become."""
        if self.unpacked_limit is None:
            return self.longest_bytes(server_limit_bytes)
        return min(server_limit_bytes, self.unpacked_limit(packed_bytes))


@dataclass(frozen=True, slots=True)
class Streaming:
    """A method with any number of messages in and out; each may be as long as the server takes.

    Attributes:
        path: ``/package.Service/Method``.
        handler: Given the call and its context; the call ends when it returns.
        protocol: The API's name.
        changes_server: Whether only administrators may call it.
        is_open: Whether anybody may call it, as of probes.
        name: The last part of the path.
    """

    path: str
    handler: Callable[
        [Any, CallContext], Awaitable[None]
    ]  # Any: a MessageStream; a handler may want more of it.
    protocol: str = ""
    changes_server: bool = False
    is_open: bool = False
    name: str = field(init=False)

    def __post_init__(self) -> None:
        """Take the name from the path."""
        object.__setattr__(self, "name", _name_of(self.path))


def service_of(path: str) -> str:
    """The full name of the service that a method belongs to."""
    return path[1:].rpartition("/")[0]


Method: TypeAlias = Unary | Streaming
Methods: TypeAlias = Mapping[str, Method]
"""By path; a call of any other path is UNIMPLEMENTED."""


def by_path(methods: Iterable[Method]) -> dict[str, Method]:
    """Methods as a transport looks them up."""
    return {method.path: method for method in methods}
