# SPDX-License-Identifier: Apache-2.0
"""The demo's client: one digit asked of a running server through each of its protocols.

Every connection goes to 127.0.0.1 and past any proxy that the environment names: gRPC is told so,
``http.client`` knows of none, and the curl line says it to curl.
"""

from __future__ import annotations

import http.client
import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import numpy as np

from ovms_mp.demo.digits import CLASSES, IMAGE_SHAPE, INPUT_NAME, MODEL_NAME, OUTPUT_NAME
from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import DataType, TensorProto
from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import PredictRequest, PredictResponse

if TYPE_CHECKING:
    from numpy.typing import NDArray

HOST = "127.0.0.1"
_MODEL_PATH = f"/v1/models/{MODEL_NAME}"
_PREDICT_METHOD = "/tensorflow.serving.PredictionService/Predict"
_CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    # Channels of one process share connections, and so the back-off after a refused one: a new channel would
    # not try again at once, as it does with a pool of its own. grpc/impl/channel_arg_names.h
    ("grpc.use_local_subchannel_pool", 1),
)
# What a server says that is still starting: gRPC and HTTP name the same failures (see ovms_mp.errors).
_STARTING_CODES = frozenset(
    (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.DEADLINE_EXCEEDED)
)
_STARTING_STATUSES = frozenset(
    (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.SERVICE_UNAVAILABLE, http.HTTPStatus.GATEWAY_TIMEOUT)
)
_QUOTED_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Place:
    """The server on this machine.

    Attributes:
        port: gRPC.
        rest_port: REST.
        prefix: What all REST paths begin with.
        key: What clients must send; empty for nothing.
    """

    port: int
    rest_port: int
    prefix: str = ""
    key: str = ""


class NoAnswer(Exception):
    """A request brought no digit.

    Attributes:
        may_retry: A server that is still starting answers like this; anything else stays as it is.
    """

    def __init__(self, message: str, *, may_retry: bool) -> None:
        super().__init__(message)
        self.may_retry = may_retry


def ask_grpc(place: Place, image: NDArray[np.float32], timeout_s: float) -> int:
    """Ask through TensorFlow Serving's gRPC API; the likeliest digit.

    Args:
        place: Where the server is.
        image: Pixels 0 to 16, shape (8, 8).
        timeout_s: Deadline of the call.

    Raises:
        NoAnswer: The call failed, or the answer is not ten probabilities.
    """
    address = f"{HOST}:{place.port}"
    what = f"gRPC Predict at {address}"
    request = PredictRequest()
    request.model_spec.name = MODEL_NAME
    tensor = request.inputs[INPUT_NAME]
    tensor.dtype = DataType.DT_FLOAT
    for size in (1, *IMAGE_SHAPE):
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = image.astype("<f4").tobytes()
    with grpc.insecure_channel(address, options=_CHANNEL_OPTIONS) as channel:
        predict = channel.unary_unary(
            _PREDICT_METHOD,
            request_serializer=PredictRequest.SerializeToString,
            response_deserializer=PredictResponse.FromString,
        )
        try:
            response = predict(request, timeout=timeout_s, metadata=tuple(_keys(place).items()))
        except grpc.RpcError as error:
            code = error.code()
            raise NoAnswer(
                f"{what}: {code.name}: {error.details()}", may_retry=code in _STARTING_CODES
            ) from error
    if OUTPUT_NAME not in response.outputs:
        raise NoAnswer(f"{what}: no {OUTPUT_NAME!r} in {sorted(response.outputs)}", may_retry=False)
    return _likeliest(_floats(response.outputs[OUTPUT_NAME]), what)


