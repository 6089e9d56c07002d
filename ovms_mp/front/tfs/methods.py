# SPDX-License-Identifier: Apache-2.0
"""The TensorFlow Serving methods on messages: the list of them, and handlers that decode, call and encode.

A handler takes a message's octets, or what its sink made of them, and gives octets back; it knows nothing of the
transport that carries them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.errors import MalformedPayload, UnsupportedOperation
from ovms_mp.front.gathered import reply_of
from ovms_mp.front.json.aside import encode_aside, has_long_strings
from ovms_mp.front.methods import Unary
from ovms_mp.front.protobuf.arena_sink import SHORTEST_LONG_BYTES, PlacedCall
from ovms_mp.front.protobuf.parts import LONGEST_SMALL_REQUEST_BYTES, small_request
from ovms_mp.front.tfs import calls
from ovms_mp.front.tfs._proto import tensorflow_serving_pb2 as serving
from ovms_mp.front.tfs.metadata import encode_metadata, encode_reloaded, encode_status
from ovms_mp.front.tfs.protobuf.decode import decode_predict_in_turns, scan_predict
from ovms_mp.front.tfs.protobuf.encode import encode_predict, predict_pieces
from ovms_mp.front.tfs.protobuf.encode_typed import encode_predict_typed
from ovms_mp.front.tfs.protobuf.predict_sink import PredictSink

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.methods import Octets, Reply
    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.served_protocol import MessageParts
    from ovms_mp.front.service import Service
    from ovms_mp.front.sinks import MessageSink
    from ovms_mp.front.tensors import ResultTensor
    from ovms_mp.front.tfs.protobuf.decode import PredictCall

_PREDICTION = "/tensorflow.serving.PredictionService"
_MODEL = "/tensorflow.serving.ModelService"


def methods(parts: MessageParts) -> Sequence[Unary]:
    """All methods."""

    def make_sink(length: int) -> MessageSink | None:
        if length < SHORTEST_LONG_BYTES:
            return None
        return PredictSink(length, parts.lease, parts.release, parts.memory)

    tfs = TfsMethods(parts.service, has_typed_outputs=parts.has_typed_outputs)
    small = (
        (f"{_PREDICTION}/{calls.METADATA}", tfs.get_model_metadata, False),
        (f"{_MODEL}/{calls.STATUS}", tfs.get_model_status, False),
        (f"{_MODEL}/HandleReloadConfigRequest", tfs.handle_reload_config_request, True),
    )
    return (
        Unary(
            f"{_PREDICTION}/{calls.PREDICT}",
            tfs.predict,
            make_sink,
            unpacked_limit=parts.unpacked_limit,
            protocol=calls.PROTOCOL,
        ),
        *[
            Unary(
                path,
                handler,
                None,
                LONGEST_SMALL_REQUEST_BYTES,
                protocol=calls.PROTOCOL,
                changes_server=changes_server,
            )
            for path, handler, changes_server in small
        ],
    )


class TfsMethods:
    """PredictionService and ModelService."""

    def __init__(self, service: Service, *, has_typed_outputs: bool = False) -> None:
        self._service = service
        self._has_typed_outputs = has_typed_outputs

    async def predict(self, request: Octets | PlacedCall[PredictCall], context: CallContext) -> Reply:
        """PredictRequest to PredictResponse; long inputs may be in the arena already, and long outputs stay there.

        The request is released when it is answered, the outputs when they are sent.
        """
        if not isinstance(request, PlacedCall):
            call = scan_predict(request) if isinstance(request, bytes) else None
            if call is None:
                call = await decode_predict_in_turns(request, self._service.refuse_misfits)
            return await self._predict(call, context)
        try:
            return await self._predict(request.call, context)
        finally:
            request.release()

    def _predict(self, call: PredictCall, context: CallContext) -> Awaitable[Reply]:
        # The model's name is in the message, so that was read before any route could be known.
        async def decode(_: VersionRoute) -> PredictCall:
            return call

        calls.refuse_label(call.version_label)
        return self._service.predict(call.model_name, call.version or 0, decode, context, self._gather)

    def _gather(self, route: VersionRoute, outputs: Sequence[ResultTensor]) -> Reply | asyncio.Future[Reply]:
        name, version = route.model_name, route.version

        def whole() -> Reply:
            encode = encode_predict_typed if self._has_typed_outputs else encode_predict
            return encode(name, version, outputs)

        if has_long_strings(outputs):
            return encode_aside(self._service, outputs, whole)
        if self._has_typed_outputs:
            return whole()
        return reply_of(predict_pieces(name, version, outputs), outputs, self._service.hold)

    async def get_model_metadata(self, request: Octets, context: CallContext) -> bytes:
        """GetModelMetadataRequest to GetModelMetadataResponse; answers at once."""
        message = small_request(request, serving.GetModelMetadataRequest)
        fields = list(message.metadata_field)
        if fields != ["signature_def"]:
            named = ", ".join(fields) or "(none)"
            raise MalformedPayload(f"Metadata field {named} is not supported; accepted: signature_def")
        spec = message.model_spec
        route = calls.metadata(self._service, context, spec.name, spec.version.value, spec.version_label)
        response = encode_metadata(route.model_name, route.version, route.inputs, route.outputs)
        return response.SerializeToString()

    async def get_model_status(self, request: Octets, context: CallContext) -> bytes:
        """GetModelStatusRequest to GetModelStatusResponse; answers at once."""
        spec = small_request(request, serving.GetModelStatusRequest).model_spec
        versions = calls.status(self._service, context, spec.name, spec.version.value, spec.version_label)
        return encode_status(versions).SerializeToString()

    async def handle_reload_config_request(self, request: Octets, context: CallContext) -> bytes:
        """ReloadConfigRequest to ReloadConfigResponse: what ``POST /v1/config/reload`` does.

        TensorFlow Serving replaces its models by those in the request. Here they come from the server's own file, and
        a client that sends some is told so, as it would take OK for its models being served. A failure is the call's
        status, so that no client has to look in two places.
        """
        message = small_request(request, serving.ReloadConfigRequest)
        if message.config.ByteSize():
            raise UnsupportedOperation(
                "a configuration in the request is not supported; change the server's own file (--config_path) and "
                "leave the request empty"
            )
        await self._service.reload(context)
        return encode_reloaded().SerializeToString()
