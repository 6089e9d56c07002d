# SPDX-License-Identifier: Apache-2.0
"""The TensorFlow Serving methods on bytes: decode, call the service, encode.

What differs from REST is only here.

A handler takes a message's bytes and a moment by which it must be answered, and gives bytes back; it knows
nothing of grpc, so another HTTP/2 front can carry the same methods.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from google.protobuf.message import DecodeError, Message

from ovms_mp.errors import MalformedPayload, RequestTooLarge, UnsupportedOperation
from ovms_mp.front.gathered import Gathered
from ovms_mp.front.tfs._proto import tensorflow_serving_pb2 as serving
from ovms_mp.front.tfs.decode import decode_predict_in_turns, scan_predict
from ovms_mp.front.tfs.encode import encode_predict, predict_pieces
from ovms_mp.front.tfs.encode_typed import encode_predict_typed
from ovms_mp.front.tfs.metadata import encode_metadata, encode_reloaded, encode_status
from ovms_mp.front.tfs.predict_sink import PlacedCall

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.service import Service
    from ovms_mp.front.tensors import ResultTensor
    from ovms_mp.front.tfs.decode import PredictCall

MessageT = TypeVar("MessageT", bound=Message)
AnswerT = TypeVar("AnswerT")

PREDICT_PATH = "/tensorflow.serving.PredictionService/Predict"

LONGEST_SMALL_REQUEST_BYTES = 64 << 10
"""Of all methods but Predict. The generated classes make a hundred times as much of some messages."""
_SHORTEST_GATHERED_BYTES = 16 << 10
"""Outputs from which sending them out of the arena pays; below it a copy is cheaper than the bookkeeping."""

Octets: TypeAlias = bytes | bytearray
Method: TypeAlias = Callable[[Octets, int], Awaitable[bytes]]
"""(request, monotonic deadline in ns or 0) -> response. A request that was long and packed is a bytearray."""


class TfsServicer:
    """PredictionService and ModelService."""

    def __init__(self, service: Service, *, has_typed_outputs: bool = False) -> None:
        self._service = service
        self._has_typed_outputs = has_typed_outputs
        self._encode = _encode_typed if has_typed_outputs else _encode

    def methods(self) -> Mapping[str, Method]:
        """Handlers by the method's path; every other path is UNIMPLEMENTED."""
        prediction = "/tensorflow.serving.PredictionService"
        model = "/tensorflow.serving.ModelService"
        return {
            PREDICT_PATH: self.predict,
            f"{prediction}/GetModelMetadata": self.get_model_metadata,
            f"{model}/GetModelStatus": self.get_model_status,
            f"{model}/HandleReloadConfigRequest": self.handle_reload_config_request,
        }

    async def predict(self, request: Octets, deadline_ns: int) -> bytes:
        """PredictRequest to PredictResponse."""
        call = scan_predict(request) if isinstance(request, bytes) else None
        if call is None:
            call = await self._read(request)
        return await self._predict(call, deadline_ns, self._encode)

    async def predict_in_place(self, request: Octets | PlacedCall, deadline_ns: int) -> bytes | Gathered:
        """The same without a copy: long inputs may be in the arena already, and long outputs are sent from there.

        The request is released when it is answered, the outputs when they are sent.
        """
        if not isinstance(request, PlacedCall):
            call = scan_predict(request) if isinstance(request, bytes) else None
            if call is None:
                call = await self._read(request)
            return await self._predict(call, deadline_ns, self._gather)
        try:
            return await self._predict(request.call, deadline_ns, self._gather)
        finally:
            request.release()

    async def _read(self, request: Octets) -> PredictCall:
        return await decode_predict_in_turns(request, self._service.refuse_misfits)

    async def _predict(
        self,
        call: PredictCall,
        deadline_ns: int,
        encode: Callable[[VersionRoute, Sequence[ResultTensor]], AnswerT],
    ) -> AnswerT:
        _refuse_label(call.version_label)
        return await self._service.predict(
            call.model_name, call.version or 0, call.inputs, call.output_filter, deadline_ns, encode
        )

    def _gather(self, route: VersionRoute, outputs: Sequence[ResultTensor]) -> bytes | Gathered:
        nbytes = sum([output.data.nbytes for output in outputs])
        lease = outputs[0].lease if outputs else None
        if self._has_typed_outputs or lease is None or nbytes < _SHORTEST_GATHERED_BYTES:
            return self._encode(route, outputs)
        # All outputs of one inference lie in one lease.
        pieces = predict_pieces(route.model_name, route.version, outputs)
        return Gathered(pieces, self._service.hold(lease))

    async def get_model_metadata(self, request: Octets, deadline_ns: int) -> bytes:
        """GetModelMetadataRequest to GetModelMetadataResponse; answers at once."""
        message = _parse(request, serving.GetModelMetadataRequest)
        fields = list(message.metadata_field)
        if fields != ["signature_def"]:
            named = ", ".join(fields) or "(none)"
            raise MalformedPayload(f"Metadata field {named} is not supported; accepted: signature_def")
        spec = message.model_spec
        _refuse_label(spec.version_label)
        route = self._service.described(spec.name, spec.version.value)
        response = encode_metadata(route.model_name, route.version, route.inputs, route.outputs)
        return response.SerializeToString()

    async def get_model_status(self, request: Octets, deadline_ns: int) -> bytes:
        """GetModelStatusRequest to GetModelStatusResponse; answers at once."""
        spec = _parse(request, serving.GetModelStatusRequest).model_spec
        _refuse_label(spec.version_label)
        return encode_status(self._service.statuses(spec.name, spec.version.value)).SerializeToString()

    async def handle_reload_config_request(self, request: Octets, deadline_ns: int) -> bytes:
        """ReloadConfigRequest to ReloadConfigResponse: what ``POST /v1/config/reload`` does.

        TensorFlow Serving replaces its models by those in the request. Here they come from the server's own file, and
        a client that sends some is told so, as it would take OK for its models being served. A failure is the call's
        status, so that no client has to look in two places.
        """
        message = _parse(request, serving.ReloadConfigRequest)
        if message.config.ByteSize():
            raise UnsupportedOperation(
                "a configuration in the request is not supported; change the server's own file (--config_path) and "
                "leave the request empty"
            )
        await self._service.reload(deadline_ns)
        return encode_reloaded().SerializeToString()


def _encode(route: VersionRoute, outputs: Sequence[ResultTensor]) -> bytes:
    return encode_predict(route.model_name, route.version, outputs)


def _encode_typed(route: VersionRoute, outputs: Sequence[ResultTensor]) -> bytes:
    return encode_predict_typed(route.model_name, route.version, outputs)


def _parse(request: Octets, kind: type[MessageT]) -> MessageT:
    if len(request) > LONGEST_SMALL_REQUEST_BYTES:
        raise RequestTooLarge(
            f"a {kind.DESCRIPTOR.name} of {len(request)} bytes; at most {LONGEST_SMALL_REQUEST_BYTES} are read"
        )
    try:
        return kind.FromString(bytes(request))
    except DecodeError as error:
        raise MalformedPayload(f"request is no {kind.DESCRIPTOR.name}: {error}") from None


def _refuse_label(label: str) -> None:
    """Labels cannot be assigned yet; ignoring one would answer from a version that the client did not mean."""
    if label:
        raise UnsupportedOperation(
            f"version_label {label!r}: labels are not supported; name a version or none"
        )