def ask_rest(place: Place, image: NDArray[np.float32], timeout_s: float) -> int:
    """Ask through TensorFlow Serving's REST API; the likeliest digit.

    Args:
        place: Where the server is.
        image: Pixels 0 to 16, shape (8, 8).
        timeout_s: Longest wait for the connection and for each part of the answer.

    Raises:
        NoAnswer: The request failed, or the answer is not ten probabilities.
    """
    what = f"POST {_url(place)}:predict"
    answer = _http(place, "POST", ":predict", _rest_body(image), timeout_s)
    try:
        (row,) = json.loads(answer)["predictions"]
        values = np.array(row, dtype=np.float32)
    except (ValueError, KeyError, TypeError) as error:
        raise NoAnswer(f"{what}: no prediction in {_quoted(answer)}", may_retry=False) from error
    return _likeliest(values, what)


def model_states(place: Place, timeout_s: float) -> list[str]:
    """Ask the REST API for the states of the model's versions, e.g. ``["AVAILABLE"]``.

    Raises:
        NoAnswer: The request failed, or the answer is not a model status.
    """
    answer = _http(place, "GET", "", None, timeout_s)
    try:
        return [str(version["state"]) for version in json.loads(answer)["model_version_status"]]
    except (ValueError, KeyError, TypeError) as error:
        raise NoAnswer(
            f"GET {_url(place)}: no model status in {_quoted(answer)}",
            may_retry=False,
        ) from error


def curl_line(place: Place, image: NDArray[np.float32]) -> str:
    """The REST request as one line for a POSIX shell. A key is left to who sends it."""
    header = ["-H", "Authorization: Bearer KEY"] if place.key else []
    return shlex.join(
        ["curl", "-sS", "--noproxy", HOST, *header, "-d", _rest_body(image), f"{_url(place)}:predict"]
    )


def _url(place: Place) -> str:
    """The model's."""
    return f"http://{HOST}:{place.rest_port}{place.prefix}{_MODEL_PATH}"


def _keys(place: Place) -> dict[str, str]:
    """What a request says of who sends it."""
    return {"authorization": f"Bearer {place.key}"} if place.key else {}


def _rest_body(image: NDArray[np.float32]) -> str:
    return json.dumps({"instances": [np.rint(image).astype(int).tolist()]}, separators=(",", ":"))


def _http(place: Place, method: str, call: str, body: str | None, timeout_s: float) -> bytes:
    """The body of a 200 answer; everything else raises."""
    what = f"{method} {_url(place)}{call}"
    headers = _keys(place) | ({"Content-Type": "application/json"} if body is not None else {})
    connection = http.client.HTTPConnection(HOST, place.rest_port, timeout=timeout_s)
    try:
        connection.request(method, f"{place.prefix}{_MODEL_PATH}{call}", body, headers)
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(f"{what}: {error or type(error).__name__}", may_retry=True) from error
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise NoAnswer(
            f"{what}: {response.status} {response.reason}: {_quoted(answer)}",
            may_retry=response.status in _STARTING_STATUSES,
        )
    return answer


def _floats(tensor: TensorProto) -> NDArray[np.float32]:
    """A DT_FLOAT tensor's elements in either of TensorFlow's two forms; empty for any other dtype."""
    if tensor.dtype != DataType.DT_FLOAT:
        return np.empty(0, dtype=np.float32)
    if tensor.tensor_content and len(tensor.tensor_content) % np.dtype("<f4").itemsize == 0:
        return np.frombuffer(tensor.tensor_content, dtype="<f4")
    return np.array(tensor.float_val, dtype=np.float32)


def _likeliest(probabilities: NDArray[np.float32], what: str) -> int:
    if probabilities.size != CLASSES or not np.isfinite(probabilities).all():
        raise NoAnswer(
            f"{what}: expected {CLASSES} probabilities, got {_quoted(repr(probabilities.tolist()))}",
            may_retry=False,
        )
    return int(probabilities.argmax())


def _quoted(text: bytes | str) -> str:
    """The beginning of an answer, for an error message."""
    shown = text.decode(errors="replace") if isinstance(text, bytes) else text
    return shown if len(shown) <= _QUOTED_CHARACTERS else f"{shown[:_QUOTED_CHARACTERS]}..."
