# SPDX-License-Identifier: Apache-2.0
"""What becomes of a request, whatever carries it: let in by the gate, answered by its endpoint, its failure as HTTP."""

from __future__ import annotations

import asyncio
import math
import time
from functools import partial
from typing import TYPE_CHECKING, Protocol

import falcon
import msgspec

from ovms_mp.errors import Code, DeadlineExceeded, OvmsError, RequestTooLarge, shortened
from ovms_mp.front.call_context import CallContext
from ovms_mp.front.failures import failure_of
from ovms_mp.front.rest.compression import LEAST_BYTES, Changing, compress
from ovms_mp.front.rest.waiting import answer_in_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from ovms_mp.child.specs import RestSpec
    from ovms_mp.front.access.proxies import TrustedProxies
    from ovms_mp.front.endpoints import Answer, Endpoint
    from ovms_mp.front.gate import Gate
    from ovms_mp.front.rest.origins import Origins
    from ovms_mp.front.rest.request import IncomingRequest
    from ovms_mp.front.service import Service

_LONGEST_ID = 256
"""Characters of a request's id; a longer one is not sent back."""
_JSON = "application/json"


class Front(Protocol):
    """What is behind the requests of this process, once its session is open."""

    @property
    def spec(self) -> RestSpec:
        """The front's specification."""

    @property
    def service(self) -> Service:
        """Answers."""

    @property
    def gate(self) -> Gate:
        """Lets calls in."""

    @property
    def proxies(self) -> TrustedProxies:
        """Who may say for whom they speak."""


class OutgoingResponse(Changing, Protocol):
    """An answer while it is made, falcon's or our own. Names of the header are lower-cased by it.

    Attributes:
        status: HTTP's number.
        content_type: Of the body.
    """

    status: int
    content_type: str

    def set_headers(self, headers: Iterable[tuple[str, str]]) -> None:
        """Set fields."""


class Answering:
    """One for each front."""

    def __init__(self, front: Front, origins: Origins) -> None:
        """Prepare.

        Args:
            front: Has its service when the first request comes.
            origins: Rules for web pages.
        """
        self._front = front
        self._origins = origins

    async def answer(
        self,
        endpoint: Endpoint | None,
        incoming: IncomingRequest,
        response: OutgoingResponse,
        refusal: Callable[[], falcon.HTTPError],
    ) -> AsyncIterator[bytes] | None:
        """Have a request answered; failures are answers, too.

        Args:
            endpoint: What answers; None where nothing does.
            incoming: The request. What it holds of the body is given back.
            response: Written here.
            refusal: Why nothing answers.

        Returns:
            What gives the body piece by piece, in place of ``response.data``; None for all but a few answers.
        """
        front = self._front
        begun_ns = time.monotonic_ns()
        deadline_ns = 0
        if endpoint is not None and endpoint.takes_body:
            # The time that the body takes counts, too.
            deadline_ns = begun_ns + int(front.spec.limits.request_timeout_s * 1e9)
        else:
            _close_if_body_is_held_back(incoming, response)
        context = CallContext.of(endpoint, deadline_ns, incoming.flow, incoming, "REST", begun_ns)
        try:
            with incoming.share:
                load_format, patience = incoming.wishes()
                if load_format is not None:
                    context.load_format = load_format
                answer = await self._answer(endpoint, incoming, context, refusal, patience)
        except falcon.HTTPError as error:
            write_http_error(incoming, response, error)
            return None
        except OvmsError as failure:
            write_failure(incoming, response, failure, context)
            return None
        if context.encoded_ns:
            incoming.note_sent = partial(context.counters.stages.sent_since, context.encoded_ns)
        response.status = answer.status
        response.data = answer.body
        response.content_type = answer.content_type
        if answer.headers:
            response.set_headers(answer.headers)
        if context.reply_metadata:
            response.set_headers(context.reply_metadata)
        if endpoint is not None and endpoint.compresses and context.sent_bytes >= LEAST_BYTES:
            await compress(incoming, response)
        echo_id(incoming, response)
        if front.service.is_draining:
            # Tells a keep-alive client to bring its next request elsewhere, before this process closes the
            # connection.
            response.set_header("Connection", "close")
        return answer.stream

    async def _answer(
        self,
        endpoint: Endpoint | None,
        incoming: IncomingRequest,
        context: CallContext,
        refusal: Callable[[], falcon.HTTPError],
        patience: str | None,
    ) -> Answer:
        """Let the call in, answer it, and say how it has ended."""
        gate = self._front.gate
        gate.enter(context)
        try:
            gate.admit(context)
            if endpoint is None:
                raise refusal()
            if endpoint.changes_server:
                self._origins.refuse_other_sites(incoming, incoming, self._front.proxies)
            if patience:
                answer = await answer_in_time(endpoint.handler, incoming, context, patience)
            else:
                answer = await endpoint.handler(incoming, context)
        except asyncio.CancelledError:
            self._leave(incoming, context, Code.CANCELLED)
            raise
        except falcon.HTTPError as error:  # HTTP's own words, for what no other transport has.
            context.http_status = falcon.http_status_to_code(error.status)
            self._leave(incoming, context, Code.INVALID_ARGUMENT)
            raise
        except Exception as error:
            failure = failure_of(error, incoming.path, context)
            context.http_status = failure.http_status
            self._leave(incoming, context, failure.code, failure)
            try:
                raise failure from None
            finally:
                # It refers to this frame by its traceback, and with it to the request: a circle, if it stayed here.
                del failure
        context.http_status = answer.status
        context.sent_bytes = answer.nbytes
        self._leave(incoming, context, None)
        return answer

    def _leave(
        self,
        incoming: IncomingRequest,
        context: CallContext,
        code: Code | None,
        failure: OvmsError | None = None,
    ) -> None:
        context.received_bytes, context.arrived_ns = incoming.received_bytes, incoming.arrived_ns
        self._front.gate.leave(context, code, failure)


