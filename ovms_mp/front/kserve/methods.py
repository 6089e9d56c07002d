# SPDX-License-Identifier: Apache-2.0
"""KServe's methods on messages: the list of them, and handlers that decode, call and encode."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from ovms_mp.codes import Code
from ovms_mp.errors import OvmsError
from ovms_mp.front.failures import failure_of
from ovms_mp.front.gathered import reply_nbytes, reply_of
from ovms_mp.front.json.aside import encode_aside, has_long_strings
from ovms_mp.front.kserve import calls
from ovms_mp.front.kserve._proto import kserve_pb2 as kserve
from ovms_mp.front.kserve.classification import class_counts, classified, takes_long
from ovms_mp.front.kserve.metadata import model_config, model_metadata, server_metadata
from ovms_mp.front.kserve.parameters import heed
from ovms_mp.front.kserve.protobuf.decode import decode_infer_in_turns, refused_id, scan_infer
from ovms_mp.front.kserve.protobuf.encode import encode_stream_failure, infer_pieces, stream_pieces
from ovms_mp.front.kserve.protobuf.infer_sink import InferSink
from ovms_mp.front.kserve.regions import methods as regions
from ovms_mp.front.kserve.regions.infer import may_be_shared, predict
from ovms_mp.front.kserve.repository import methods as repository
from ovms_mp.front.kserve.settings import methods as settings
from ovms_mp.front.kserve.small_method import SERVICE, small_method
from ovms_mp.front.kserve.statistics import methods as statistics
from ovms_mp.front.kserve.streams import GRPC_ERROR, InferStream
from ovms_mp.front.methods import Streaming, Unary
from ovms_mp.front.protobuf.arena_sink import SHORTEST_LONG_BYTES, PlacedCall
from ovms_mp.front.protobuf.parts import small_request
from ovms_mp.front.sinks import fill

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
    from typing import TypeAlias

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.kserve.infer_request import InferRequest
    from ovms_mp.front.methods import MessageStream, Method, Octets, Reply
    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.served_protocol import MessageParts
    from ovms_mp.front.tensors import ResultTensor

    MakeSink: TypeAlias = Callable[[int], InferSink | None]
    Write: TypeAlias = Callable[[str, int, str, Sequence[ResultTensor]], list[bytes | memoryview]]
    """Writes an answer: of a model and its version, to a request's id, with outputs."""


def methods(parts: MessageParts) -> Sequence[Method]:
    """All methods."""

    def make_sink(length: int) -> InferSink | None:
        if length < SHORTEST_LONG_BYTES:
            return None
        return InferSink(length, parts.lease, parts.release, parts.memory)

    own = KServeMethods(parts, make_sink)
    probes = (
        (calls.SERVER_LIVE, own.server_live),
        (calls.SERVER_READY, own.server_ready),
        (calls.MODEL_READY, own.model_ready),
    )
    small = (
        (calls.SERVER_METADATA, own.server_metadata),
        (calls.METADATA, own.model_metadata),
        (calls.CONFIG, own.model_config),
    )
    return (
        Unary(
            f"{SERVICE}/{calls.INFER}",
            own.infer,
            make_sink,
            unpacked_limit=parts.unpacked_limit,
            protocol=calls.PROTOCOL,
        ),
        Streaming(f"{SERVICE}/{calls.STREAM}", own.infer_stream, protocol=calls.PROTOCOL),
        *[small_method(name, handler, is_open=True) for name, handler in probes],
        *[small_method(name, handler) for name, handler in small],
        *[method for room in (regions, repository, settings, statistics) for method in room.methods(parts)],
    )


