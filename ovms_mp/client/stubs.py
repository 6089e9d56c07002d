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

The stubs take channels of ``grpc`` and of ``grpc.aio``. A process that has one of these names cannot import those of
TensorFlow, as both register the same names with protobuf; :class:`~ovms_mp.client.sync.Client` registers none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.client.datatypes import as_array, narrowed
from ovms_mp.client.tfs_grpc import tensor_array, tensor_message
from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import TensorProto
from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    PredictRequest,
    PredictResponse,
    ReloadConfigRequest,
    ReloadConfigResponse,
)

if TYPE_CHECKING:
    import grpc
    from numpy.typing import ArrayLike

    from ovms_mp.client.datatypes import AnyArray


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
    if isinstance(values, (np.ndarray, np.generic)):
        array = as_array(np.asarray(values))
    else:
        array = np.asarray(values)
        is_text = array.dtype.kind in "SUO"
        array = as_array(np.asarray(values, np.object_)) if is_text else _with_tensorflow_defaults(array)
    return TensorProto.FromString(b"".join(tensor_message(array)))


def make_ndarray(tensor: TensorProto) -> AnyArray:
    """The array of a message, a copy, from ``tensor_content`` or the typed fields.

    Raises:
        ClientError: It is not the message of a tensor of numbers, booleans or strings.
    """
    return tensor_array(tensor.SerializeToString()).copy()


def _with_tensorflow_defaults(array: AnyArray) -> AnyArray:
    """Numbers of Python, which NumPy has made 64 bits wide, as TensorFlow takes them."""
    if array.dtype == np.float64:
        return narrowed(array)
    if array.dtype == np.int64:
        narrow = array.astype(np.int32)
        return narrow if np.array_equal(narrow, array) else array
    return array
