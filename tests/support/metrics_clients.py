# SPDX-License-Identifier: Apache-2.0
"""Clients that keep count of what they have asked and heard, by OVMS's labels, and the page to compare that with."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import grpc
from prometheus_client.parser import text_string_to_metric_families

from ovms_mp.front.kserve._proto import kserve_pb2 as kserve
from ovms_mp.front.tfs._proto import tensorflow_framework_pb2 as framework
from ovms_mp.front.tfs._proto import tensorflow_serving_pb2 as serving
from tests.support import rest_client
from tests.support.load import PREDICT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

V2 = "/inference.GRPCInferenceService"
INFER = f"{V2}/ModelInfer"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
_JSON = json.dumps({"instances": [[1.0] * 10]})
_V2_JSON = json.dumps({"inputs": [{"name": "x", "shape": [1, 10], "datatype": "FP32", "data": [1.0] * 10}]})
_OF_TRANSPORT = ("socket", "recvmsg", "reset", "connection", "goaway", "sendmsg", "transport", "broken pipe")
"""In texts of grpcio's own for a broken connection; everything else the server has said."""


class Kind(NamedTuple):
    """The labels of a call."""

    api: str
    interface: str
    method: str


def tfs(model: str, columns: int = 10) -> bytes:
    """A PredictRequest of one row."""
    request = serving.PredictRequest()
    request.model_spec.name = model
    tensor = request.inputs["x"]
    tensor.dtype = framework.DT_FLOAT
    for size in (1, columns):
        tensor.tensor_shape.dim.add().size = size
    tensor.tensor_content = bytes(4 * columns)
    return request.SerializeToString()


def v2(model: str, *shape: int) -> bytes:
    """A ModelInferRequest of zeros."""
    request = kserve.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=shape)
    count = 1
    for size in shape:
        count *= size
    request.raw_input_contents.append(bytes(4 * count))
    return request.SerializeToString()


def _metadata(model: str) -> bytes:
    request = serving.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = model
    return request.SerializeToString()


def _status(model: str) -> bytes:
    request = serving.GetModelStatusRequest()
    request.model_spec.name = model
    return request.SerializeToString()


class Tally:
    """What one client knows: answers, refusals, and calls of which it cannot know whether they were counted."""

    def __init__(self) -> None:
        self.answered: Counter[Kind] = Counter()
        self.refused: Counter[Kind] = Counter()
        self.lost: Counter[Kind] = Counter()
        self.asked = 0

    def add(self, other: Tally) -> None:
        """Count another client's in."""
        self.answered += other.answered
        self.refused += other.refused
        self.lost += other.lost
        self.asked += other.asked


class GrpcClient:
    """One connection, to whichever front takes it; another one after it broke."""

    def __init__(self, port: int, tally: Tally) -> None:
        self._port = port
        self._tally = tally
        self._channel = self._connect()

    def _connect(self) -> grpc.Channel:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
        return grpc.insecure_channel(f"127.0.0.1:{self._port}", options=options)

    def ask(self, kind: Kind, path: str, message: bytes) -> None:
        """Send a message and count what becomes of it."""
        method = self._channel.unary_unary(path, request_serializer=None, response_deserializer=None)
        self._tally.asked += 1
        try:
            method(message, timeout=60.0, wait_for_ready=True)
        except grpc.RpcError as error:
            details = (error.details() or "").lower()
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL) and any(
                text in details for text in _OF_TRANSPORT
            ):
                self._tally.lost[kind] += 1
                self._channel.close()
                self._channel = self._connect()
            else:
                self._tally.refused[kind] += 1
        else:
            self._tally.answered[kind] += 1

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


class RestClient:
    """The same over HTTP."""

    def __init__(self, port: int, tally: Tally) -> None:
        self._tally = tally
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60.0)

    def ask(self, kind: Kind, verb: str, path: str, body: str | None = None) -> None:
        """Send a request and count what becomes of it."""
        self._tally.asked += 1
        try:
            self._connection.request(verb, path, body)
            reply = self._connection.getresponse()
            reply.read()
        except (OSError, http.client.HTTPException):
            self._tally.lost[kind] += 1
            self._connection.close()
        else:
            (self._tally.answered if reply.status == 200 else self._tally.refused)[kind] += 1

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def ask_over_grpc(client: GrpcClient, api: str, turn: int) -> None:
    """One of ten calls over gRPC: most are answered, one is refused, some are not about inference."""
    is_tfs = api == "TensorFlowServing"
    infer = Kind(api, "gRPC", "Predict" if is_tfs else "ModelInfer")
    match turn % 10, is_tfs:
        case 3, True:
            client.ask(Kind(api, "gRPC", "GetModelMetadata"), METADATA, _metadata("tiny"))
        case 3, False:
            request = kserve.ModelMetadataRequest(name="tiny").SerializeToString()
            client.ask(Kind(api, "gRPC", "ModelMetadata"), f"{V2}/ModelMetadata", request)
        case 5, True:
            client.ask(Kind(api, "gRPC", "GetModelStatus"), STATUS, _status("tiny"))
        case 5, False:
            request = kserve.ModelReadyRequest(name="tiny").SerializeToString()
            client.ask(Kind(api, "gRPC", "ModelReady"), f"{V2}/ModelReady", request)
        case 7, True:
            client.ask(infer, PREDICT, tfs("tiny", 9))
        case 7, False:
            client.ask(infer, INFER, v2("tiny", 1, 9))
        case _, True:
            client.ask(infer, PREDICT, tfs("tiny"))
        case _:
            client.ask(infer, INFER, v2("tiny", 1, 10))


