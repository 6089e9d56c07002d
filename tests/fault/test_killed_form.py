# SPDX-License-Identifier: Apache-2.0
"""A worker that is killed while it compiles a second form of a version, under load."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import grpc
import numpy as np

from ovms_mp.front.tfs._proto import tensorflow_framework_pb2 as framework
from ovms_mp.front.tfs._proto import tensorflow_serving_pb2 as serving
from tests.support.injection import Injection
from tests.support.load import PREDICT
from tests.support.server import Server
from tests.support.status import local_status
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.models import ModelCache

CHECK = "ovms_mp.worker.load.forms:FormLoader._check"
"""What is done once the form is compiled, and before it is in use."""
MOST_ROUNDS = 400
WITHIN_S = 60.0


class Asked:
    """A model that is asked for several answers at once, which OpenVINO has given before."""

    def __init__(self, channel: grpc.Channel, answers: Path) -> None:
        self._method = channel.unary_unary(
            PREDICT,
            request_serializer=serving.PredictRequest.SerializeToString,
            response_deserializer=serving.PredictResponse.FromString,
        )
        with np.load(answers) as arrays:
            self._requests = [self._request(array) for array in arrays["inputs"]]
            self._right = [array.tobytes() for array in arrays["answers"]]

    @staticmethod
    def _request(array: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> serving.PredictRequest:
        request = serving.PredictRequest()
        request.model_spec.name = "images"
        tensor = request.inputs["x"]
        tensor.dtype = framework.DT_FLOAT
        for size in array.shape:
            tensor.tensor_shape.dim.add().size = size
        tensor.tensor_content = array.tobytes()
        return request

    def ask(self, meanwhile: int = 0) -> None:
        """All at once; a worker that is to be killed is, while they are under way. Each gets its right answer."""
        calls = [self._method.future(request, timeout=WITHIN_S) for request in self._requests]
        if meanwhile:
            os.kill(meanwhile, signal.SIGKILL)
        for call, right in zip(calls, self._right, strict=True):
            tensor = call.result().outputs["y"]
            assert (tensor.tensor_content or np.array(tensor.float_val, np.float32).tobytes()) == right


def test_a_worker_killed_while_it_compiles_a_second_form(model_cache: ModelCache, tmp_path: Path) -> None:
    models = model_cache.get("tests.support.build_form_models")
    config = tmp_path / "config.json"
    entry = {"name": "images", "base_path": str(models / "images"), "batching": "off"}
    config.write_text(json.dumps({"model_config_list": [{"config": entry}]}))
    injection = Injection(tmp_path / "faults", [CHECK])
    flags = ["--config_path", str(config), "--retry_window_s", "60"]
    with (
        Server(flags, tmp_path / "log", injection.environment) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        asked = Asked(channel, models / "images.npz")
        (killed,) = server.pids("worker")
        injection.arm_stay(CHECK)
        for _ in range(MOST_ROUNDS):
            if injection.fired(CHECK):
                break
            asked.ask()
        asked.ask()  # It serves meanwhile.
        asked.ask(killed)

        eventually(lambda: server.pids("worker") not in ([], [killed]), WITHIN_S, "a new worker")
        for _ in range(20):
            asked.ask()
        assert injection.fired(CHECK) == 1
        log = server.log()
        assert "event=second_form_forbidden model=images version=1" in log
        assert "event=isolated" not in log
        (version,) = local_status(server)["models"]["images"]["versions"]
        assert version["state"] == "AVAILABLE"
        assert "adaptive" not in version["detail"]
        assert (version["failures"], version["cancelled"]) == (0, 0)
