# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's messages and stubs for clients, with nothing but ``grpcio``, ``protobuf`` and NumPy.

Names are those of ``tensorflow_serving.apis`` and ``tensorflow``, so a client moves between them by its imports::

    import grpc, numpy
    from ovms_mp.client import PredictionServiceStub, PredictRequest, make_ndarray, make_tensor_proto

    stub = PredictionServiceStub(grpc.insecure_channel("127.0.0.1:9000"))
    request = PredictRequest()
    request.model_spec.name = "digits"
    request.inputs["image"].CopyFrom(make_tensor_proto(numpy.zeros((1, 8, 8), numpy.float32)))
    print(make_ndarray(stub.Predict(request, timeout=10).outputs["probabilities"]))

The stubs take channels of ``grpc`` and of ``grpc.aio``. A process that imports this module cannot import TensorFlow's
messages, as both register the same names with protobuf. No process of the server imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.front.tensors import BytesTensor
from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import DataType, TensorProto, TensorShapeProto
from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelSpec,
    PredictRequest,
    PredictResponse,
    ReloadConfigRequest,
    ReloadConfigResponse,
    SignatureDefMap,
)
from ovms_mp.front.tfs.protobuf.values import given_tensor
from ovms_mp.model.dtypes import NUMERIC_DTYPES, element_count

if TYPE_CHECKING:
    import grpc
    from numpy.typing import ArrayLike

    from ovms_mp.model.dtypes import AnyArray

__all__ = [
    "PredictionServiceStub",
    "ModelServiceStub",
    "make_tensor_proto",
    "make_ndarray",
    "PredictRequest",
    "PredictResponse",
    "GetModelMetadataRequest",
    "GetModelMetadataResponse",
    "GetModelStatusRequest",
    "GetModelStatusResponse",
    "ReloadConfigRequest",
    "ReloadConfigResponse",
    "SignatureDefMap",
    "ModelSpec",
    "DataType",
    "TensorProto",
]


class PredictionServiceStub:
    """``tensorflow.serving.PredictionService``: predict, and what a model's inputs and outputs are."""

    def __init__(self, channel: grpc.Channel) -> None:
        """Prepare the calls; none is made.

        Args:
            channel: To the server's gRPC port; of ``grpc`` or ``grpc.aio``. The caller closes it.
        """
        service = "/tensorflow.serving.PredictionService"
        self.Predict = channel.unary_unary(
            f"{service}/Predict",
            request_serializer=PredictRequest.SerializeToString,
            response_deserializer=PredictResponse.FromString,
        )
        self.GetModelMetadata = channel.unary_unary(
            f"{service}/GetModelMetadata",
            request_serializer=GetModelMetadataRequest.SerializeToString,
            response_deserializer=GetModelMetadataResponse.FromString,
        )


class ModelServiceStub:
    """``tensorflow.serving.ModelService``: the states of a model's versions, and reading the configuration again."""

    def __init__(self, channel: grpc.Channel) -> None:
        """Prepare the calls; none is made.

        Args:
            channel: See :class:`PredictionServiceStub`.
        """
        service = "/tensorflow.serving.ModelService"
        self.GetModelStatus = channel.unary_unary(
            f"{service}/GetModelStatus",
            request_serializer=GetModelStatusRequest.SerializeToString,
            response_deserializer=GetModelStatusResponse.FromString,
        )
        self.HandleReloadConfigRequest = channel.unary_unary(
            f"{service}/HandleReloadConfigRequest",
            request_serializer=ReloadConfigRequest.SerializeToString,
            response_deserializer=ReloadConfigResponse.FromString,
        )


def make_tensor_proto(values: ArrayLike) -> TensorProto:
    """A tensor as a message, its elements in ``tensor_content``; strings in ``string_val``.

    Args:
        values: An array, which keeps its dtype, or what NumPy makes one of. Python's floats become ``DT_FLOAT`` and its
            integers ``DT_INT32`` where they fit, as TensorFlow does it.

    Raises:
        ValueError: No tensor has the array's dtype, or strings are mixed with something else.
    """
    array = np.asarray(values)
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in array.shape])
    if array.dtype.kind in "SUO":
        return _string_tensor(values, array, shape)
    if not isinstance(values, (np.ndarray, np.generic)):
        array = _with_tensorflow_defaults(array)
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    dtypes = [dtype for dtype in NUMERIC_DTYPES if dtype.numpy == little.dtype]
    if not dtypes:
        raise ValueError(
            f"no tensor has NumPy's dtype {array.dtype}; accepted: numbers, booleans and strings"
        )
    tensor = TensorProto(tensor_shape=shape, tensor_content=little.tobytes())
    tensor.dtype = dtypes[0].tf_number  # type: ignore[assignment]  # an enum's number, which protobuf takes
    return tensor


def _string_tensor(values: ArrayLike, array: AnyArray, shape: TensorShapeProto) -> TensorProto:
    """A tensor of strings; text becomes UTF-8."""
    if not isinstance(values, np.ndarray):
        # NumPy's own strings end at their last byte that is not zero.
        array = np.asarray(values, np.object_)
    tensor = TensorProto(dtype="DT_STRING", tensor_shape=shape)
    for element in array.ravel().tolist():
        if not isinstance(element, (str, bytes)):
            raise ValueError(
                f"no tensor has elements such as {element!r}; accepted: numbers, booleans and strings"
            )
        tensor.string_val.append(element.encode() if isinstance(element, str) else element)
    return tensor


def make_ndarray(tensor: TensorProto) -> AnyArray:
    """The array of a message, a copy, from ``tensor_content`` or the typed fields.

    Raises:
        ovms_mp.errors.OvmsError: It is not the message of a tensor of numbers, booleans or strings.
    """
    given = given_tensor("tensor", tensor)
    count = element_count(given.shape)
    if isinstance(given, BytesTensor):
        objects = np.empty(count, np.object_)
        objects[:] = [bytes(string) for string in given.known_strings.repeated_to(count)]
        return objects.reshape(given.shape)
    if isinstance(given.values, memoryview):
        return np.frombuffer(given.values, given.dtype.numpy).reshape(given.shape).copy()
    array = np.zeros(count, given.dtype.numpy)
    array[: len(given.values)] = given.values
    if len(given.values):  # TensorFlow's compact form: the last value fills the rest.
        array[len(given.values) :] = given.values[-1]
    return array.reshape(given.shape)


def _with_tensorflow_defaults(array: AnyArray) -> AnyArray:
    """Numbers of Python, which NumPy has made 64 bits wide, as TensorFlow takes them."""
    if array.dtype == np.float64:
        return array.astype(np.float32)
    if array.dtype == np.int64:
        narrow = array.astype(np.int32)
        return narrow if np.array_equal(narrow, array) else array
    return array