def ask_over_rest(client: RestClient, api: str, turn: int) -> None:
    """The same over REST."""
    is_tfs = api == "TensorFlowServing"
    root = "/v1/models/tiny" if is_tfs else "/v2/models/tiny"
    infer = Kind(api, "REST", "Predict" if is_tfs else "ModelInfer")
    path = f"{root}:predict" if is_tfs else f"{root}/infer"
    match turn % 10:
        case 3:
            method = "GetModelMetadata" if is_tfs else "ModelMetadata"
            client.ask(Kind(api, "REST", method), "GET", f"{root}/metadata" if is_tfs else root)
        case 5:
            method = "GetModelStatus" if is_tfs else "ModelReady"
            client.ask(Kind(api, "REST", method), "GET", root if is_tfs else f"{root}/ready")
        case 7:
            client.ask(infer, "POST", path, "{no json")
        case _:
            client.ask(infer, "POST", path, _JSON if is_tfs else _V2_JSON)


class MixedLoad:
    """Four clients, one for each API and interface, that ask so many calls in all."""

    def __init__(self, port: int, rest_port: int, calls: int) -> None:
        self._tallies = [Tally() for _ in range(4)]
        self._failures: list[BaseException] = []
        grpc_clients = [GrpcClient(port, tally) for tally in self._tallies[:2]]
        rest_clients = [RestClient(rest_port, tally) for tally in self._tallies[2:]]
        self._threads: list[threading.Thread] = []
        for index, api in enumerate(("TensorFlowServing", "KServe")):
            self._begin(partial(ask_over_grpc, grpc_clients[index], api), calls // 4)
            self._begin(partial(ask_over_rest, rest_clients[index], api), calls // 4)
        self._clients: Sequence[GrpcClient | RestClient] = (*grpc_clients, *rest_clients)

    def _begin(self, ask: Callable[[int], None], calls: int) -> None:
        def run() -> None:
            try:
                for turn in range(calls):
                    ask(turn)
            except BaseException as error:
                self._failures.append(error)

        self._threads.append(threading.Thread(target=run))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for thread in self._threads:
            thread.join()
        for client in self._clients:
            client.close()
        assert not self._failures, self._failures[0]

    @property
    def asked(self) -> int:
        """Calls until now."""
        return sum(tally.asked for tally in self._tallies)

    def total(self) -> Tally:
        """All clients' together, once they have ended."""
        total = Tally()
        for tally in self._tallies:
            total.add(tally)
        return total


class Page:
    """``/metrics``, as Prometheus's own parser reads it."""

    def __init__(self, rest_port: int) -> None:
        reply = rest_client.request(rest_port, "GET", "/metrics")
        assert (reply.status, reply.headers["content-type"]) == (200, "text/plain; version=0.0.4"), (
            reply.text()
        )
        self.families = {
            family.name: family for family in text_string_to_metric_families(reply.body.decode())
        }

    def value(self, sample: str, **labels: str) -> float:
        """The only sample with exactly these labels."""
        family = next(self.families[name] for name in self._families_of(sample))
        (found,) = [entry for entry in family.samples if entry.name == sample and entry.labels == labels]
        return float(found.value)

    def calls(self, sample: str, model: str) -> Mapping[Kind, float]:
        """A counter of calls, by what they were."""
        (name,) = self._families_of(sample)
        return {
            Kind(entry.labels["api"], entry.labels["interface"], entry.labels["method"]): entry.value
            for entry in self.families[name].samples
            if entry.labels["name"] == model
        }

    def _families_of(self, sample: str) -> list[str]:
        names = [sample] + [sample.removesuffix(end) for end in ("_bucket", "_sum", "_count", "_total")]
        return [name for name in dict.fromkeys(names) if name in self.families]
