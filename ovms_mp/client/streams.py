# SPDX-License-Identifier: Apache-2.0
"""Many requests in one call, KServe's ModelStreamInfer, without a socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ovms_mp.client import grpc_framing
from ovms_mp.client.checks import wrong
from ovms_mp.client.errors import ClientError, Unsupported, error_of, unreadable
from ovms_mp.client.exchange import Exchange, Octets, Request, lost
from ovms_mp.client.http2 import Http2Connection
from ovms_mp.client.kserve_grpc import STREAM, KServeGrpc
from ovms_mp.codes import Code

if TYPE_CHECKING:
    from ovms_mp.client.calls import ModelMetadata, Outputs
    from ovms_mp.client.exchange import Operation
    from ovms_mp.client.session import Connection, Session

StreamRequest: TypeAlias = "Mapping[str, Any] | Any"
"""The inputs of a request, as ``predict`` takes them."""


class Messages(Exchange):
    """An exchange whose answer is any number of messages.

    Attributes:
        messages: Those that are whole, and have not been taken.
        on_message: Called when there are more.
    """

    __slots__ = ("_needed", "messages", "on_message")

    def __init__(self, request: Request, most_bytes: int) -> None:
        super().__init__(request, 0.0, most_bytes)
        self.messages: deque[bytes] = deque()
        self.on_message: Callable[[], None] | None = None
        self._needed = grpc_framing.PREFIX.size
        """Octets that the next message, or its length, has."""

    def take_data(self, octets: Octets) -> None:
        """Take a piece of the answers.

        PERF: a long message is put together once, and not with each of its pieces.

        Raises:
            Failed: A message is longer than the caller wants to hold, or cannot be read.
        """
        self.pieces.append(octets)
        self.nbytes += len(octets)
        if self.nbytes < self._needed:
            return
        found, rest = grpc_framing.split(b"".join(self.pieces))
        self.pieces, self.nbytes = [bytes(rest)], len(rest)
        begun = grpc_framing.PREFIX.unpack_from(rest)[1] if len(rest) >= grpc_framing.PREFIX.size else 0
        self._needed = grpc_framing.PREFIX.size + begun
        self.messages.extend(map(bytes, found))
        if max([begun, *map(len, found)]) > self.most_bytes:
            raise unreadable(f"a message of more than {self.most_bytes} bytes (max_answer_bytes)")
        if found and self.on_message is not None:
            self.on_message()


class Stream:
    """A call that has begun, or will.

    Attributes:
        model: Of all requests.
        version: Of all requests; 0 for the server's choice.
        ahead: How many requests may be without an answer.
        unanswered: Requests that were sent and have no answer yet.
    """

    def __init__(
        self,
        session: Session,
        model: str,
        version: int,
        outputs: Sequence[str],
        ahead: int,
        *,
        return_errors: bool,
    ) -> None:
        """Prepare.

        Args:
            session: Of the client.
            model: Of all requests.
            version: Of all requests.
            outputs: Names of those that are wanted.
            ahead: How many requests may be without an answer.
            return_errors: Whether failures of requests are returned.

        Raises:
            Unsupported: The client does not speak KServe over gRPC.
            InvalidRequest: No request may be without an answer.
        """
        if not isinstance(session.dialect, KServeGrpc):
            raise Unsupported(
                Code.UNIMPLEMENTED, "streams need KServe's API over gRPC: a URL with grpc:// and no api=tfs"
            )
        if not isinstance(ahead, int) or ahead < 1:
            raise wrong(f"ahead is {ahead!r}, but must be a whole number of at least 1")
        self._dialect = session.dialect
        self.ahead = ahead
        self._session = session
        self.model = model
        self.version = version
        self.unanswered = 0
        self._outputs = outputs
        self._return_errors = return_errors
        self._exchange = Messages(Request("POST", STREAM), session.options.max_answer_bytes)
        self._protocol: Http2Connection | None = None
        self._stream_id = 0
        self._is_whole = False
        """Whether there are no more requests."""

    def begin(self, protocol: Connection, on_event: Callable[[], None] | None = None) -> None:
        """Begin the call on a connection.

        Args:
            protocol: Of HTTP/2.
            on_event: Called when an answer has come, or the call has ended.
        """
        if not isinstance(protocol, Http2Connection):
            raise unreadable("a stream over HTTP/1.1")
        self._protocol = protocol
        self._exchange.on_message = self._exchange.on_end = on_event
        self._stream_id = protocol.begin(self._exchange, is_whole=False)

    @property
    def needs_name(self) -> bool:
        """Whether the name of the model's only input is still to be asked for."""
        return self._session.known_input(self.model, self.version) is None

    def about(self) -> Operation[ModelMetadata]:
        """The call that asks for it."""
        return self._session.about(self._dialect.metadata, self.model, self.version)

    def learn(self, metadata: ModelMetadata) -> None:
        """Note the name of the model's only input."""
        self._session.learn_input(self.model, self.version, metadata)

    def send(self, inputs: StreamRequest) -> None:
        """Send a request."""
        if not isinstance(inputs, Mapping):
            inputs = {self._session.known_input(self.model, self.version): inputs}
        call = self._session.predict(self.model, inputs, self.version, self._outputs)
        message = grpc_framing.framed(self._dialect.message(call))
        if self._protocol is not None:
            self._protocol.send(self._stream_id, message, is_whole=False)
            self.unanswered += 1

    def finish(self) -> None:
        """Tell the server that there are no more requests."""
        self._is_whole = True
        if self._protocol is not None:
            self._protocol.send(self._stream_id, (), is_whole=True)

    def cancel(self) -> None:
        """Give the rest up."""
        if self._protocol is not None:
            self._protocol.cancel(self._stream_id)

    @property
    def has_answer(self) -> bool:
        """Whether :meth:`take` returns, or the call has ended."""
        return bool(self._exchange.messages) or self._exchange.is_done

    @property
    def has_ended(self) -> bool:
        """Whether all answers have been taken and the call has ended well.

        Raises:
            ClientError: It has ended otherwise.
        """
        exchange = self._exchange
        if exchange.messages or not exchange.is_done:
            return False
        if exchange.failure is not None:
            raise exchange.take_failure()
        if not grpc_framing.is_success(exchange.headers):
            raise grpc_framing.failure_of(exchange.status, exchange.headers)
        if self.unanswered or exchange.nbytes:
            raise unreadable(f"a stream that ends with {self.unanswered} requests without an answer")
        if not self._is_whole:
            raise lost("the server has ended the stream before all requests were sent")
        return True

    def take(self) -> Outputs | ClientError:
        """The next answer.

        Raises:
            ClientError: The request has failed, and failures are not returned.
        """
        if not self.unanswered:
            raise unreadable("an answer to no request")
        self.unanswered -= 1
        message, code, outputs = self._dialect.stream_answer(self._exchange.messages.popleft())
        if not message:
            return outputs
        error = error_of(code, message)
        error.was_answered = True
        if self._return_errors:
            return error
        raise error
