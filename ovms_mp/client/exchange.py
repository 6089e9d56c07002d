# SPDX-License-Identifier: Apache-2.0
"""One request and its answer, as connections of both HTTP versions carry them.

Nothing here knows sockets: whoever drives a connection gives it octets, and exchanges are told what has come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, TypeAlias, TypeVar

from ovms_mp.client.errors import ClientError, NotSent, Overloaded, error_of
from ovms_mp.codes import Code

Octets: TypeAlias = bytes | bytearray | memoryview
T = TypeVar("T")

MOST_ANSWER_BYTES = 1 << 30
"""The longest answer that is taken, unless the caller says otherwise."""
_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(slots=True)
class Request:
    """A request.

    Attributes:
        verb: HTTP's method.
        path: With the query, percent-encoded.
        body: In pieces that are sent one behind the other; views of the caller's arrays.
        headers: In lower case, besides those that every request of a connection has.
    """

    verb: str
    path: str
    body: Sequence[Octets] = ()
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Reply:
    """A whole answer.

    Attributes:
        headers: By lower-case name, together with what came behind the body.
    """

    status: int
    headers: Mapping[str, str]
    body: Octets


@dataclass(slots=True)
class Operation(Generic[T]):
    """A call: what is sent, and what its answer becomes.

    Attributes:
        read: Raises ClientError where the answer is a failure.
    """

    request: Request
    read: Callable[[Reply], T]


def not_sent(message: str) -> NotSent:
    """The failure of a request that no server has begun with."""
    return NotSent(Code.UNAVAILABLE, message)


def lost(message: str) -> ClientError:
    """The failure of a request whose connection ended."""
    return error_of(Code.UNAVAILABLE, message)


class Exchange:
    """A request that is under way. One whose answer is a single message collects it.

    Attributes:
        request: What is sent.
        deadline: Monotonic seconds.
        most_bytes: The longest answer that is taken.
        on_end: Called once, when ``is_done`` has become true.
        failure: Why there is no answer.
    """

    __slots__ = (
        "deadline", "failure", "headers", "is_done", "most_bytes", "nbytes", "on_end", "pieces", "request", "status",
    )  # fmt: skip

    def __init__(self, request: Request, deadline: float, most_bytes: int = MOST_ANSWER_BYTES) -> None:
        self.request = request
        self.deadline = deadline
        self.most_bytes = most_bytes
        self.on_end: Callable[[], None] | None = None
        self.status = 0
        self.headers = _NONE
        self.pieces: list[Octets] = []
        self.nbytes = 0
        self.failure: ClientError | None = None
        self.is_done = False

    def take_head(self, status: int, headers: Mapping[str, str]) -> None:
        """Take the status and the headers."""
        self.status = status
        self.headers = headers

    def take_data(self, octets: Octets) -> None:
        """Take a piece of the body.

        Raises:
            Overloaded: The body is longer than the caller wants to hold.
        """
        self.nbytes += len(octets)
        if self.nbytes > self.most_bytes:
            raise Overloaded(
                Code.RESOURCE_EXHAUSTED,
                f"the answer is longer than {self.most_bytes} bytes (max_answer_bytes)",
            )
        self.pieces.append(octets)

    def end(self, trailers: Mapping[str, str] | None = None) -> None:
        """Take note that the answer is whole."""
        if trailers:
            self.headers = {**self.headers, **trailers}
        self._done()

    def fail(self, failure: ClientError) -> None:
        """Take note that there will be none."""
        if not self.is_done:
            self.failure = failure
            self._done()

    def _done(self) -> None:
        self.is_done = True
        if self.on_end is not None:
            self.on_end()

    def take_failure(self) -> ClientError:
        """The failure, to be raised, and forgotten here: the two would keep each other and the caller's arrays."""
        failure, self.failure = self.failure, None
        return failure or lost("the request has failed")

    def reply(self) -> Reply:
        """The answer, once it is there.

        Raises:
            ClientError: There is none.
        """
        if self.failure is not None:
            raise self.take_failure()
        pieces = self.pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return Reply(self.status, self.headers, body)
