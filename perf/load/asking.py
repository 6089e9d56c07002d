# SPDX-License-Identifier: Apache-2.0
"""One request after the other, each answer with the version it came from; for checks beside a load, not for timing."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy.typing as npt

from ovms_mp.front.tfs._proto import tensorflow_serving_pb2
from perf.load.bodies import grpc_output, predict_request, rest_body, rest_output
from perf.load.h2load import Protocol
from perf.models.declared import Float32Array, ModelSpec

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with a tensor.

    Attributes:
        version: The answering version; 0 over REST, whose answers do not say.
        nbytes: Size of its body, over gRPC without the prefix.
    """

    output: npt.NDArray[Any]
    version: int
    nbytes: int


Ask = Callable[[ModelSpec, Float32Array], Answer]


class AskFailed(Exception):
    """A request was not answered with a tensor; the text says what came instead."""


@contextlib.contextmanager
def asking(port: int, protocol: Protocol) -> Iterator[Ask]:
    """A connection to a local port for the length of a block; what it gives raises :class:`AskFailed`."""
    if protocol == "grpc":
        # A subchannel of its own, or all channels of this process to one port would share one connection.
        options = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            call = channel.unary_unary(_PREDICT, None, None)

            def ask_grpc(spec: ModelSpec, image: Float32Array) -> Answer:
                try:
                    response: bytes = call(predict_request(spec, image), timeout=_TIMEOUT_S)
                except grpc.RpcError as error:
                    raise AskFailed(f"gRPC {error.code().name}: {error.details()}") from None
                version = tensorflow_serving_pb2.PredictResponse.FromString(response).model_spec.version.value
                return Answer(grpc_output(spec, response), version, len(response))

            yield ask_grpc
        return
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)

    def ask_rest(spec: ModelSpec, image: Float32Array) -> Answer:
        try:
            connection.request("POST", f"/v1/models/{spec.name}:predict", *rest_body(image))
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise AskFailed(f"REST {type(error).__name__}: {error}") from None
        if response.status != http.client.OK:
            raise AskFailed(f"REST {response.status}: {answer[:200]!r}")
        return Answer(rest_output(answer), 0, len(answer))

    with contextlib.closing(connection):
        yield ask_rest
