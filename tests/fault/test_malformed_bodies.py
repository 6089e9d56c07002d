# SPDX-License-Identifier: Apache-2.0
"""Thousands of random and mutated bodies on each protocol: precise errors, no tracebacks, and it still answers."""

from __future__ import annotations

import http.client
import json
import random
from collections import Counter
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest

from ovms_mp.front.kserve._proto import kserve_pb2 as kserve
from ovms_mp.front.tfs._proto import tensorflow_framework_pb2 as framework
from ovms_mp.front.tfs._proto import tensorflow_serving_pb2 as serving
from tests.support.load import PREDICT, Load
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.models import ModelZoo

BODIES = 5000
"""For each protocol."""
PATHS = (
    PREDICT,
    "/tensorflow.serving.PredictionService/GetModelMetadata",
    "/tensorflow.serving.ModelService/GetModelStatus",
)
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
KSERVE_PATHS = (
    "/inference.GRPCInferenceService/ModelInfer",
    "/inference.GRPCInferenceService/ModelMetadata",
    "/inference.GRPCInferenceService/ModelConfig",
    "/inference.GRPCInferenceService/ModelReady",
)
ALLOWED_CODES = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "UNIMPLEMENTED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
}


def good_request() -> bytes:
    request = serving.PredictRequest()
    request.model_spec.name = "tiny"
    tensor = request.inputs["x"]
    tensor.dtype = framework.DT_FLOAT
    for size in (1, 10):
        tensor.tensor_shape.dim.add().size = size
    tensor.tensor_content = np.arange(10, dtype=np.float32).tobytes()
    return bytes(request.SerializeToString())


def good_infer_request(*, is_raw: bool) -> bytes:
    request = kserve.ModelInferRequest(model_name="tiny", id="i")
    request.parameters["timeout"].int64_param = 10_000_000
    proto = request.inputs.add(name="x", datatype="FP32", shape=[1, 10])
    request.outputs.add(name="y")
    if is_raw:
        request.raw_input_contents.append(np.arange(10, dtype=np.float32).tobytes())
    else:
        proto.contents.fp32_contents.extend(range(10))
    return bytes(request.SerializeToString())


GOOD_JSON = (
    b'{"instances": [[1,2,3,4,5,6,7,8,9,10]]}',
    b'{"inputs": {"x": [[1.5,2,3,4,5,6,7,8,9,1e3]]}, "signature_name": "serving_default"}',
    b'{"instances": [{"x": [1,2,3,4,5,6,7,8,9,10]}]}',
)


def mutated(body: bytes, dice: random.Random) -> bytes:
    """A body with a few bytes changed, cut out, doubled or appended, or altogether random."""
    if dice.random() < 0.1:
        return dice.randbytes(dice.randrange(200))
    data = bytearray(body)
    for _ in range(dice.randrange(1, 6)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(4):
            case 0 if at < len(data):
                data[at] = dice.randrange(256)
            case 1:
                del data[at : at + dice.randrange(8)]
            case 2:
                data[at:at] = data[at : at + dice.randrange(16)]
            case _:
                data[at:at] = dice.randbytes(dice.randrange(4))
    return bytes(data)


@pytest.mark.timeout(360)
def test_bodies_of_all_kinds(zoo: ModelZoo, log_path: Path) -> None:
    server = Server(["model", "--model_name", "tiny", "--model_path", str(zoo.base_path("tiny"))], log_path)
    with server:
        before = server.all_pids()
        codes = ask_grpc(server.port, random.Random(1), PATHS, [good_request()])
        infer_requests = [good_infer_request(is_raw=is_raw) for is_raw in (True, False)]
        kserve_codes = ask_grpc(server.port, random.Random(3), KSERVE_PATHS, infer_requests)
        ask_stream(server.port, random.Random(4), infer_requests)
        statuses = ask_rest(server.rest_port, random.Random(2))
        assert set(codes) <= ALLOWED_CODES, codes
        assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= set(codes), codes
        # A mutated timeout may be a short one.
        assert set(kserve_codes) <= {*ALLOWED_CODES, "DEADLINE_EXCEEDED"}, kserve_codes
        assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= set(kserve_codes), kserve_codes
        assert all(status < 500 or status == 503 for status in statuses), statuses
        assert {200, 400} <= set(statuses), statuses
        # The same processes still answer, and right.
        assert server.all_pids() == before
        with Load(server.port, server.rest_port, clients=4, pause_s=0.01) as load:
            eventually(lambda: load.right_answers() > 100, 20.0, "right answers afterwards")
        assert set(load.outcome.counts) == {"right"}, load.outcome
        assert "Traceback" not in server.log()


def ask_grpc(port: int, dice: random.Random, paths: Sequence[str], good: Sequence[bytes]) -> Counter[str]:
    codes: Counter[str] = Counter()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        calls = [channel.unary_unary(path, None, None) for path in paths]
        for _ in range(BODIES):
            call = calls[0] if dice.random() < 0.9 else dice.choice(calls)
            details = "no error"
            try:
                call(mutated(dice.choice(good), dice), timeout=20)
                codes["OK"] += 1
            except grpc.RpcError as error:
                codes[error.code().name] += 1
                details = error.details() or ""
            assert details
            assert "Traceback" not in details
    return codes


def ask_stream(port: int, dice: random.Random, good: Sequence[bytes]) -> None:
    """Each message has its answer, whatever it is."""
    bodies = [mutated(dice.choice(good), dice) for _ in range(BODIES)]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answers = list(channel.stream_stream(STREAM, None, None)(iter(bodies), timeout=100))
    assert len(answers) == len(bodies)
    texts = [kserve.ModelStreamInferResponse.FromString(answer).error_message for answer in answers]
    assert {bool(text) for text in texts} == {True, False}
    assert not any("Traceback" in text for text in texts)


def ask_rest(port: int, dice: random.Random) -> Counter[int]:
    statuses: Counter[int] = Counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for _ in range(BODIES):
        connection.request("POST", "/v1/models/tiny:predict", mutated(dice.choice(GOOD_JSON), dice))
        response = connection.getresponse()
        body = response.read()
        statuses[response.status] += 1
        if response.status != 200:
            document = json.loads(body)
            assert list(document) == ["error"]
            assert document["error"]
            assert "Traceback" not in document["error"]
    connection.close()
    return statuses
