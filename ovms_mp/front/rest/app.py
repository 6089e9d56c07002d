# SPDX-License-Identifier: Apache-2.0
"""The falcon application: carries requests to what the protocols answer them with, and failures back as HTTP."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

import falcon
import falcon.asgi
import msgspec

from ovms_mp.errors import Code, DeadlineExceeded, OvmsError, RequestTooLarge, shortened
from ovms_mp.front.browsers import to_page
from ovms_mp.front.call_context import CallContext
from ovms_mp.front.endpoints import Answer, Endpoint, FixedRoute
from ovms_mp.front.failures import failure_of
from ovms_mp.front.protocols import all_routes
from ovms_mp.front.rest.compression import LEAST_BYTES, compress
from ovms_mp.front.rest.origins import Origins
from ovms_mp.front.rest.request import FalconRequest

if TYPE_CHECKING:
    from typing import Any

    from falcon.asgi import Request, Response

    from ovms_mp.errors import OvmsError
    from ovms_mp.front.endpoints import RestRequest, Route
    from ovms_mp.front.rest.lifespan import Lifespan

_LARGEST_FLOW = (1 << 31) - 1
_LONGEST_ID = 256
"""Characters of a request's id; a longer one is not sent back."""


def create_app(lifespan: Lifespan) -> falcon.asgi.App[Request, Response]:
    """The application of one REST front; ``lifespan`` holds its session once uvicorn has started it."""
    app: falcon.asgi.App[Request, Response] = falcon.asgi.App()
    app.add_middleware(lifespan)
    app.add_error_handler(Exception, _answer_failure)
    app.add_error_handler(falcon.HTTPError, _answer_http_error)
    origins = Origins(lifespan.spec.origins)
    if origins.has_any:
        app.add_middleware(origins)
    prefix = lifespan.spec.prefix
    has_page = lifespan.spec.page is not None
    for route in all_routes(lifespan, without=() if has_page else ("page", "docs")):
        is_root = has_page and route.template == "/"
        resource = (_RootWithPage if is_root else _Resource)(route, lifespan, origins)
        app.add_route(prefix + route.template, resource)
        if prefix and route.template == "/":
            app.add_route(prefix, resource)
    # Not falcon's 404: the gate comes first.
    app.add_sink(_Resource(_NOWHERE, lifespan, origins).answer, "/")  # type: ignore[arg-type]  # never without a response
    return app


_NOWHERE = FixedRoute("", {})
"""The route of all paths that are none."""


class _Resource:
    """A route as falcon wants it: one responder, for whatever HTTP method."""

    def __init__(self, route: Route, lifespan: Lifespan, origins: Origins) -> None:
        self._route = route
        self._lifespan = lifespan
        self._origins = origins
        self._prefix = lifespan.spec.prefix.encode()
        stem, brace, _ = route.template.partition("{")
        self._begin = self._prefix + (stem.encode() if brace else b"")
        """Of paths as they are sent; what is taken apart by handlers must begin as they expect it."""
        self._options = Endpoint(self._allowed, "", "Options")
        self._nowhere = self if route is _NOWHERE else _Resource(_NOWHERE, lifespan, origins)

    async def answer(self, request: Request, response: Response, **_: str) -> None:
        """Find what answers, and write what it says."""
        verb, raw_path, lifespan = request.method, self._path_of(request), self._lifespan
        if raw_path is None:
            await self._nowhere.answer(request, response)
            return
        endpoint = (
            self._options
            if verb == "OPTIONS"
            else self._route.find("GET" if verb == "HEAD" else verb, raw_path)
        )
        deadline_ns = 0
        begun_ns = time.monotonic_ns()
        if endpoint is not None and endpoint.takes_body:
            # The time that the body takes counts, too.
            deadline_ns = begun_ns + int(lifespan.spec.limits.request_timeout_s * 1e9)
        else:
            _close_if_body_is_held_back(request, response)
        with lifespan.bodies.share() as share:
            incoming = FalconRequest(request, lifespan.spec.limits, share)
            flow = _flow_of(request) if endpoint is not None and endpoint.takes_body else 0
            context = CallContext.of(endpoint, deadline_ns, flow, incoming, "REST", begun_ns)
            context.load_format = incoming.load_format()
            request.context.call = context
            answer = await self._answer(endpoint, request, incoming, context)
        if answer.status != 200:
            response.status = answer.status
        if answer.stream is None:
            response.data = answer.body  # type: ignore[assignment]  # Any octets are as good as bytes.
        else:
            response.stream = answer.stream
        response.content_type = answer.content_type
        if answer.headers:
            response.set_headers(answer.headers)
        if context.reply_metadata:
            response.set_headers(context.reply_metadata)
        if endpoint is not None and endpoint.compresses and len(answer.body) >= LEAST_BYTES:
            await compress(request, response)
        echo_id(request, response)
        if lifespan.service.is_draining:
            # Tells a keep-alive client to bring its next request elsewhere, before this process closes the
            # connection.
            response.set_header("Connection", "close")

    def _path_of(self, request: Request) -> bytes | None:
        """The path as it was sent, without what all paths begin with; handlers find it so in the request, too.

        None where it begins otherwise than the route: falcon does not mind slashes before it, nor percent-encoding.
        """
        raw_path: bytes = request.scope["raw_path"]
        if self._route is _NOWHERE:
            return raw_path
        if not raw_path.startswith(self._begin) or request.path.startswith("//"):
            return None
        if self._prefix:
            raw_path = request.scope["raw_path"] = raw_path[len(self._prefix) :] or b"/"
        return raw_path

    async def _answer(
        self, endpoint: Endpoint | None, request: Request, incoming: FalconRequest, context: CallContext
    ) -> Answer:
        """Let the call in, answer it, and say how it has ended."""
        gate = self._lifespan.gate
        gate.enter(context)
        try:
            gate.admit(context)
            if endpoint is None:
                raise self._refusal(request)
            if endpoint.changes_server:
                self._origins.refuse_other_sites(request, incoming, self._lifespan.session.proxies)
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
            raise failure from None
        context.http_status = answer.status
        context.sent_bytes = len(answer.body)
        self._leave(incoming, context, None)
        return answer

    def _refusal(self, request: Request) -> falcon.HTTPError:
        """Why nothing answers."""
        if self._route is _NOWHERE:
            return falcon.HTTPNotFound()
        return falcon.HTTPMethodNotAllowed((*self._route.allowed(request.scope["raw_path"]), "OPTIONS"))

    def _leave(
        self,
        incoming: FalconRequest,
        context: CallContext,
        code: Code | None,
        failure: OvmsError | None = None,
    ) -> None:
        context.received_bytes, context.arrived_ns = incoming.received_bytes, incoming.arrived_ns
        self._lifespan.gate.leave(context, code, failure)

    async def _allowed(self, request: RestRequest, context: CallContext) -> Answer:
        """The methods of this path."""
        if self._route is _NOWHERE:
            raise falcon.HTTPNotFound
        allowed = self._route.allowed(request.raw_path)
        return Answer(b"", headers=(("Allow", ", ".join((*allowed, "OPTIONS"))), ("Content-Length", "0")))


