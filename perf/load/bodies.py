# SPDX-License-Identifier: Apache-2.0
"""Request bodies and answers in TensorFlow Serving's two forms and KServe's two forms with raw values.

The generated message classes are the server's own, but protobuf encodes and decodes here, not the server's
hand-written codec: an independent witness of its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from ovms_mp.front.kserve._proto import kserve_pb2
from ovms_mp.front.tfs._proto import tensorflow_framework_pb2, tensorflow_serving_pb2
from perf.load.h2load import Protocol
from perf.models.declared import MODELS, Float32Array, ModelFiles, ModelSpec, load_reference

HEAD_LENGTH = "inference-header-content-length"
"""How much of a body with binary tensors is JSON."""
GRPC_PREFIX_BYTES = 5
"""Compression flag and big-endian length before every gRPC message."""


class RestRequest(NamedTuple):
    """A body and what is said of it."""

    body: bytes
    headers: Mapping[str, str]


def predict_request(spec: ModelSpec, image: Float32Array) -> bytes:
    """A serialized PredictRequest with ``tensor_content``, as TensorFlow's own clients make it."""
    request = tensorflow_serving_pb2.PredictRequest()
    request.model_spec.name = spec.name
    request.inputs[spec.input_name].CopyFrom(_tensor_proto(image))
    return request.SerializeToString()


def infer_request(spec: ModelSpec, image: Float32Array) -> bytes:
    """A serialized ModelInferRequest with raw values, as Triton's client makes it."""
    request = kserve_pb2.ModelInferRequest(model_name=spec.name, raw_input_contents=[image.tobytes()])
    request.inputs.add(name=spec.input_name, datatype="FP32", shape=image.shape)
    return request.SerializeToString()


def infer_output(spec: ModelSpec, response: bytes) -> npt.NDArray[Any]:
    """The output tensor of a serialized ModelInferResponse.

    Raises:
        KeyError: The output is not there.
        ValueError: Values and shape do not fit each other.
        google.protobuf.message.DecodeError: Not a ModelInferResponse.
    """
    message = kserve_pb2.ModelInferResponse.FromString(response)
    names = [output.name for output in message.outputs]
    if spec.output_name not in names:
        raise KeyError(f"outputs {names}, expected {spec.output_name!r}")
    index = names.index(spec.output_name)
    raw = message.raw_output_contents[index]
    return np.frombuffer(raw, dtype=np.float32).reshape(tuple(message.outputs[index].shape))


def grpc_frame(message: bytes) -> bytes:
    """A message as it stands in an HTTP/2 body: uncompressed, with its length."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def rest_body(image: Float32Array) -> RestRequest:
    """A ``:predict`` body in row form; float32 printed like ``repr(float(x))``, 20 characters a value."""
    body = orjson.dumps({"instances": image.astype(np.float64).tolist()})
    return RestRequest(body, {"content-type": "application/json"})


def infer_body(spec: ModelSpec, image: Float32Array) -> RestRequest:
    """A body of KServe's binary extension, as Triton's client makes it when nothing is said of outputs."""
    head = orjson.dumps(
        {
            "inputs": [
                {
                    "name": spec.input_name,
                    "datatype": "FP32",
                    "shape": list(image.shape),
                    "parameters": {"binary_data_size": image.nbytes},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    )
    headers = {"content-type": "application/octet-stream", HEAD_LENGTH: str(len(head))}
    return RestRequest(head + image.tobytes(), headers)


def infer_body_output(spec: ModelSpec, response: bytes, head_bytes: int) -> npt.NDArray[Any]:
    """The output tensor of such an answer.

    Raises:
        KeyError: The output is not there.
        ValueError: Not JSON, or values and shape do not fit each other.
    """
    outputs = {output["name"]: output for output in orjson.loads(response[:head_bytes])["outputs"]}
    raw = response[head_bytes:]  # All models of perf have one output.
    return np.frombuffer(raw, dtype=np.float32).reshape(outputs[spec.output_name]["shape"])


def grpc_output(spec: ModelSpec, response: bytes) -> npt.NDArray[Any]:
    """The output tensor of a serialized PredictResponse.

    Raises:
        KeyError: The output is not there.
        ValueError: Values and shape do not fit each other.
        google.protobuf.message.DecodeError: Not a PredictResponse.
    """
    message = tensorflow_serving_pb2.PredictResponse.FromString(response)
    if spec.output_name not in message.outputs:
        raise KeyError(f"outputs {sorted(message.outputs)}, expected {spec.output_name!r}")
    tensor = message.outputs[spec.output_name]
    shape = [dimension.size for dimension in tensor.tensor_shape.dim]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype=np.float32).reshape(shape)
    return np.array(tensor.float_val, dtype=np.float32).reshape(shape)


def rest_output(response: bytes) -> npt.NDArray[Any]:
    """The output tensor of a ``:predict`` answer in row form.

    Raises:
        KeyError: No "predictions".
        ValueError: Not JSON, or not a tensor.
    """
    return np.array(orjson.loads(response)["predictions"], dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyFiles:
    """A model's bodies for h2load, from its first reference, and the echo floors' answer sizes."""

    grpc_path: Path
    kserve_grpc_path: Path
    rest_path: Path
    kserve_rest_path: Path
    headers: Mapping[Protocol, Mapping[str, str]]
    grpc_answer_bytes: int
    rest_answer_bytes: int

    def of(self, protocol: Protocol) -> Path:
        """The body of a protocol."""
        paths: Mapping[Protocol, Path] = {
            "grpc": self.grpc_path,
            "kserve_grpc": self.kserve_grpc_path,
            "rest": self.rest_path,
            "kserve_rest": self.kserve_rest_path,
        }
        return paths[protocol]


def write_bodies(files: ModelFiles) -> BodyFiles:
    """Write a model's bodies below its run's directory."""
    spec = MODELS[files.name]
    inputs, expected = load_reference(files.reference_path)
    directory = files.root / "bodies"
    directory.mkdir(exist_ok=True)
    row_form, binary_form = rest_body(inputs[0]), infer_body(spec, inputs[0])
    bodies = BodyFiles(
        grpc_path=directory / f"{spec.name}.grpc",
        kserve_grpc_path=directory / f"{spec.name}.kserve_grpc",
        rest_path=directory / f"{spec.name}.json",
        kserve_rest_path=directory / f"{spec.name}.kserve_rest",
        headers={"rest": row_form.headers, "kserve_rest": binary_form.headers},
        grpc_answer_bytes=len(_predict_response(spec, expected[0])),
        rest_answer_bytes=len(orjson.dumps({"predictions": expected[0].tolist()})),
    )
    bodies.grpc_path.write_bytes(grpc_frame(predict_request(spec, inputs[0])))
    bodies.kserve_grpc_path.write_bytes(grpc_frame(infer_request(spec, inputs[0])))
    bodies.rest_path.write_bytes(row_form.body)
    bodies.kserve_rest_path.write_bytes(binary_form.body)
    return bodies


def _tensor_proto(array: Float32Array) -> tensorflow_framework_pb2.TensorProto:
    tensor = tensorflow_framework_pb2.TensorProto(dtype=tensorflow_framework_pb2.DT_FLOAT)
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = array.tobytes()
    return tensor


def _predict_response(spec: ModelSpec, output: Float32Array) -> bytes:
    response = tensorflow_serving_pb2.PredictResponse()
    response.model_spec.name = spec.name
    response.model_spec.version.value = 1
    response.model_spec.signature_name = "serving_default"
    response.outputs[spec.output_name].CopyFrom(_tensor_proto(output))
    return response.SerializeToString()