def _close_if_body_is_held_back(incoming: IncomingRequest, response: OutgoingResponse) -> None:
    """Who waits for a go-ahead and gets an answer may keep the body; the next request must not be taken for it."""
    if incoming.expects_go_ahead:
        response.set_header("Connection", "close")


def echo_id(incoming: IncomingRequest, response: OutgoingResponse) -> None:
    """Have the answer carry the id that a client or proxy has given the request, for their logs."""
    given = incoming.get_header("X-Request-ID")
    if given is not None and len(given) <= _LONGEST_ID:
        response.set_header("X-Request-ID", given)


def _write_error(incoming: IncomingRequest, response: OutgoingResponse, status: int, message: str) -> None:
    echo_id(incoming, response)
    response.status = status
    response.data = msgspec.json.encode({"error": shortened(message)})
    response.content_type = _JSON


def write_failure(
    incoming: IncomingRequest, response: OutgoingResponse, failure: OvmsError, context: CallContext | None
) -> None:
    """The one place where failures become HTTP; what a handler raised is in the log already."""
    _write_error(incoming, response, failure.http_status, failure.message)
    if context is not None and context.reply_metadata:
        response.set_headers(context.reply_metadata)
    if failure.code in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED) and failure.http_status != 413:
        response.set_header("Retry-After", str(max(1, math.ceil(failure.retry_after_s))))
    if isinstance(failure, RequestTooLarge) or (
        isinstance(failure, DeadlineExceeded) and not incoming.arrived_ns
    ):
        # Part of the body may be unread; the connection cannot carry another request.
        response.set_header("Connection", "close")
    _close_if_body_is_held_back(incoming, response)


def write_http_error(incoming: IncomingRequest, response: OutgoingResponse, error: falcon.HTTPError) -> None:
    """What HTTP itself has a word for: unknown paths, methods, codings, malformed headers."""
    code = falcon.http_status_to_code(error.status)
    reason = error.description or error.title or "request refused"
    if code == 404:
        reason = f"Requested REST resource not found: {incoming.verb} {incoming.path}"
    elif code == 405:
        allowed = (error.headers or {}).get("Allow", "").split(", ")  # type: ignore[union-attr]  # falcon's own are dicts
        known = " or ".join(name for name in allowed if name in ("GET", "POST"))
        reason = f"Unsupported method: {incoming.verb} {incoming.path}; use {known}"
    _write_error(incoming, response, code, reason)
    for name, value in dict(error.headers or {}).items():
        response.set_header(name, value)
    _close_if_body_is_held_back(incoming, response)