class _RootWithPage(_Resource):
    """``/``, from where people with a browser are sent to the page, with or without a key; programs are not."""

    async def on_get(self, request: Request, response: Response, **_: str) -> None:
        """Send a browser on, or answer as without a page."""
        if "text/html" not in (request.get_header("Accept") or ""):
            await self.answer(request, response)
            return
        moved = to_page(request.path, "ui")
        response.status = moved.status
        response.set_headers(moved.headers)


for _verb in falcon.COMBINED_METHODS:
    if _verb != "WEBSOCKET":
        setattr(_Resource, f"on_{_verb.lower()}", _Resource.answer)


def _flow_of(request: Request) -> int:
    """A number of the client's address, whose connections take turns with others' as if they were one; 0 without."""
    # PERF: 0.2 us.
    client = request.scope.get("client")
    return hash(client[0]) & _LARGEST_FLOW if client else 0


def _close_if_body_is_held_back(request: Request, response: Response) -> None:
    """Who waits for a go-ahead and gets an answer may keep the body; the next request must not be taken for it."""
    if request.expect:
        response.set_header("Connection", "close")


def echo_id(request: Request, response: Response) -> None:
    """Have the answer carry the id that a client or proxy has given the request, for their logs."""
    given = request.get_header("X-Request-ID")
    if given is not None and len(given) <= _LONGEST_ID:
        response.set_header("X-Request-ID", given)


def _write_error(request: Request, response: Response, status: int, message: str) -> None:
    echo_id(request, response)
    response.status = status
    response.data = msgspec.json.encode({"error": shortened(message)})
    response.content_type = "application/json"


async def _answer_failure(
    request: Request, response: Response, error: Exception, params: dict[str, Any], **_: Any
) -> None:
    """The one place where failures become HTTP."""
    # What a handler raised is in the log already.
    failure = error if isinstance(error, OvmsError) else failure_of(error, request.path, None)
    _write_error(request, response, failure.http_status, failure.message)
    call: CallContext | None = getattr(request.context, "call", None)
    if call is not None and call.reply_metadata:
        response.set_headers(call.reply_metadata)
    if failure.code in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED) and failure.http_status != 413:
        response.set_header("Retry-After", str(max(1, math.ceil(failure.retry_after_s))))
    if isinstance(failure, (RequestTooLarge, DeadlineExceeded)):
        # Part of the body may be unread; the connection cannot carry another request.
        response.set_header("Connection", "close")
    _close_if_body_is_held_back(request, response)


async def _answer_http_error(
    request: Request, response: Response, error: falcon.HTTPError, params: dict[str, Any], **_: Any
) -> None:
    """What falcon itself refuses: unknown paths, methods, malformed headers."""
    code = falcon.http_status_to_code(error.status)
    reason = error.description or error.title or "request refused"
    if code == 404:
        reason = f"Requested REST resource not found: {request.method} {request.path}"
    elif code == 405:
        allowed = (error.headers or {}).get("Allow", "").split(", ")  # type: ignore[union-attr]  # falcon's own are dicts
        known = " or ".join(name for name in allowed if name in ("GET", "POST"))
        reason = f"Unsupported method: {request.method} {request.path}; use {known}"
    _write_error(request, response, code, reason)
    for name, value in dict(error.headers or {}).items():
        response.set_header(name, value)
    _close_if_body_is_held_back(request, response)
