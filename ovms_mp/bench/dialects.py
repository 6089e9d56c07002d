# SPDX-License-Identifier: Apache-2.0
"""The APIs that a load can speak: how each asks for a model's inputs, and its inference request."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import msgspec
import numpy as np
import orjson
from google.protobuf.message import DecodeError

from ovms_mp.bench.failure import NoMeasurement
from ovms_mp.bench.inputs import InputSpec, Tensor
from ovms_mp.bench.wire_client import WireRequest
from ovms_mp.errors import ConfigError
from ovms_mp.front.kserve._proto import kserve_pb2 as kserve
from ovms_mp.front.tfs._proto import tensorflow_framework_pb2 as framework
from ovms_mp.front.tfs._proto import tensorflow_serving_pb2 as serving
from ovms_mp.model.dtypes import DType, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.bench.endpoint import Endpoint

Api = Literal["kserve", "kserve_json", "tfs"]
"""KServe v2, over REST with binary tensors; the same in JSON; TensorFlow Serving's."""
APIS: tuple[Api, ...] = ("kserve", "kserve_json", "tfs")
_PREFIX = struct.Struct(">BI")
_LENGTH = struct.Struct("<I")
_INFER, _DESCRIBE = (
    "/inference.GRPCInferenceService/ModelInfer",
    "/inference.GRPCInferenceService/ModelMetadata",
)
_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_GET_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
_GET_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
_SIGNATURE = "signature_def"
_TF_DTYPES = {dtype.tf_number: dtype for dtype in DType}
_NAMED = {dtype.name: dtype for dtype in DType}


