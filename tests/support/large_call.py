# SPDX-License-Identifier: Apache-2.0
"""One Predict of ``id_u8`` with as many bytes as wanted, by the real client, in a process that gives the memory back.

``python -m tests.support.large_call PORT NBYTES`` prints one line of JSON: code, details, whether the answer equals
what was sent, and seconds. The message is put together by hand from what protobuf writes, as protobuf's Python
classes would copy it several times.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any

import numpy as np

from tests.support.tfs_client import stand_in_for_tensorflow


def main() -> None:
    """Make the call."""
    port, nbytes = int(sys.argv[1]), int(sys.argv[2])
    stand_in_for_tensorflow()
    grpc: Any = importlib.import_module("grpc")
    apis: Any = importlib.import_module("tensorflow_serving.apis.predict_pb2")
    payload = np.arange(-(-nbytes // 4), dtype=np.uint32).view(np.uint8)[:nbytes].data
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    answer = {"code": "OK", "details": "", "is_equal": False}
    with grpc.insecure_channel(
        f"127.0.0.1:{port}", options=[*options, ("grpc.enable_http_proxy", 0)]
    ) as channel:
        started = time.monotonic()
        try:
            call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            response = call(_message(apis, payload), timeout=100)
        except grpc.RpcError as error:
            seconds = time.monotonic() - started
            answer.update(code=error.code().name, details=error.details())
        else:
            seconds = time.monotonic() - started
            # The one output's elements end where its map entry does, just before the model's spec.
            at = response.find(payload[:4096].tobytes())
            found = np.frombuffer(response, np.uint8, nbytes, at) if at > 0 else np.empty(0, np.uint8)
            answer["is_equal"] = np.array_equal(found, np.frombuffer(payload, np.uint8))
    sys.stdout.write(json.dumps({**answer, "seconds": seconds}) + "\n")


def _message(apis: Any, payload: memoryview) -> bytes:
    """A PredictRequest whose last field is the tensor's content."""
    request = apis.PredictRequest()
    request.model_spec.name = "id_u8"
    tensor = request.inputs["x"]
    tensor.dtype = 4
    tensor.tensor_shape.dim.add(size=len(payload))
    head = tensor.SerializeToString()
    request.ClearField("inputs")
    value = head + b"\x22" + _varint(len(payload))
    entry = b"\x0a\x01x\x12" + _varint(len(value) + len(payload)) + value
    return b"".join(
        [request.SerializeToString(), b"\x12", _varint(len(entry) + len(payload)), entry, payload]
    )


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


if __name__ == "__main__":
    main()
