# SPDX-License-Identifier: Apache-2.0
"""The falcon application: carries requests to what the protocols answer them with.

Requests with tensors come here only where :mod:`~ovms_mp.front.rest.direct` leaves them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import falcon
import falcon.asgi

from ovms_mp.errors import OvmsError
from ovms_mp.front.browsers import to_page
from ovms_mp.front.endpoints import Answer, Endpoint, FixedRoute
from ovms_mp.front.failures import failure_of
from ovms_mp.front.gathered import Gathered
from ovms_mp.front.rest.answering import write_failure, write_http_error
from ovms_mp.front.rest.request import FalconRequest

if TYPE_CHECKING:
    from typing import Any

    from falcon.asgi import Request, Response

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.endpoints import RestRequest, Route
    from ovms_mp.front.rest.answering import OutgoingResponse
    from ovms_mp.front.rest.lifespan import Lifespan


def create_app(lifespan: Lifespan) -> falcon.asgi.App[Request, Response]:
    """The application of one REST front; ``lifespan`` holds its session once uvicorn has started it."""
    app: falcon.asgi.App[Request, Response] = falcon.asgi.App()
    errors = _Errors(lifespan)
    app.add_middleware(lifespan)
    app.add_error_handler(Exception, errors.answer_failure)
    app.add_error_handler(falcon.HTTPError, errors.answer_http_error)
    if lifespan.origins.has_any:
        app.add_middleware(lifespan.origins)
    prefix = lifespan.spec.prefix
    for route in lifespan.routes:
        leads_on = lifespan.spec.page is not None and route.template == "/"
        resource = (_RootWithPage if leads_on else _Resource)(route, lifespan)
        app.add_route(prefix + route.template, resource)
        if prefix and route.template == "/":
            app.add_route(prefix, resource)
    # Not falcon's 404: the gate comes first.
    app.add_sink(_Resource(_NOWHERE, lifespan).answer, "/")  # type: ignore[arg-type]  # never without a response
    return app


_NOWHERE = FixedRoute("", {})
"""The route of all paths that are none."""


class _Resource:
    """A route as falcon wants it: one responder, for whatever HTTP method."""

    def __init__(self, route: Route, lifespan: Lifespan) -> None:
        self._route = route
        self._lifespan = lifespan
        self._prefix = lifespan.spec.prefix.encode()
        stem, brace, _ = route.template.partition("{")
        self._begin = self._prefix + (stem.encode() if brace else b"")
        """Of paths as they are sent; what is taken apart by handlers must begin as they expect it."""
        self._options = Endpoint(self._allowed, "", "Options")
        self._nowhere = self if route is _NOWHERE else _Resource(_NOWHERE, lifespan)

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
        incoming = FalconRequest(request, lifespan.spec.limits, lifespan.bodies.share())
        outgoing = _outgoing(response)
        stream = await lifespan.answering.answer(endpoint, incoming, outgoing, lambda: self._refusal(request))
        if stream is not None:
            response.data, response.stream = None, stream
        elif isinstance(outgoing.data, Gathered):
            outgoing.data = outgoing.data.joined()

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

    def _refusal(self, request: Request) -> falcon.HTTPError:
        """Why nothing answers."""
        if self._route is _NOWHERE:
            return falcon.HTTPNotFound()
        return falcon.HTTPMethodNotAllowed((*self._route.allowed(request.scope["raw_path"]), "OPTIONS"))

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


class _Errors:
    """Answers what is raised before or behind a resource, by falcon itself."""

    def __init__(self, lifespan: Lifespan) -> None:
        self._lifespan = lifespan

    async def answer_failure(
        self, request: Request, response: Response, error: Exception, params: dict[str, Any], **_: Any
    ) -> None:
        """Whatever it is."""
        failure = error if isinstance(error, OvmsError) else failure_of(error, request.path, None)
        write_failure(self._incoming(request), _outgoing(response), failure, None)

    async def answer_http_error(
        self, request: Request, response: Response, error: falcon.HTTPError, params: dict[str, Any], **_: Any
    ) -> None:
        """HTTP's own words."""
        write_http_error(self._incoming(request), _outgoing(response), error)

    def _incoming(self, request: Request) -> FalconRequest:
        return FalconRequest(request, self._lifespan.spec.limits, self._lifespan.bodies.share())


def _outgoing(response: Response) -> OutgoingResponse:
    """Falcon's response; any octets are as good as bytes to it."""
    return cast("OutgoingResponse", response)
