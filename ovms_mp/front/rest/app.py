# SPDX-License-Identifier: Apache-2.0
"""The falcon application: routes, and the one place where failures become HTTP."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import falcon
import falcon.asgi
import msgspec

from ovms_mp.errors import (
    INTERNAL_ERROR_TEXT,
    Code,
    DeadlineExceeded,
    OvmsError,
    RequestTooLarge,
    shortened,
)
from ovms_mp.front.rest import server_calls, tfs_calls
from ovms_mp.front.rest.body import read_body
from ovms_mp.front.rest.origin import refuse_other_sites
from ovms_mp.front.rest.targets import METADATA, PREDICT, target_of

if TYPE_CHECKING:
    from typing import Any

    from falcon.asgi import Request, Response

    from ovms_mp.front.rest.lifespan import Lifespan
    from ovms_mp.front.rest.targets import Target
    from ovms_mp.front.service import Service

_log = logging.getLogger(__name__)


def create_app(lifespan: Lifespan) -> falcon.asgi.App[Request, Response]:
    """The application of one REST front; ``lifespan`` holds its session once uvicorn has started it."""
    app: falcon.asgi.App[Request, Response] = falcon.asgi.App()
    app.add_middleware(lifespan)
    app.add_error_handler(Exception, _answer_defect)
    app.add_error_handler(falcon.HTTPError, _answer_http_error)
    app.add_error_handler(OvmsError, _answer_failure)
    models = TfsModels(lifespan)
    app.add_route("/v1/models/{path:path}", models)
    server = ServerState(lifespan)
    app.add_route("/v1/config", server, suffix="config")
    app.add_route("/v1/config/reload", server, suffix="reload")
    app.add_route("/v1/status", server)
    return app


class TfsModels:
    """``/v1/models/...``: TensorFlow Serving's REST API. What follows is taken apart here: names may have slashes."""

    def __init__(self, lifespan: Lifespan) -> None:
        self._lifespan = lifespan

    async def on_get(self, request: Request, response: Response, path: str) -> None:
        """Status or metadata of a model or of one version."""
        target = target_of(request.scope["raw_path"], False)
        if target.call == PREDICT:
            raise _not_allowed(target.call)
        _check(target, request)
        answer = tfs_calls.metadata if target.call == METADATA else tfs_calls.status
        _answer(response, self._service, answer(self._service, target.name, target.version))

    on_head = on_get

    async def on_post(self, request: Request, response: Response, path: str) -> None:
        """A call on a model, named behind a colon at the end; ``:predict`` is the one there is."""
        target = target_of(request.scope["raw_path"], True)
        if target.call == METADATA:
            raise _not_allowed(target.call)
        if target.call != PREDICT:
            raise tfs_calls.unknown_call(f"POST {request.path}; known: .../models/NAME[/versions/N]:predict")
        _check(target, request)
        spec, service, name, version = self._lifespan.spec, self._service, target.name, target.version
        # Looked up before the body is read: who asks for an unknown model should not have to upload 100 MB
        # first.
        route = await service.routable(name, tfs_calls.version_number(name, version))
        deadline_ns = time.monotonic_ns() + int(spec.limits.request_timeout_s * 1e9)
        with self._lifespan.bodies.share() as share:
            body = await read_body(request, spec.limits, route.body_bound_bytes, share)
            answer = await tfs_calls.predict(service, name, version, body, share, deadline_ns)
        _answer(response, service, answer)

    async def on_options(self, request: Request, response: Response, path: str) -> None:
        """The methods of this path."""
        target = target_of(request.scope["raw_path"], False)
        response.set_header("Allow", ", ".join((*_methods(target.call), "OPTIONS")))
        response.set_header("Content-Length", "0")

    async def on_put(self, request: Request, response: Response, path: str) -> None:
        """No method of any path here; the answer names those that are."""
        raise _not_allowed(target_of(request.scope["raw_path"], False).call)

    on_delete = on_patch = on_trace = on_put

    @property
    def _service(self) -> Service:
        return self._lifespan.session.service


def _check(target: Target, request: Request) -> None:
    """Refuse a path without a name, and labels: they are not ignored."""
    if not target.name:
        raise tfs_calls.unknown_call(f"{request.method} {request.path}")
    if target.label:
        raise tfs_calls.label_refusal(target.label)


def _methods(call: str) -> tuple[str, ...]:
    return ("POST",) if call == PREDICT else ("GET", "HEAD")


def _not_allowed(call: str) -> falcon.HTTPMethodNotAllowed:
    return falcon.HTTPMethodNotAllowed((*_methods(call), "OPTIONS"))


class ServerState:
    """``/v1/config``, as OVMS has it, and ``/v1/status``, our own."""

    def __init__(self, lifespan: Lifespan) -> None:
        self._lifespan = lifespan

    async def on_get(self, request: Request, response: Response) -> None:
        """How the machine is divided, its workers, and all models with their plans."""
        _answer(response, self._service, server_calls.status(self._service))

    on_head = on_get

    async def on_get_config(self, request: Request, response: Response) -> None:
        """Status of all models."""
        _answer(response, self._service, server_calls.config(self._service))

    on_head_config = on_get_config

    async def on_post_reload(self, request: Request, response: Response) -> None:
        """Look at the configuration and the repositories now; a body would have no meaning and is not read."""
        refuse_other_sites(request)
        _close_if_body_is_held_back(request, response)
        response.status, body = await server_calls.reload(self._service, 0)
        _answer(response, self._service, body)

    @property
    def _service(self) -> Service:
        return self._lifespan.session.service


def _answer(response: Response, service: Service, body: bytes) -> None:
    response.data = body
    response.content_type = "application/json"
    if service.is_draining:
        # Tells a keep-alive client to bring its next request elsewhere, before this process closes the
        # connection.
        response.set_header("Connection", "close")


def _close_if_body_is_held_back(request: Request, response: Response) -> None:
    """Who waits for a go-ahead and gets an answer may keep the body; the next request must not be taken for it."""
    if request.expect:
        response.set_header("Connection", "close")


def _write_error(response: Response, status: int, message: str) -> None:
    response.status = status
    response.data = msgspec.json.encode({"error": shortened(message)})
    response.content_type = "application/json"


async def _answer_failure(
    request: Request, response: Response, error: OvmsError, params: dict[str, Any], **_: Any
) -> None:
    _write_error(response, error.http_status, error.message)
    if error.code in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED) and error.http_status != 413:
        response.set_header("Retry-After", "1")
    if isinstance(error, (RequestTooLarge, DeadlineExceeded)):
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
    _write_error(response, code, reason)
    for name, value in dict(error.headers or {}).items():
        response.set_header(name, value)
    _close_if_body_is_held_back(request, response)


async def _answer_defect(
    request: Request, response: Response, error: Exception, params: dict[str, Any], **_: Any
) -> None:
    _log.error("event=call_raised path=%s", request.path, exc_info=error)
    _write_error(response, 500, INTERNAL_ERROR_TEXT)
