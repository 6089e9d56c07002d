# SPDX-License-Identifier: Apache-2.0
"""Requests whose values crash the engine, or have it make outputs of any size: who sends them is told, nobody else is.

Under load on both protocols, with two fronts of each.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import psutil
import pytest

from ovms_mp.front.tfs._proto import tensorflow_framework_pb2 as framework
from ovms_mp.front.tfs._proto import tensorflow_serving_pb2 as serving
from tests.support import rest_client
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.load import PREDICT, Load
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.models import ModelCache, ModelZoo

MIB = 1 << 20
FAR_OUT = 10**9
LIMIT_MB = 32
BACK_WITHIN_S = 30.0
MODELS = ("pick", "place", "spread", "tile", "count")


@dataclass(frozen=True)
class Answer:
    """What a client was told: the gRPC code's name, and the values or the text."""

    code: str
    text: str
    values: Any = None


HTTP_CODES = {200: "OK", 413: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE"}


def ask_rest(server: Server, model: str, values: Any) -> Answer:
    """On a connection of its own, so that any front may answer."""
    body = json.dumps({"inputs": values})
    reply = rest_client.request(server.rest_port, "POST", f"/v1/models/{model}:predict", body)
    code = HTTP_CODES[reply.status]
    return Answer(code, "", reply.json()["outputs"]) if code == "OK" else Answer(code, reply.text())


def predict_request(model: str, values: Any) -> serving.PredictRequest:
    array = np.asarray(values, np.int32)
    request = serving.PredictRequest()
    request.model_spec.name = model
    tensor = request.inputs["n" if model in ("spread", "tile", "count") else "i"]
    tensor.dtype = framework.DT_INT32
    for size in array.shape:
        tensor.tensor_shape.dim.add().size = size
    tensor.tensor_content = array.tobytes()
    return request


def ask_grpc(server: Server, model: str, values: Any) -> Answer:
    request = predict_request(model, values)
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
    with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        call = channel.unary_unary(
            PREDICT,
            request_serializer=serving.PredictRequest.SerializeToString,
            response_deserializer=serving.PredictResponse.FromString,
        )
        try:
            response = call(request, timeout=60)
        except grpc.RpcError as error:
            return Answer(error.code().name, error.details() or "")
    dtype = np.int32 if model == "count" else np.float32
    return Answer("OK", "", np.frombuffer(response.outputs["y"].tensor_content, dtype).tolist())


ASKS = (ask_rest, ask_grpc)


def status_of(server: Server, model: str) -> tuple[str, str]:
    """State and message of the only version."""
    reply = rest_client.request(server.rest_port, "GET", f"/v1/models/{model}").json()
    (version,) = reply["model_version_status"]
    return version["state"], version["status"]["error_message"]


def is_served(server: Server, model: str) -> bool:
    return status_of(server, model)[0] == "AVAILABLE"


@pytest.fixture(scope="module")
def models(zoo: ModelZoo, model_cache: ModelCache) -> dict[str, Path]:
    root = model_cache.get("tests.support.build_crash_models")
    return {
        "tiny": zoo.base_path("tiny"),
        "slow": zoo.base_path("slow"),
        **{name: root / name for name in MODELS},
    }


def make_server(models: dict[str, Path], directory: Path, *flags: str, batching: Any = "auto") -> Server:
    config = directory / "config.json"
    entries = [
        {"config": {"name": name, "base_path": str(path), "batching": batching}}
        for name, path in models.items()
    ]
    config.write_text(json.dumps({"model_config_list": entries}))
    return Server(
        [
            *("config", "--config_path", str(config), "--retry_window_s", "30"),
            *("--max_message_mb", str(LIMIT_MB), "--arena_size_mb", "256"),
            *flags,
        ],
        directory / "server.log",
        grpc_workers=2,
        rest_workers=2,
    )


@pytest.fixture(scope="module")
def server(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """For tests that no process dies in."""
    before = Ledger.take()
    with make_server(models, tmp_path_factory.mktemp("crash")) as server:
        yield server
    assert_nothing_left(before)


@pytest.mark.parametrize("grpc_front", ["native", "grpcio"])
def test_it_fails_alone_and_every_front_refuses_it_from_then_on(
    models: dict[str, Path], tmp_path: Path, grpc_front: str
) -> None:
    """No other request fails, and only one worker dies of it."""
    served = {name: models[name] for name in ("tiny", "pick", "place")}
    with make_server(served, tmp_path, "--grpc_front", grpc_front) as server:
        with Load(server.port, server.rest_port, clients=4, pause_s=0.01) as load:
            for first, model, bad, good in (
                (ask_rest, "pick", [[FAR_OUT]], [[2]]),
                (ask_grpc, "place", [[0, FAR_OUT]], [[1, 0]]),
            ):
                before = load.right_answers()
                eventually(lambda n=before: load.right_answers() > n + 50, BACK_WITHIN_S, "under load")  # type: ignore[misc]
                eventually(lambda m=model: is_served(server, m), BACK_WITHIN_S, "served")  # type: ignore[misc]
                (worker,) = server.pids("worker")
                answer = first(server, model, bad)
                assert answer.code == "INTERNAL", answer
                assert f"model '{model}' version 1" in answer.text
                assert "SIGSEGV" in answer.text
                (after,) = eventually(
                    lambda w=worker: [pid for pid in server.pids("worker") if pid != w],  # type: ignore[misc]
                    BACK_WITHIN_S,
                    "a successor",
                )
                # The other fronts hear of it from the manager, as all that a right answer from each of them needs.
                before = load.right_answers()
                eventually(lambda n=before: load.right_answers() > n + 50, BACK_WITHIN_S, "service back")  # type: ignore[misc]
                for ask in ASKS * 6:
                    refused = ask(server, model, bad)
                    assert refused.code == "INTERNAL", refused
                    assert "the same inputs" in refused.text
                for ask in ASKS:
                    assert ask(server, model, good).values == [12.0]
                assert server.pids("worker") == [after]
        assert set(load.outcome.counts) == {"right"}, load.outcome


def test_those_that_run_beside_it_are_run_again(models: dict[str, Path], tmp_path: Path) -> None:
    """What runs at a crash is under suspicion and runs again by itself; what waits is innocent. All are answered."""
    answers: list[rest_client.HttpReply] = []

    def ask_slow(port: int, number: int) -> None:
        body = json.dumps({"inputs": [float(number)]})
        answers.append(rest_client.request(port, "POST", "/v1/models/slow:predict", body))

    with make_server({name: models[name] for name in ("tiny", "slow", "pick")}, tmp_path) as server:
        process = psutil.Process(server.pids("worker")[0])
        used = process.cpu_times().user
        clients = [threading.Thread(target=ask_slow, args=(server.rest_port, n)) for n in range(2)]
        for client in clients:
            client.start()
        eventually(lambda: process.cpu_times().user > used + 0.1, BACK_WITHIN_S, "a slow one runs")
        answer = ask_grpc(server, "pick", [[FAR_OUT]])
        for client in clients:
            client.join(60.0)
        assert answer.code == "INTERNAL", answer
        assert "SIGSEGV" in answer.text
        # Once with the slow one beside it, once by itself.
        assert server.log().count("event=crashed") == 2, server.log()
    assert [answer.status for answer in answers] == [200] * 2, answers


def test_one_of_a_batch_is_found_and_the_others_are_answered(models: dict[str, Path], tmp_path: Path) -> None:
    """Each of them is under suspicion, and runs by itself in a successor."""
    with make_server(
        {name: models[name] for name in ("tiny", "pick")}, tmp_path, batching={"max": 8}
    ) as server:
        options = (("grpc.use_local_subchannel_pool", 1),)
        with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
            call = channel.unary_unary(
                PREDICT,
                request_serializer=serving.PredictRequest.SerializeToString,
                response_deserializer=serving.PredictResponse.FromString,
            )
            requests = [predict_request("pick", [[number % 4]]) for number in range(40)]
            requests[20] = predict_request("pick", [[FAR_OUT]])
            futures = [call.future(request, timeout=60) for request in requests]
            for number, future in enumerate(futures):
                if number == 20:
                    assert future.code().name == "INTERNAL"
                    assert "SIGSEGV" in (future.details() or "")
                else:
                    values = np.frombuffer(future.result().outputs["y"].tensor_content, np.float32)
                    assert values.tolist() == [10.0 + number % 4]
        assert "batching=8" in server.log()


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("model", ["spread", "tile", "count"])
def test_outputs_of_any_size_are_refused_and_their_memory_is_given_back(
    server: Server, model: str, ask: Any
) -> None:
    eventually(lambda: is_served(server, model), BACK_WITHIN_S, "served")
    few: Any = 3 if model == "count" else [3]
    many: Any = 80 * MIB if model == "count" else [(20 if model == "tile" else 80) * MIB]
    fits: Any = 2 * MIB if model == "count" else [(MIB // 2) if model == "tile" else 2 * MIB]
    assert len(ask(server, model, few).values) == (12 if model == "tile" else 3)
    processes = [psutil.Process(pid) for pid in server.all_pids()]
    before = {process.pid: process.memory_info().rss for process in processes}
    with Load(server.port, server.rest_port, clients=2, pause_s=0.01) as load:
        answer = ask(server, model, many)
        assert len(ask(server, model, fits).values) == 2 * MIB
    assert answer.code == "RESOURCE_EXHAUSTED", answer
    assert f"{320 * MIB} bytes" in answer.text
    assert f"the limit is {LIMIT_MB * MIB}" in answer.text
    assert "--max_message_mb" in answer.text
    assert set(load.outcome.counts) == {"right"}, load.outcome

    def grown() -> list[tuple[int, int]]:
        return [
            (process.pid, (process.memory_info().rss - before[process.pid]) // MIB)
            for process in processes
            if process.memory_info().rss - before[process.pid] > 96 * MIB
        ]

    eventually(lambda: not grown(), BACK_WITHIN_S, f"memory given back; {grown()}")


def test_an_answer_that_is_too_long_as_text_is_refused(server: Server) -> None:
    eventually(lambda: is_served(server, "count"), BACK_WITHIN_S, "served")
    answer = ask_rest(server, "count", 7 * MIB)
    assert answer.code == "RESOURCE_EXHAUSTED", answer
    assert "as JSON" in answer.text
    assert len(ask_grpc(server, "count", 7 * MIB).values) == 7 * MIB


def test_a_version_that_kills_again_and_again_gets_a_worker_of_its_own(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """Its neighbours are not interrupted any more; its own worker comes back after a pause, which the status tells."""
    with make_server({name: models[name] for name in ("tiny", "pick")}, tmp_path) as server:
        with Load(server.port, server.rest_port, clients=4, pause_s=0.01) as load:
            for number in range(3):
                answer = ASKS[number % 2](server, "pick", [[FAR_OUT + number]])
                assert answer.code == "INTERNAL", answer
            eventually(lambda: len(server.pids("worker")) == 2, BACK_WITHIN_S, "a second worker")
            eventually(lambda: is_served(server, "pick"), BACK_WITHIN_S, "served again")
            before = load.right_answers()
            eventually(lambda: load.right_answers() > before + 50, BACK_WITHIN_S, "load under way")
            _, message = status_of(server, "pick")
            assert "crashed the inference worker 3 times (the last one: killed by signal 11" in message
            assert "worker of its own" in message
            assert status_of(server, "tiny") == ("AVAILABLE", "")
            assert [ask(server, "pick", [[1]]).values for ask in ASKS] == [[11.0], [11.0]]
            workers = server.pids("worker")

            answers = [ASKS[number % 2](server, "pick", [[FAR_OUT + 10 + number]]) for number in range(8)]
            assert {answer.code for answer in answers} == {"INTERNAL", "UNAVAILABLE"}
            paused = next(answer for answer in answers if answer.code == "UNAVAILABLE")
            assert "is started again" in paused.text
            state, message = status_of(server, "pick")
            assert state == "LOADING"
            assert "is started again" in message
            (shared,) = set(workers) & set(server.pids("worker"))
            assert psutil.Process(shared).is_running()

            eventually(lambda: is_served(server, "pick"), BACK_WITHIN_S, "back after the pause")
            assert [ask(server, "pick", [[3]]).values for ask in ASKS] == [[13.0], [13.0]]
            assert shared in server.pids("worker")
        assert set(load.outcome.counts) == {"right"}, load.outcome