class Dialect:
    """One API at one server, for one model."""

    def __init__(self, endpoint: Endpoint, api: Api, model: str, version: str, key: str) -> None:
        """Know whom to ask, and for what.

        Args:
            endpoint: Where the server is; says the transport.
            api: What is spoken.
            model: The model's name.
            version: Empty for the server's choice.
            key: API key; empty for none.
        """
        self._endpoint = endpoint
        self._api = api
        self._model = model
        self._version = version
        self._key = {"authorization": f"Bearer {key}"} if key else {}

    # What the model takes.

    def metadata_request(self) -> WireRequest:
        """Ask for the model's inputs."""
        if not self._endpoint.is_grpc:
            return self.rest("GET", f"{self._path()}{'/metadata' if self._api == 'tfs' else ''}")
        if self._api == "tfs":
            request = serving.GetModelMetadataRequest(metadata_field=[_SIGNATURE])
            self._name(request.model_spec)
            return self._grpc(_GET_METADATA, request.SerializeToString())
        message = kserve.ModelMetadataRequest(name=self._model, version=self._version)
        return self._grpc(_DESCRIBE, message.SerializeToString())

    def inputs(self, body: bytes) -> list[InputSpec]:
        """Read the answer to :meth:`metadata_request`.

        Raises:
            NoMeasurement: It is none.
        """
        try:
            if self._endpoint.is_grpc:
                message = body[_PREFIX.size :]
                return _tfs_inputs(message) if self._api == "tfs" else _kserve_inputs(message)
            return _tfs_rest_inputs(body) if self._api == "tfs" else _kserve_rest_inputs(body)
        except (
            DecodeError,
            msgspec.MsgspecError,
            RecursionError,
            LookupError,
            ValueError,
            TypeError,
            AttributeError,
        ) as error:
            what = f"{type(error).__name__}: {error}"
            raise NoMeasurement(
                f"{self._endpoint.url} describes the model in an unknown form ({what})"
            ) from None

    # Whether it is served; TensorFlow Serving's API over gRPC only.

    def status_request(self) -> WireRequest:
        """Ask for the states of the model's versions."""
        request = serving.GetModelStatusRequest()
        self._name(request.model_spec)
        return self._grpc(_GET_STATUS, request.SerializeToString())

    @staticmethod
    def state(body: bytes) -> tuple[int, str]:
        """Of the newest version, with the error that it has; 0 without versions."""
        found = serving.GetModelStatusResponse.FromString(body[_PREFIX.size :]).model_version_status
        if not found:
            return 0, ""
        newest = max(found, key=lambda status: status.version)
        return int(newest.state), newest.status.error_message

    # Inference.

    def inference_request(self, tensors: Sequence[Tensor]) -> WireRequest:
        """The request that the load repeats."""
        if self._endpoint.is_grpc:
            if self._api == "tfs":
                return self._grpc(_PREDICT, self._predict(tensors))
            return self._grpc(_INFER, self._infer(tensors))
        if self._api == "tfs":
            body = {"inputs": {tensor.name: _json_values(tensor, is_tfs=True) for tensor in tensors}}
            return self.rest("POST", f"{self._path()}:predict", _json(body))
        if self._api == "kserve_json":
            head = [{**_head(tensor), "data": _json_values(tensor)} for tensor in tensors]
            return self.rest("POST", f"{self._path()}/infer", _json({"inputs": head}))
        raws = [_raw(tensor) for tensor in tensors]
        head = [
            {**_head(tensor), "parameters": {"binary_data_size": len(raw)}}
            for tensor, raw in zip(tensors, raws, strict=True)
        ]
        text = _json({"inputs": head, "parameters": {"binary_data_output": True}})
        more = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(text))}
        return self.rest("POST", f"{self._path()}/infer", b"".join([text, *raws]), more)

    def rest(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> WireRequest:
        """A REST request below the server's prefix."""
        kind = {"content-type": "application/json"} if body else {}
        return WireRequest(
            method=method,
            path=f"{self._endpoint.prefix}{path}",
            headers={"host": self._endpoint.authority, **kind, **(headers or {}), **self._key},
            body=body,
        )

    def _path(self) -> str:
        name = quote(self._model, safe="")
        version = f"/versions/{self._version}" if self._version else ""
        return f"/{'v1' if self._api == 'tfs' else 'v2'}/models/{name}{version}"

    def _grpc(self, path: str, message: bytes) -> WireRequest:
        headers = {
            ":scheme": "https" if self._endpoint.is_secure else "http",
            ":authority": self._endpoint.authority,
            "content-type": "application/grpc",
            "te": "trailers",
            **self._key,
        }
        return WireRequest(
            method="POST", path=path, headers=headers, body=_PREFIX.pack(0, len(message)) + message
        )

    def _name(self, spec: serving.ModelSpec) -> None:
        spec.name = self._model
        if self._version:
            spec.version.value = int(self._version)

    def _predict(self, tensors: Sequence[Tensor]) -> bytes:
        request = serving.PredictRequest()
        self._name(request.model_spec)
        for tensor in tensors:
            proto = request.inputs[tensor.name]
            proto.dtype = tensor.dtype.tf_number  # type: ignore[assignment]  # an enum's number, which protobuf takes
            for size in tensor.values.shape:
                proto.tensor_shape.dim.add(size=size)
            if tensor.dtype.kind is Kind.STRING:
                proto.string_val.extend(tensor.values.ravel().tolist())
            else:
                proto.tensor_content = tensor.values.tobytes()
        return request.SerializeToString()

    def _infer(self, tensors: Sequence[Tensor]) -> bytes:
        request = kserve.ModelInferRequest(model_name=self._model, model_version=self._version)
        for tensor in tensors:
            request.inputs.add(name=tensor.name, datatype=tensor.dtype.name, shape=tensor.values.shape)
            request.raw_input_contents.append(_raw(tensor))
        return request.SerializeToString()


def _raw(tensor: Tensor) -> bytes:
    """Values as KServe has them: little-endian, strings with their lengths before them."""
    if tensor.dtype.kind is not Kind.STRING:
        return tensor.values.tobytes()
    return b"".join(_LENGTH.pack(len(text)) + text for text in tensor.values.ravel().tolist())


def _json(document: object) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _head(tensor: Tensor) -> dict[str, object]:
    return {"name": tensor.name, "datatype": tensor.dtype.name, "shape": list(tensor.values.shape)}


def _json_values(tensor: Tensor, *, is_tfs: bool = False) -> object:
    values = tensor.values if is_tfs else tensor.values.ravel()
    if tensor.dtype.kind is Kind.STRING:
        return _texts(values.tolist(), is_tfs=is_tfs)
    if tensor.dtype.kind is Kind.FLOAT:
        # NumPy's own single precision, which is written with the fewest digits that give the value again.
        values = values.astype("f4" if tensor.dtype.itemsize <= np.dtype("f4").itemsize else "f8")
    return values


def _texts(value: object, *, is_tfs: bool) -> object:
    if isinstance(value, list):
        return [_texts(element, is_tfs=is_tfs) for element in value]
    octets = value if isinstance(value, bytes) else b""
    try:
        return octets.decode()
    except UnicodeDecodeError:
        if is_tfs:
            return {"b64": base64.b64encode(octets).decode()}
        raise ConfigError(
            "--api kserve_json: JSON has no form for octets that are no UTF-8, such as an image's; "
            "--api kserve sends them"
        ) from None


def _kserve_inputs(message: bytes) -> list[InputSpec]:
    found = kserve.ModelMetadataResponse.FromString(message)
    return [InputSpec(entry.name, _NAMED[entry.datatype], tuple(entry.shape)) for entry in found.inputs]


def _tfs_inputs(message: bytes) -> list[InputSpec]:
    found = serving.GetModelMetadataResponse.FromString(message).metadata[_SIGNATURE]
    signatures = serving.SignatureDefMap()
    found.Unpack(signatures)
    signature = _first(signatures.signature_def)
    return [
        InputSpec(name, _TF_DTYPES[int(info.dtype)], tuple(dim.size for dim in info.tensor_shape.dim))
        for name, info in signature.inputs.items()
    ]


def _first(signatures: Mapping[str, Any]) -> Any:  # Any: of either form
    for signature in signatures.values():
        return signature
    raise LookupError("the model has no signature")


class _KserveInput(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: tuple[int, ...]


class _KserveModel(msgspec.Struct, frozen=True):
    inputs: tuple[_KserveInput, ...]


def _kserve_rest_inputs(body: bytes) -> list[InputSpec]:
    found = msgspec.json.decode(body, type=_KserveModel)
    return [InputSpec(entry.name, _NAMED[entry.datatype], entry.shape) for entry in found.inputs]


def _tfs_rest_inputs(body: bytes) -> list[InputSpec]:
    found_map = msgspec.json.decode(body)["metadata"][_SIGNATURE]
    # TensorFlow Serving keeps the names of its messages, protobuf's own JSON does not.
    signatures = found_map.get("signatureDef") or found_map[_SIGNATURE]
    signature = _first(signatures)
    found = []
    for name, info in signature["inputs"].items():
        dtype = framework.DataType.Value(info["dtype"])
        shape = info["tensorShape"] if "tensorShape" in info else info["tensor_shape"]
        found.append(
            InputSpec(name, _TF_DTYPES[int(dtype)], tuple(int(dim["size"]) for dim in shape.get("dim", ())))
        )
    return found