class KServeMethods:
    """What GRPCInferenceService says of server and models, and inference."""

    def __init__(self, parts: MessageParts, make_sink: MakeSink) -> None:
        self._service = parts.service
        self._gate = parts.gate
        self._make_sink = make_sink

    async def infer(self, request: Octets | PlacedCall[InferRequest], context: CallContext) -> Reply:
        """ModelInferRequest to ModelInferResponse.

        Long inputs may be in the arena already, and long outputs stay there. The request is released when it is
        answered, the outputs when they are sent.
        """
        if not isinstance(request, PlacedCall):
            return await self._infer(await self._decoded(request), context, infer_pieces)
        try:
            return await self._infer(request.call, context, infer_pieces)
        finally:
            request.release()

    async def infer_stream(self, stream: MessageStream, context: CallContext) -> None:
        """ModelInferRequests to ModelStreamInferResponses, in their order; failures are among the answers."""
        raises = GRPC_ERROR in context.metadata

        def answer(message: bytes) -> Coroutine[None, None, Reply]:
            # Parameters of one request are not the next one's.
            part = context.part(calls.INFER, time.monotonic_ns())
            part.received_bytes = len(message)
            return self._answer(message, part, raises=raises)

        await InferStream(stream, answer, self._service.drain_begins).serve()

    async def _answer(self, message: bytes, context: CallContext, *, raises: bool) -> Reply:
        request: InferRequest | None = None
        placed: PlacedCall[InferRequest] | None = None
        self._gate.enter(context)
        try:
            self._gate.admit(context)
            received = self._received(message)
            if isinstance(received, PlacedCall):
                placed, request = received, received.call
            else:
                request = await self._decoded(received)
            message = received = b""  # Only what the request borrows of them is still needed.
            reply = await self._infer(request, context, stream_pieces)
            context.sent_bytes = reply_nbytes(reply)
            self._gate.leave(context, None)
            return reply
        except asyncio.CancelledError:
            self._gate.leave(context, Code.CANCELLED)
            raise
        except Exception as error:
            failure = failure_of(error, f"{SERVICE}/{calls.STREAM}", context)
            self._gate.leave(context, failure.code, failure)
            if raises:
                raise failure from None
            request_id = request.id if request else refused_id(message)
            return encode_stream_failure(request_id, failure.message, failure.code)
        finally:
            if placed is not None:
                placed.release()

    def _received(self, message: bytes) -> Octets | PlacedCall[InferRequest]:
        """Have a long message in the arena, as in other calls, so that what of it is held outside is small."""
        sink = self._make_sink(len(message))
        if sink is None:
            return message
        try:
            fill(sink, memoryview(message))
        except OvmsError:
            sink.abort()
            raise
        return sink.finish()

    async def _decoded(self, octets: Octets) -> InferRequest:
        request = scan_infer(octets) if isinstance(octets, bytes) else None
        if request is None:
            request = await decode_infer_in_turns(octets, self._service.refuse_misfits)
        return request

    def _infer(self, request: InferRequest, context: CallContext, write: Write) -> Awaitable[Reply]:
        service = self._service

        # The model's name is in the message, so that was read before any route could be known.
        async def decode(_: VersionRoute) -> InferRequest:
            return request

        def encode(route: VersionRoute, outputs: Sequence[ResultTensor]) -> Reply | asyncio.Future[Reply]:
            if request.outputs:
                outputs = calls.in_order(outputs, request.output_filter)
            if has_long_strings(outputs):

                def whole() -> Reply:
                    return b"".join(write(route.model_name, route.version, request.id, outputs))

                return encode_aside(service, outputs, whole)
            pieces = write(route.model_name, route.version, request.id, outputs)
            return reply_of(pieces, outputs, service.hold)

        if request.id:
            context.message_id = request.id
        if request.parameters:
            heed(request.parameters, context, time.monotonic_ns())
        version = calls.version_number(request.model_version)
        counts = class_counts(request.outputs) if request.outputs else None
        if counts:
            return self._infer_classes(request, counts, version, context, write)
        if may_be_shared(request):
            return predict(service, request.model_name, version, decode, context, encode)
        return service.predict(request.model_name, version, decode, context, encode)

    async def _infer_classes(
        self,
        request: InferRequest,
        counts: Mapping[str, int],
        version: int,
        context: CallContext,
        write: Write,
    ) -> Reply:
        """The same where some outputs are to be classes, which take a while to find: in a thread if they are many."""
        service = self._service

        async def decode(_: VersionRoute) -> InferRequest:
            return request

        def encode(route: VersionRoute, outputs: Sequence[ResultTensor]) -> bytes | asyncio.Future[bytes]:
            def text() -> bytes:
                made = [classified(output, counts.get(output.name, 0), route.labels) for output in outputs]
                ordered = calls.in_order(made, request.output_filter)
                return b"".join(write(route.model_name, route.version, request.id, ordered))

            return encode_aside(service, outputs, text) if takes_long(request.outputs, outputs) else text()

        reply: bytes = await predict(service, request.model_name, version, decode, context, encode)
        return reply

    async def server_live(self, request: Octets, context: CallContext) -> bytes:
        """ServerLiveRequest to ServerLiveResponse."""
        small_request(request, kserve.ServerLiveRequest)
        return kserve.ServerLiveResponse(live=calls.server_is_live(self._service)).SerializeToString()

    async def server_ready(self, request: Octets, context: CallContext) -> bytes:
        """ServerReadyRequest to ServerReadyResponse."""
        small_request(request, kserve.ServerReadyRequest)
        return kserve.ServerReadyResponse(ready=calls.server_is_ready(self._service)).SerializeToString()

    async def server_metadata(self, request: Octets, context: CallContext) -> bytes:
        """ServerMetadataRequest to ServerMetadataResponse."""
        small_request(request, kserve.ServerMetadataRequest)
        return server_metadata(calls.extensions(self._service)).SerializeToString()

    async def model_ready(self, request: Octets, context: CallContext) -> bytes:
        """ModelReadyRequest to ModelReadyResponse."""
        message = small_request(request, kserve.ModelReadyRequest)
        is_ready = calls.model_is_ready(self._service, context, message.name, message.version)
        return kserve.ModelReadyResponse(ready=is_ready).SerializeToString()

    async def model_metadata(self, request: Octets, context: CallContext) -> bytes:
        """ModelMetadataRequest to ModelMetadataResponse; answers at once."""
        message = small_request(request, kserve.ModelMetadataRequest)
        described = calls.described(self._service, context, message.name, message.version)
        return model_metadata(described).SerializeToString()

    async def model_config(self, request: Octets, context: CallContext) -> bytes:
        """ModelConfigRequest to ModelConfigResponse; answers at once."""
        message = small_request(request, kserve.ModelConfigRequest)
        described = calls.described(self._service, context, message.name, message.version)
        return model_config(described).SerializeToString()
