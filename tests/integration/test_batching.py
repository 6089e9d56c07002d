# SPDX-License-Identifier: Apache-2.0
"""Requests over three protocols at once run together, and each gets what OpenVINO answers to it alone, to the bit."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest

from ovms_mp.front.kserve._proto import kserve_pb2 as kserve
from ovms_mp.front.tfs._proto import tensorflow_framework_pb2 as framework
from ovms_mp.front.tfs._proto import tensorflow_serving_pb2 as serving
from tests.support import kserve_rest, rest_client
from tests.support.models import infer_directly
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ovms_mp.model.dtypes import AnyArray
    from tests.support.models import ModelCache

PREDICT = "/tensorflow.serving.PredictionService/Predict"
INFER = "/inference.GRPCInferenceService/ModelInfer"
AT_ONCE, TIMES = 24, 6
THREADS = 4
FOREIGN = {"tfs": -3.0, "kserve": 0.5, "rest": 11.0}
"""Around what the inputs of each protocol are, so that bytes of another one's would show."""


@pytest.fixture(scope="module")
def models(model_cache: ModelCache) -> Path:
    return model_cache.get("tests.support.build_batch_models")


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("batching")
    entry = {"name": "mlp", "base_path": str(models / "mlp"), "batching": {"max": 8}}
    config = directory / "config.json"
    config.write_text(json.dumps({"model_config_list": [{"config": entry}]}))
    arguments = ["--config_path", str(config), "--metrics_enable"]
    with Server(arguments, directory / "log", grpc_workers=2) as server:
        yield server


def given(protocol: str) -> AnyArray:
    noise = np.random.default_rng(5).standard_normal((1, 64))
    return (FOREIGN[protocol] + noise).astype(np.float32)


def over_grpc(
    server: Server, path: str, request: bytes, read: Callable[[bytes], bytes], found: list[bytes]
) -> None:
    with grpc.insecure_channel(
        f"127.0.0.1:{server.port}", options=(("grpc.use_local_subchannel_pool", 1),)
    ) as channel:
        method = channel.unary_unary(path, request_serializer=None, response_deserializer=None)
        for _ in range(TIMES):
            calls = [method.future(request, timeout=60) for _ in range(AT_ONCE)]
            found += [read(call.result()) for call in calls]


def over_rest(server: Server, array: AnyArray, found: list[bytes]) -> None:
    for _ in range(AT_ONCE):
        reply = kserve_rest.infer(server.rest_port, "mlp", {"x": array}, is_binary=True)
        found.append(kserve_rest.outputs(reply)["y"].astype(np.float32).tobytes())


def tfs_request(array: AnyArray) -> bytes:
    request = serving.PredictRequest()
    request.model_spec.name = "mlp"
    tensor = request.inputs["x"]
    tensor.dtype = framework.DT_FLOAT
    for size in array.shape:
        tensor.tensor_shape.dim.add().size = size
    tensor.tensor_content = array.tobytes()
    return request.SerializeToString()


def tfs_output(response: bytes) -> bytes:
    tensor = serving.PredictResponse.FromString(response).outputs["y"]
    return tensor.tensor_content or np.array(tensor.float_val, np.float32).tobytes()


def kserve_request(array: AnyArray) -> bytes:
    request = kserve.ModelInferRequest(model_name="mlp", raw_input_contents=[array.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=array.shape)
    return request.SerializeToString()


def kserve_output(response: bytes) -> bytes:
    return bytes(kserve.ModelInferResponse.FromString(response).raw_output_contents[0])


def test_answers_of_three_protocols_at_once(server: Server, models: Path, tmp_path: Path) -> None:
    arrays = {protocol: given(protocol) for protocol in FOREIGN}
    right = {
        protocol: infer_directly(models / "mlp" / "1" / "model.xml", {"x": array}, tmp_path)["y"].tobytes()
        for protocol, array in arrays.items()
    }
    found: dict[str, list[bytes]] = {protocol: [] for protocol in FOREIGN}
    threads = [
        threading.Thread(target=target, args=arguments)
        for _ in range(THREADS)
        for target, arguments in (
            (over_grpc, (server, PREDICT, tfs_request(arrays["tfs"]), tfs_output, found["tfs"])),
            (over_grpc, (server, INFER, kserve_request(arrays["kserve"]), kserve_output, found["kserve"])),
            (over_rest, (server, arrays["rest"], found["rest"])),
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    for protocol, answers in found.items():
        assert len(answers) == THREADS * AT_ONCE * (1 if protocol == "rest" else TIMES)
        assert set(answers) == {right[protocol]}, protocol
    page = rest_client.request(server.rest_port, "GET", "/metrics").text()
    counts = {
        part: float(line.rpartition(" ")[2])
        for line in page.splitlines()
        for part in ("sum", "count")
        if line.startswith(f"ovms_mp_requests_per_inference_{part}{{")
    }
    assert counts["sum"] == sum(map(len, found.values()))
    assert counts["count"] < counts["sum"], "some ran together"
