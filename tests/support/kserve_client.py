# SPDX-License-Identifier: Apache-2.0
"""KServe's gRPC calls: messages by our generated classes, sent by plain grpc in the process of :class:`TfsClient`."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from google.protobuf.json_format import MessageToDict

from ovms_mp.front.kserve._proto.kserve_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from tests.support.tensors import NUMPY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from google.protobuf.message import Message

    from ovms_mp.model.dtypes import AnyArray
    from tests.support.tensors import Document
    from tests.support.tfs_client import TfsClient

SERVICE = "/inference.GRPCInferenceService"
INFER, STREAM = f"{SERVICE}/ModelInfer", f"{SERVICE}/ModelStreamInfer"
RAISE = (("triton_grpc_error", "true"),)
"""Metadata with which a failure within a stream ends the call, so that it has a code."""

_DATATYPES = {
    "boolean": "BOOL",
    "u8": "UINT8",
    "u16": "UINT16",
    "u32": "UINT32",
    "u64": "UINT64",
    "i8": "INT8",
    "i16": "INT16",
    "i32": "INT32",
    "i64": "INT64",
    "f16": "FP16",
    "bf16": "BF16",
    "f32": "FP32",
    "f64": "FP64",
    "f8e4m3": "FP8_E4M3",
    "f8e5m2": "FP8_E5M2",
}
_DATATYPE_OF = {dtype: _DATATYPES[name] for name, dtype in NUMPY.items()}
_NUMPY_OF = {datatype: dtype for dtype, datatype in _DATATYPE_OF.items()}
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


@dataclass(frozen=True)
class KServeReply:
    """How a call ended.

    Attributes:
        code: gRPC code by name.
        details: The server's words.
        response: The message as protobuf JSON.
        message: The serialized message.
    """

    code: str
    details: str
    response: Document
    message: bytes = b""

    def outputs(self) -> dict[str, AnyArray]:
        """The arrays of a ModelInferResponse."""
        return outputs_of(ModelInferResponse.FromString(self.message))


def outputs_of(response: ModelInferResponse) -> dict[str, AnyArray]:
    """An answer's arrays; strings as objects of bytes."""
    assert len(response.outputs) == len(response.raw_output_contents)
    return {
        output.name: _array(output.datatype, raw).reshape(tuple(output.shape))
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def _array(datatype: str, raw: bytes) -> AnyArray:
    if datatype != "BYTES":
        return np.frombuffer(raw, _NUMPY_OF[datatype])
    strings: list[bytes] = []
    while raw:
        (size,) = struct.unpack_from("<I", raw)
        strings.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    return np.array([*strings, None], object)[:-1]


def has_contents(arrays: Iterable[AnyArray]) -> bool:
    """Whether ``contents`` can carry all of these."""
    return all(_DATATYPE_OF[array.dtype] in _CONTENTS for array in arrays)


def infer_request(
    model: str,
    inputs: Mapping[str, AnyArray],
    *,
    version: str = "",
    request_id: str = "",
    is_raw: bool = True,
    outputs: Sequence[str] = (),
) -> ModelInferRequest:
    """A request with its values raw or in ``contents``."""
    request = ModelInferRequest(model_name=model, model_version=version, id=request_id)
    for name, array in inputs.items():
        datatype = _DATATYPE_OF[array.dtype]
        proto = request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if is_raw:
            request.raw_input_contents.append(array.tobytes())
        else:
            getattr(proto.contents, _CONTENTS[datatype]).extend(array.reshape(-1).tolist())
    for name in outputs:
        request.outputs.add(name=name)
    return request


def call(
    client: TfsClient, port: int, method: str, request: Message | bytes, kind: type[Message]
) -> KServeReply:
    """Call a method with a message, whose answer is of a kind."""
    body = request if isinstance(request, bytes) else request.SerializeToString()
    reply = client.start_raw(port, f"{SERVICE}/{method}", body).wait()
    message = base64.b64decode(reply.response.get("body", ""))
    document = MessageToDict(kind.FromString(message)) if reply.code == "OK" else {}
    return KServeReply(reply.code, reply.details, document, message)


def infer(client: TfsClient, port: int, request: ModelInferRequest | bytes) -> KServeReply:
    """Call ModelInfer."""
    return call(client, port, "ModelInfer", request, ModelInferResponse)


@dataclass(frozen=True)
class StreamReply:
    """How a stream ended, and what came before."""

    code: str
    details: str
    responses: Sequence[ModelStreamInferResponse]


def stream(
    client: TfsClient,
    port: int,
    requests: Sequence[ModelInferRequest | bytes],
    metadata: Sequence[tuple[str, str]] = (),
) -> StreamReply:
    """Send requests in one stream, say that they are all, and wait for its end."""
    bodies = [request if isinstance(request, bytes) else request.SerializeToString() for request in requests]
    reply = client.start_raw_stream(port, STREAM, bodies, metadata).wait()
    messages = [base64.b64decode(body) for body in reply.response.get("bodies", [])]
    return StreamReply(
        reply.code, reply.details, [ModelStreamInferResponse.FromString(message) for message in messages]
    )


def infer_in_stream(client: TfsClient, port: int, request: ModelInferRequest) -> KServeReply:
    """A stream of one request. A failure, which is a message without a code, is asked for again to have one."""
    reply = stream(client, port, [request])
    (response,) = reply.responses
    assert (reply.code, response.infer_response.id) == ("OK", request.id)
    if response.error_message:
        ended = stream(client, port, [request], RAISE)
        assert (list(ended.responses), ended.details) == ([], response.error_message)
        return KServeReply(ended.code, ended.details, {})
    assert response.infer_response.parameters.pop("triton_final_response").bool_param
    answer = response.infer_response
    return KServeReply("OK", "", MessageToDict(answer), answer.SerializeToString())
