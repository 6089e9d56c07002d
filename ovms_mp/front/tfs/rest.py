# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's REST API: its paths, and handlers that decode JSON, call and encode."""

from __future__ import annotations

import asyncio
import functools
import re
from typing import TYPE_CHECKING

from ovms_mp.errors import ModelNotFound, OvmsError, VersionNotFound
from ovms_mp.front.endpoints import Answer, Endpoint
from ovms_mp.front.json.aside import encode_aside, is_large
from ovms_mp.front.json.lists import LONG_BYTES
from ovms_mp.front.predict_request import PlainRequest
from ovms_mp.front.routing import not_found_text
from ovms_mp.front.tfs import calls, targets
from ovms_mp.front.tfs.json.decode import decode_predict
from ovms_mp.front.tfs.json.decode_long import decode_long
from ovms_mp.front.tfs.json.encode import encode_predict
from ovms_mp.front.tfs.metadata import metadata_json, status_json
from ovms_mp.front.tfs.targets import target_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.endpoints import RestRequest, Route
    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.served_protocol import HasService
    from ovms_mp.front.tensors import ResultTensor
    from ovms_mp.front.tfs.json.reader import JsonFormat
    from ovms_mp.front.tfs.targets import Target

_DIGITS = re.compile(r"[0-9]{1,19}")


def routes(front: HasService) -> Sequence[Route]:
    """The paths of models."""
    return (ModelRoute(TfsRestCalls(front)),)


class ModelRoute:
    """``/v1/models/...``. What follows is taken apart here: names may have slashes."""

    template = f"{targets.PREFIX}{{path:path}}"

    def __init__(self, handlers: TfsRestCalls) -> None:
        self._predict = Endpoint(
            handlers.predict, calls.PROTOCOL, calls.PREDICT, takes_body=True, carries_tensors=True
        )
        self._metadata = Endpoint(handlers.metadata, calls.PROTOCOL, calls.METADATA)
        self._status = Endpoint(handlers.status, calls.PROTOCOL, calls.STATUS)
        self._unknown = Endpoint(handlers.unknown, calls.PROTOCOL, "Unknown")

    def find(self, verb: str, raw_path: bytes) -> Endpoint | None:
        """See :class:`~ovms_mp.front.endpoints.Route`. Calls are named behind a colon; ``:predict`` is the only one."""
        if verb == "POST":
            match target_of(raw_path, True).call:
                case targets.PREDICT:
                    return self._predict
                case targets.METADATA:
                    return None
                case _:
                    return self._unknown
        if verb != "GET":
            return None
        match target_of(raw_path, False).call:
            case targets.PREDICT:
                return None
            case targets.METADATA:
                return self._metadata
            case _:
                return self._status

    def allowed(self, raw_path: bytes) -> tuple[str, ...]:
        """See :class:`~ovms_mp.front.endpoints.Route`."""
        return ("POST",) if target_of(raw_path, False).call == targets.PREDICT else ("GET", "HEAD")

    def operations(self) -> Iterable[tuple[str, str, Endpoint]]:
        """See :class:`~ovms_mp.front.endpoints.Route`. Labels are left out, as they are refused."""
        for model in ("{model}", "{model}/versions/{version}"):
            yield "GET", f"{targets.PREFIX}{model}", self._status
            yield "GET", f"{targets.PREFIX}{model}/{targets.METADATA}", self._metadata
            yield "POST", f"{targets.PREFIX}{model}:{targets.PREDICT}", self._predict


class TfsRestCalls:
    """Handlers."""

    def __init__(self, front: HasService) -> None:
        self._front = front

    async def predict(self, request: RestRequest, context: CallContext) -> Answer:
        """``POST /v1/models/{name}[/versions/{version}]:predict``.

        Raises:
            OvmsError: One of the failures in :mod:`ovms_mp.errors`. Who asks for an unknown model is told so before the
                body is read, and should not have to upload 100 MB first.
        """
        target = _target(request, is_call=True)
        service = self._front.service
        form: JsonFormat
        body: bytes | bytearray | None = None
        unread: OvmsError | None = None

        async def decode(route: VersionRoute) -> PlainRequest:
            nonlocal form, body, unread
            if unread is not None:
                raise unread  # The rest of it must not be taken for a body.
            if body is None:
                try:
                    body = await request.read_body(route.body_bound_bytes)
                except OvmsError as error:
                    unread = error
                    raise
            if len(body) < LONG_BYTES:
                form, given = decode_predict(body, route.inputs)
            else:
                form, given = await decode_long(body, route.inputs, request.share)
            return PlainRequest(given)

        def encode(_: VersionRoute, outputs: Sequence[ResultTensor]) -> bytes | asyncio.Future[bytes]:
            if is_large(outputs):
                return encode_aside(
                    service,
                    outputs,
                    functools.partial(encode_predict, form, outputs, service.max_message_bytes),
                )
            return encode_predict(form, outputs)

        calls.refuse_label(target.label)
        version = version_number(target)
        try:
            answer: bytes = await service.predict(target.name, version, decode, context, encode)
        finally:
            unread = None  # It refers to the request by its traceback.
        return Answer(answer)

    async def status(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /v1/models/{name}[/versions/{version}]``."""
        target = _target(request, is_call=False)
        versions = calls.status(
            self._front.service, context, target.name, version_number(target), target.label
        )
        return Answer(status_json(versions))

    async def metadata(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /v1/models/{name}[/versions/{version}]/metadata``."""
        target = _target(request, is_call=False)
        route = calls.metadata(
            self._front.service, context, target.name, version_number(target), target.label
        )
        return Answer(metadata_json(route.model_name, route.version, route.inputs, route.outputs))

    async def unknown(self, request: RestRequest, context: CallContext) -> Answer:
        """A call that there is not.

        Raises:
            ModelNotFound: Always.
        """
        raise _unknown(f"{request.verb} {request.path}; known: .../models/NAME[/versions/N]:predict")


def _target(request: RestRequest, *, is_call: bool) -> Target:
    """What the path means.

    Raises:
        ModelNotFound: It names no model.
    """
    target = target_of(request.raw_path, is_call)
    if not target.name:
        raise _unknown(f"{request.verb} {request.path}")
    return target


def version_number(target: Target) -> int:
    """The version in a URL; empty or 0 is the default one.

    Raises:
        VersionNotFound: It is no number that a version could have.
    """
    text = target.version
    if not text:
        return 0
    if not _DIGITS.fullmatch(text):
        raise VersionNotFound(f"{not_found_text(target.name, 0)}; version {text!r} is not a positive integer")
    return int(text)


def _unknown(what: str) -> ModelNotFound:
    """A path below ``/v1/models`` that names no call of ours."""
    return ModelNotFound(f"Requested REST resource not found: {what}")
