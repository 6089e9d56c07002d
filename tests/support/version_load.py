# SPDX-License-Identifier: Apache-2.0
"""Clients of models whose version N answers x + N, so that every answer tells which version gave it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import numpy as np

from ovms_mp.front.tfs._proto import tensorflow_framework_pb2 as framework
from ovms_mp.front.tfs._proto import tensorflow_serving_pb2 as serving
from tests.support.load import HUNG_AFTER_S, PREDICT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from tests.support.models import ModelZoo

PAUSE_S = 0.02
"""What a client waits after each answer."""


def install_adder(zoo: ModelZoo, base_path: Path, version: int) -> Path:
    """Put version N of a model that adds N below a base path; it appears at once, by a rename."""
    half_done = base_path.parent / f".{base_path.name}-{version}"
    half_done.mkdir(parents=True)
    original = zoo.base_path("tiny") / "1"
    (half_done / "model.xml").write_bytes((original / "model.xml").read_bytes())
    (half_done / "model.bin").write_bytes(adder_weights(original / "model.bin", version))
    base_path.mkdir(exist_ok=True)
    return half_done.rename(base_path / str(version))


def adder_weights(tiny_weights: Path, addend: int) -> bytes:
    """The weights of ``tiny``, which adds 1, with another addend."""
    one, other = np.float32(1).tobytes(), np.float32(addend).tobytes()
    weights = tiny_weights.read_bytes()
    assert weights.count(one) == 1
    return weights.replace(one, other)


@dataclass(frozen=True)
class Answer:
    """What one request came to; moments are wall-clock seconds, as in the server's log.

    Attributes:
        version: The version that the values tell; 0 for a failure.
        failure: What was wrong, or empty.
    """

    model: str
    protocol: str
    sent_at: float
    answered_at: float
    version: int
    failure: str


class VersionLoad:
    """Clients that ask again and again, a thread and a connection each, half gRPC and half REST, over several models.

    They leave the server room to do what the test waits for.
    """

    def __init__(self, port: int, rest_port: int, models: Sequence[str], clients: int = 16) -> None:
        self.answers: list[Answer] = []
        self._port = port
        self._rest_port = rest_port
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._ask_grpc if index % 2 else self._ask_rest,
                args=(models[index // 2 % len(models)], index),
                daemon=True,
            )
            for index in range(clients)
        ]

    def __enter__(self) -> Self:
        """Start asking."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop asking and wait for the last answers."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(HUNG_AFTER_S + 5.0)
        assert not any(thread.is_alive() for thread in self._threads), "a client thread did not end"

    def failures(self) -> list[Answer]:
        """Everything that was not a right answer."""
        return [answer for answer in list(self.answers) if answer.failure]

    def count(self, model: str, version: int = 0) -> int:
        """Right answers of a model, or of one version of it."""
        return sum(
            answer.model == model and not answer.failure and version in (0, answer.version)
            for answer in list(self.answers)
        )

    def _ask_grpc(self, model: str, seed: int) -> None:
        random = np.random.default_rng(seed)
        with grpc.insecure_channel(
            f"127.0.0.1:{self._port}", options=(("grpc.use_local_subchannel_pool", 1),)
        ) as channel:
            call = channel.unary_unary(
                PREDICT,
                request_serializer=serving.PredictRequest.SerializeToString,
                response_deserializer=serving.PredictResponse.FromString,
            )
            while not self._stopping.wait(PAUSE_S):
                values = random.integers(-1000, 1000, (1, 10)).astype(np.float32)
                request = serving.PredictRequest()
                request.model_spec.name = model
                tensor = request.inputs["x"]
                tensor.dtype = framework.DT_FLOAT
                for size in values.shape:
                    tensor.tensor_shape.dim.add().size = size
                tensor.tensor_content = values.tobytes()
                sent_at = time.time()
                try:
                    response = call(request, timeout=HUNG_AFTER_S)
                except grpc.RpcError as error:
                    self._note(model, "gRPC", sent_at, 0, f"{error.code()}: {error.details()}")
                    continue
                answer = np.frombuffer(response.outputs["y"].tensor_content, np.float32)
                version, failure = _judge(values[0], answer)
                if not failure and response.model_spec.version.value != version:
                    failure = f"answered by {version}, says {response.model_spec.version.value}"
                self._note(model, "gRPC", sent_at, version, failure)

    def _ask_rest(self, model: str, seed: int) -> None:
        random = np.random.default_rng(seed)
        connection = http.client.HTTPConnection("127.0.0.1", self._rest_port, timeout=HUNG_AFTER_S)
        while not self._stopping.wait(PAUSE_S):
            values = random.integers(-1000, 1000, 10)
            body = json.dumps({"instances": [values.tolist()]})
            sent_at = time.time()
            try:
                connection.request("POST", f"/v1/models/{model}:predict", body)
                response = connection.getresponse()
                answered = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._note(model, "REST", sent_at, 0, f"{type(error).__name__}: {error}")
                continue
            if response.status != 200:
                self._note(model, "REST", sent_at, 0, f"{response.status}: {answered[:300]!r}")
                continue
            predictions = np.asarray(json.loads(answered)["predictions"], np.float32)
            self._note(model, "REST", sent_at, *_judge(values.astype(np.float32), predictions[0]))
        connection.close()

    def _note(self, model: str, protocol: str, sent_at: float, version: int, failure: str) -> None:
        self.answers.append(Answer(model, protocol, sent_at, time.time(), version, failure))


def _judge(asked: np.ndarray[tuple[int, ...], np.dtype[np.float32]], got: object) -> tuple[int, str]:
    difference = np.asarray(got, np.float32) - asked
    version = int(difference[0]) if len(difference) else 0
    if version < 1 or not np.array_equal(difference, np.full(10, version, np.float32)):
        return 0, f"asked {asked}, got {got}"
    return version, ""
