# SPDX-License-Identifier: Apache-2.0
"""KServe's REST calls: paths below ``/v2``, and handlers that read, call and write."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING

import orjson

from ovms_mp.errors import ModelNotFound, OvmsError, UnsupportedOperation, shortened
from ovms_mp.front.endpoints import Answer, Endpoint, FixedRoute
from ovms_mp.front.json.aside import encode_aside, is_large
from ovms_mp.front.json.lists import LONG_BYTES
from ovms_mp.front.kserve import calls
from ovms_mp.front.kserve.classification import takes_long
from ovms_mp.front.kserve.json import documents
from ovms_mp.front.kserve.json.assemble import HEADER, assemble, header_length, raw_request
from ovms_mp.front.kserve.json.binary import Binary, Part
from ovms_mp.front.kserve.json.binary_sink import BinarySink, InferBody
from ovms_mp.front.kserve.json.decode import decode_head, decode_json
from ovms_mp.front.kserve.json.decode_long import decode_long
from ovms_mp.front.kserve.json.encode import InferAnswer, encode_infer
from ovms_mp.front.kserve.parameters import heed
from ovms_mp.front.kserve.regions import rest as regions
from ovms_mp.front.kserve.regions.infer import predict
from ovms_mp.front.kserve.repository import rest as repository
from ovms_mp.front.kserve.settings import rest as settings
from ovms_mp.front.kserve.statistics import rest as statistics
from ovms_mp.front.kserve.targets import PREFIX, target_of
from ovms_mp.front.protobuf.arena_sink import SHORTEST_LONG_BYTES, PlacedCall
from ovms_mp.front.protobuf.turns import in_turns

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Self

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.endpoints import RestRequest, Route
    from ovms_mp.front.infer.leases import Leases
    from ovms_mp.front.kserve.infer_request import InferRequest
    from ovms_mp.front.kserve.json.request import JsonRequest
    from ovms_mp.front.kserve.targets import Target
    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.served_protocol import HasService
    from ovms_mp.front.sinks import MessageSink
    from ovms_mp.front.tensors import ResultTensor

_OCTETS = "application/octet-stream"
_ALIVE = b'{"status":"alive"}'
_NOT_LIVE, _NOT_READY = b'{"error":"Server is not live"}', b'{"error":"Server is not ready"}'
_NOT_HERE = ("generate", "generate_stream", "infer_stream")
"""Calls of other servers, which clients of theirs may try."""


def routes(front: HasService) -> Sequence[Route]:
    """All paths."""
    handlers = KServeRestCalls(front)
    server = Endpoint(handlers.server, calls.PROTOCOL, calls.SERVER_METADATA)
    models = Endpoint(handlers.models, calls.PROTOCOL, "ModelList")
    alive = Endpoint(handlers.alive, calls.PROTOCOL, "Alive", is_open=True)
    live = Endpoint(handlers.live, calls.PROTOCOL, calls.SERVER_LIVE, is_open=True)
    ready = Endpoint(handlers.ready, calls.PROTOCOL, calls.SERVER_READY, is_open=True)
    return (
        FixedRoute("/", {"GET": alive}),
        FixedRoute("/v2", {"GET": server}),
        FixedRoute("/v2/", {"GET": server}),
        FixedRoute("/v2/health/live", {"GET": live}),
        FixedRoute("/v2/health/ready", {"GET": ready}),
        FixedRoute(PREFIX.removesuffix("/"), {"GET": models}),
        ModelRoute(
            handlers, models, {**settings.model_endpoints(front), **statistics.model_endpoints(front)}
        ),
        *[route for room in (regions, repository, settings, statistics) for route in room.routes(front)],
    )


class ModelRoute:
    """``/v2/models/...``. What follows is taken apart here: names may have slashes."""

    template = f"{PREFIX}{{path:path}}"

    def __init__(
        self, handlers: KServeRestCalls, models: Endpoint, others: Mapping[tuple[str, str], Endpoint]
    ) -> None:
        """Prepare.

        Args:
            handlers: Of the calls that are here.
            models: The list of models, where the path names none.
            others: Those of rooms below this one, by the word behind the model and the HTTP method.
        """
        self._models = models
        self._unknown = Endpoint(handlers.unknown, calls.PROTOCOL, "Unknown")
        self._endpoints = {
            ("", "GET"): Endpoint(handlers.metadata, calls.PROTOCOL, calls.METADATA),
            ("", "POST"): self._unknown,
            ("ready", "GET"): Endpoint(handlers.model_ready, calls.PROTOCOL, calls.MODEL_READY, is_open=True),
            ("config", "GET"): Endpoint(handlers.config, calls.PROTOCOL, calls.CONFIG),
            ("infer", "POST"): Endpoint(
                handlers.infer,
                calls.PROTOCOL,
                calls.INFER,
                takes_body=True,
                compresses=True,
                carries_tensors=True,
            ),
            **others,
        }

    def find(self, verb: str, raw_path: bytes) -> Endpoint | None:
        """See :class:`~ovms_mp.front.endpoints.Route`."""
        target = target_of(raw_path)
        if not target.name and verb == "GET":
            return self._unknown if target.call else self._models
        return self._endpoints.get((target.call, verb))

    def allowed(self, raw_path: bytes) -> tuple[str, ...]:
        """See :class:`~ovms_mp.front.endpoints.Route`."""
        call = target_of(raw_path).call
        verbs = [
            verb
            for word, verb in self._endpoints
            if word == call and self._endpoints[word, verb] is not self._unknown
        ]
        return (*verbs, "HEAD") if "GET" in verbs else tuple(verbs)

    def operations(self) -> Iterable[tuple[str, str, Endpoint]]:
        """See :class:`~ovms_mp.front.endpoints.Route`."""
        for model in ("{model}", "{model}/versions/{version}"):
            for (call, verb), endpoint in self._endpoints.items():
                if endpoint is not self._unknown:
                    yield verb, f"{PREFIX}{model}/{call}".removesuffix("/"), endpoint


class KServeRestCalls:
    """Handlers."""

    def __init__(self, front: HasService) -> None:
        self._front = front

    async def alive(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /``."""
        return Answer(_ALIVE)

    async def live(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /v2/health/live``."""
        if not calls.server_is_live(self._front.service):
            return Answer(_NOT_LIVE, 503)
        return Answer(orjson.dumps({"live": True}))

    async def ready(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /v2/health/ready``."""
        if not calls.server_is_ready(self._front.service):
            return Answer(_NOT_READY, 503)
        return Answer(orjson.dumps({"ready": True}))

    async def server(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /v2``."""
        return Answer(documents.server_json(calls.extensions(self._front.service)))

    async def models(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /v2/models``."""
        return Answer(documents.models_json(model.name for model in self._front.service.table.models()))

    async def metadata(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /v2/models/{name}[/versions/{version}]``."""
        target = _target(request)
        return Answer(
            documents.metadata_json(
                calls.described(self._front.service, context, target.name, target.version)
            )
        )

    async def config(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /v2/models/{name}[/versions/{version}]/config``."""
        target = _target(request)
        return Answer(
            documents.config_json(calls.described(self._front.service, context, target.name, target.version))
        )

    async def model_ready(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /v2/models/{name}[/versions/{version}]/ready``."""
        target = _target(request)
        if calls.model_is_ready(self._front.service, context, target.name, target.version):
            return Answer(orjson.dumps({"name": target.name, "ready": True}))
        return Answer(orjson.dumps({"error": f"Model {shortened(target.name)!r} is not ready"}), 503)

    async def infer(self, request: RestRequest, context: CallContext) -> Answer:
        """``POST /v2/models/{name}[/versions/{version}]/infer``.

        Raises:
            OvmsError: One of the failures in :mod:`ovms_mp.errors`.
        """
        target = _target(request)
        service = self._front.service
        reading = InferReading(request, target, context, service.leases)

        def encode(
            route: VersionRoute, outputs: Sequence[ResultTensor]
        ) -> InferAnswer | asyncio.Future[InferAnswer]:
            if is_large(outputs) or takes_long(reading.request.outputs, outputs):
                return encode_aside(
                    service,
                    outputs,
                    functools.partial(
                        encode_infer, reading.request, route, outputs, service.max_message_bytes
                    ),
                )
            return encode_infer(reading.request, route, outputs, hold=service.hold)

        version = calls.version_number(target.version)
        with reading:
            answer: InferAnswer = await predict(
                service, target.name, version, reading.decode, context, encode
            )
        if not answer.json_bytes:
            return Answer(answer.body)
        return Answer(answer.body, 200, _OCTETS, ((HEADER, str(answer.json_bytes)),))

    async def unknown(self, request: RestRequest, context: CallContext) -> Answer:
        """A call that there is not.

        Raises:
            UnsupportedOperation: Other servers have it.
            ModelNotFound: Nobody has.
        """
        word = request.path.rpartition("/")[2]
        if word in _NOT_HERE:
            raise UnsupportedOperation(
                f"{word!r} is not supported: {request.verb} {request.path}; known: .../models/NAME[/versions/N]/infer"
            )
        raise _unknown(request)


class InferReading:
    """Reads one request's body, once, and makes the request of it for each version that may answer."""

    def __init__(self, request: RestRequest, target: Target, context: CallContext, leases: Leases) -> None:
        self._request = request
        self._target = target
        self._context = context
        self._leases = leases
        self._begun_ns = time.monotonic_ns()
        self._placed: PlacedCall[InferBody] | None = None
        self._parsed: JsonRequest | None = None
        self._parts: Sequence[Part] | None = None
        """What is binary of the body, once it has been read."""
        self._is_read = False
        self._refusal: OvmsError | None = None
        self.request: InferRequest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the memory that the body was received in, and of what refers to this by its traceback."""
        self._refusal = None
        if self._placed is not None:
            self._placed.release()

    async def decode(self, route: VersionRoute) -> InferRequest:
        """The request for a version.

        Raises:
            OvmsError: There is none.
        """
        if self._refusal is not None:
            raise self._refusal  # What was not read to its end must not be taken for a whole.
        if not self._is_read:
            try:
                await self._read(route)
            except OvmsError as error:
                self._refusal = error
                raise
            self._is_read = True
        name, version = self._target.name, self._target.version
        if self._parsed is None:
            (whole,) = self._parts or (Part(memoryview(b"")),)
            self.request = raw_request(whole, route.inputs, name, version)
        else:
            binary = None if self._parts is None else Binary(self._parts)
            self.request = await in_turns(assemble(self._parsed, binary, route.inputs, name, version))
        return self.request

    async def _read(self, route: VersionRoute) -> None:
        """Read the body, and do what the parameters of the request ask for."""
        request = self._request
        length_text = request.header(HEADER)
        body: bytes | bytearray | InferBody | None = None
        if length_text is not None:
            received = await request.receive_body(
                route.body_bound_bytes,
                SHORTEST_LONG_BYTES,
                functools.partial(self._sink, length_text.strip()),
            )
            if isinstance(received, PlacedCall):
                self._placed = received
                body = received.call
            else:
                body = received
        if body is None:
            body = await request.read_body(route.body_bound_bytes)
        if isinstance(body, InferBody):
            self._parsed, self._parts = body.parsed, body.parts
        else:
            await self._parse(body, length_text)
        if self._parsed is not None:
            self._context.message_id = self._parsed.id
            heed(self._parsed.parameters, self._context, self._begun_ns)

    def _sink(self, length_text: str, nbytes: int) -> MessageSink | None:
        """Where a body with tensors goes while it arrives, if they can be long and the JSON is not."""
        json_bytes = header_length(length_text, nbytes)
        if json_bytes >= LONG_BYTES:
            return None
        leases = self._leases
        return BinarySink(nbytes, json_bytes, leases.lease_arriving, leases.release, leases.memory)

    async def _parse(self, body: bytes | bytearray, length_text: str | None) -> None:
        text: bytes | bytearray | memoryview = body
        if length_text is not None:
            length = header_length(length_text.strip(), len(body))
            whole = memoryview(body)
            text, self._parts = whole[:length], [Part(whole[length:])]
            if not length:
                return
        if isinstance(text, memoryview) and len(text) < LONG_BYTES:
            self._parsed = decode_head(bytes(text))
        elif len(text) < LONG_BYTES:
            self._parsed = decode_json(text)
        else:
            plain = bytes(text) if isinstance(text, memoryview) else text
            self._parsed = await decode_long(plain, self._request.share)


def _target(request: RestRequest) -> Target:
    """What the path means.

    Raises:
        ModelNotFound: It names no model.
    """
    target = target_of(request.raw_path)
    if not target.name:
        raise _unknown(request)
    return target


def _unknown(request: RestRequest) -> ModelNotFound:
    """A path that names no call of ours."""
    return ModelNotFound(f"Requested REST resource not found: {request.verb} {request.path}")
