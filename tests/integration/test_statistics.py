# SPDX-License-Identifier: Apache-2.0
"""Statistics over two fronts of each protocol and two workers: what clients have counted themselves, exactly."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from ovms_mp.front.kserve._proto import kserve_pb2 as kserve
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

    from tests.support.models import ModelZoo

INFER = "/inference.GRPCInferenceService/ModelInfer"
STATISTICS = "/inference.GRPCInferenceService/ModelStatistics"
ROUNDS = 40
THREADS = 4
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


class Caller:
    """A connection of its own, to whichever front takes it."""

    def __init__(self, server: Server) -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)
        self._channel = grpc.insecure_channel(f"127.0.0.1:{server.port}", options=options)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def begin(self, path: str, request: bytes, timeout_s: float = 60.0) -> grpc.CallFuture[bytes]:
        """Octets in, octets out."""
        method = self._channel.unary_unary(path, request_serializer=None, response_deserializer=None)
        return method.future(request, timeout=timeout_s, wait_for_ready=True)

    def ask(self, path: str, request: bytes, timeout_s: float = 60.0) -> grpc.StatusCode:
        """The status."""
        call = self.begin(path, request, timeout_s)
        try:
            call.result()
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def statistics(self, name: str = "", version: str = "") -> dict[str, kserve.ModelStatistics]:
        """By ``model/version``."""
        request = kserve.ModelStatisticsRequest(name=name, version=version).SerializeToString()
        answer = kserve.ModelStatisticsResponse.FromString(self.begin(STATISTICS, request).result())
        return {f"{entry.name}/{entry.version}": entry for entry in answer.model_stats}


def tfs(model: str, rows: int, columns: int) -> bytes:
    request = serving.PredictRequest()
    request.model_spec.name = model
    tensor = request.inputs["x"]
    tensor.dtype = framework.DT_FLOAT
    for size in (rows, columns):
        tensor.tensor_shape.dim.add().size = size
    tensor.tensor_content = bytes(4 * rows * columns)
    return request.SerializeToString()


def v2(model: str, *shape: int) -> bytes:
    request = kserve.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=shape)
    request.raw_input_contents.append(bytes(4 * int(np.prod(shape))))
    return request.SerializeToString()


def status_of_all_fronts(server: Server) -> dict[str, Any]:
    """What both REST fronts say; nothing while one of them has not heard of the last change yet."""
    first, *others = [rest_client.request(server.rest_port, "GET", "/v1/status").json() for _ in range(4)]
    return first if all(other == first for other in others) else {}


def found_by_all(server: Server, name: str, version: str) -> dict[str, kserve.ModelStatistics]:
    """What many connections are told; nothing while a run that nobody waits for ends between two of them."""
    found = []
    for _ in range(8):
        with Caller(server) as caller:
            found.append(caller.statistics(name, version))
    told = [{key: without_moment(entry) for key, entry in each.items()} for each in found]
    path = (
        "/v2/models" + (f"/{name}" if name else "") + (f"/versions/{version}" if version else "") + "/stats"
    )
    told_by_rest = [
        [
            (entry["name"], entry["version"], entry["inference_stats"]["success"], entry["execution_count"])
            for entry in rest_client.request(server.rest_port, "GET", path).json()["model_stats"]
        ]
        for _ in range(4)
    ]
    wanted = [
        (entry.name, entry.version, {"count": success.count, "ns": success.ns}, entry.execution_count)
        for entry in found[0].values()
        for success in (entry.inference_stats.success,)
    ]
    agree = all(other == told[0] for other in told) and all(other == wanted for other in told_by_rest)
    return found[0] if agree else {}


def all_agree(server: Server, name: str = "", version: str = "") -> dict[str, kserve.ModelStatistics]:
    """Statistics from many connections, which both gRPC fronts have a part of; they must say the same."""
    found = eventually(partial(found_by_all, server, name, version), 20.0, "all fronts say the same")
    status = eventually(partial(status_of_all_fronts, server), 20.0, "fronts tell of the same state")
    for key, entry in found.items():
        model, _, number = key.rpartition("/")
        (version_status,) = [
            row for row in status["models"][model]["versions"] if row["version"] == int(number)
        ]
        stats = entry.inference_stats
        assert version_status["requests"] == stats.success.count + stats.fail.count
        assert version_status["failures"] + version_status["cancelled"] == stats.fail.count
    return found


def listed(server: Server) -> set[tuple[str, ...]]:
    """The versions that fronts tell statistics of, which may not be the same while they change."""
    found = set()
    for _ in range(8):
        with Caller(server) as caller:
            found.add(tuple(sorted(entry.version for entry in caller.statistics().values())))
        document = rest_client.request(server.rest_port, "GET", "/v2/models/stats").json()
        found.add(tuple(sorted(entry["version"] for entry in document["model_stats"])))
    return found


def without_moment(entry: kserve.ModelStatistics) -> kserve.ModelStatistics:
    """The moment is derived from two clocks whenever somebody asks."""
    copy = kserve.ModelStatistics()
    copy.CopyFrom(entry)
    copy.last_inference = 0
    return copy


def counts(entry: kserve.ModelStatistics) -> tuple[int, int]:
    return entry.inference_stats.success.count, entry.inference_stats.fail.count


@pytest.fixture
def server(zoo: ModelZoo, tmp_path: Path) -> Iterator[Server]:
    """Two fronts of each protocol, two workers."""
    config = zoo.config_file(tmp_path, ["tiny", "batch", "slow"])
    before = Ledger.take()
    arguments = ["config", "--config_path", str(config), "--cpu_workers", "2"]
    with Server(arguments, tmp_path / "server.log", grpc_workers=2, rest_workers=2) as made:
        yield made
        assert made.stop() == 0
    assert_nothing_left(before)


def wait_for_answers(load: Load, more: int) -> None:
    wanted = load.right_answers() + more
    eventually(lambda: load.right_answers() > wanted, 60.0, "answers go on")


def kill_one(server: Server, kind: str, load: Load) -> int:
    """One of two processes of a kind dies and gets a successor; the other one, for which nothing changes."""
    victim, other = server.pids(kind)
    os.kill(victim, signal.SIGKILL)
    wait_for_answers(load, 200)

    def is_replaced() -> bool:
        pids = server.pids(kind)
        return len(pids) == 2 and victim not in pids

    eventually(is_replaced, 60.0, "there is a successor")
    return other


def ask_all_kinds(server: Server, index: int, seen: Counter[str]) -> None:
    """A thread's share: every protocol, answers and failures."""
    rng = np.random.default_rng(index)
    for _ in range(ROUNDS):
        with Caller(server) as caller:
            rows = int(rng.integers(1, 6))
            expected = {
                "tiny ok": [(PREDICT, tfs("tiny", 1, 10)), (INFER, v2("tiny", 1, 10))],
                "batch ok": [(PREDICT, tfs("batch", rows, 4)), (INFER, v2("batch", rows, 4))],
                "tiny fail": [(PREDICT, tfs("tiny", 1, 9)), (INFER, v2("tiny", 1, 9))],
                "batch fail": [(INFER, v2("batch", rows, 3))],
                "nobody's": [(PREDICT, tfs("none", 1, 1)), (INFER, v2("none", 1)), (INFER, b"\xff")],
            }
            for kind, requests in expected.items():
                for path, request in requests:
                    status = caller.ask(path, request)
                    if kind.endswith("ok"):
                        assert status is grpc.StatusCode.OK
                    else:
                        assert status in ((NOT_FOUND, INVALID) if kind == "nobody's" else (INVALID,))
                    seen[kind] += 1
            seen["batch rows"] += 2 * rows
        for body, kind, status_code in (
            (
                {"inputs": [{"name": "x", "shape": [1, 10], "datatype": "FP32", "data": [1.0] * 10}]},
                "tiny v2",
                200,
            ),
            (
                {"inputs": [{"name": "x", "shape": [1, 9], "datatype": "FP32", "data": [1.0] * 9}]},
                "tiny v2",
                400,
            ),
            ({"instances": [[1.0] * 10]}, "tiny ok", 200),
            ({"instances": [[1.0] * 9]}, "tiny fail", 400),
            (b"{no json", "tiny fail", 400),
        ):
            if kind == "tiny v2":
                text = json.dumps(body).encode()
                reply = rest_client.request(server.rest_port, "POST", "/v2/models/tiny/infer", text)
                kind = "tiny ok" if status_code == 200 else "tiny fail"
            elif isinstance(body, bytes):
                reply = rest_client.request(server.rest_port, "POST", "/v1/models/tiny:predict", body)
            else:
                reply = rest_client.predict(server.rest_port, "tiny", body)
            assert reply.status == status_code, reply.text
            seen[kind] += 1


def test_totals_are_what_clients_have_counted(server: Server) -> None:
    tallies = [Counter[str]() for _ in range(THREADS)]
    failures: list[BaseException] = []

    def run(index: int) -> None:
        try:
            ask_all_kinds(server, index, tallies[index])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures, failures[0]
    seen = sum(tallies, Counter[str]())
    found = all_agree(server)
    tiny, batch = found["tiny/1"], found["batch/1"]
    assert counts(tiny) == (seen["tiny ok"], seen["tiny fail"])
    assert counts(batch) == (seen["batch ok"], seen["batch fail"])
    assert counts(found["slow/1"]) == (0, 0)
    assert (tiny.inference_count, batch.inference_count) == (seen["tiny ok"], seen["batch rows"])
    # Requests that wait together may run together.
    assert 0 < tiny.execution_count <= seen["tiny ok"]
    assert 0 < batch.execution_count <= seen["batch ok"]
    assert (
        sum(entry.batch_size * entry.compute_infer.count for entry in batch.batch_stats) == seen["batch rows"]
    )
    for entry in (tiny, batch):
        stats = entry.inference_stats
        for part in (stats.queue, stats.compute_input, stats.compute_infer, stats.compute_output):
            assert part.count == stats.success.count
        parts = (stats.compute_input, stats.compute_infer, stats.compute_output, stats.queue)
        assert 0 < sum(part.ns for part in parts) < stats.success.ns
        assert stats.fail.ns > 0
        assert entry.last_inference > 1_700_000_000_000


def test_deadlines_and_cancelled_calls_are_failures(server: Server) -> None:
    request = v2("slow", 1)
    with Caller(server) as caller:
        assert caller.ask(INFER, request) is grpc.StatusCode.OK
        late = [caller.begin(INFER, request, 0.1) for _ in range(4)]
        left = [caller.begin(INFER, request) for _ in range(3)]
        for call in late:
            with pytest.raises(grpc.RpcError) as caught:
                call.result()
            # At once, where the server knows already how long those before it take.
            assert caught.value.code() in (
                grpc.StatusCode.DEADLINE_EXCEEDED,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
            )
        for call in left:
            call.cancel()  # type: ignore[no-untyped-call]  # the stubs leave it untyped
        assert caller.ask(INFER, request) is grpc.StatusCode.OK

        def all_have_ended() -> bool:
            return counts(caller.statistics("slow")["slow/1"]) == (2, 7)

        eventually(all_have_ended, 30.0, "every request has ended, and counts once")
    slow = all_agree(server, "slow", "1")["slow/1"]
    assert 2 <= slow.execution_count <= 9
    assert counts(slow) == (2, 7)


def test_a_worker_s_death_changes_no_total(server: Server) -> None:
    with Load(server.port, server.rest_port, clients=8) as load:
        for _ in range(3):
            other = kill_one(server, "worker", load)
            assert other in server.pids("worker")
    seen = load.outcome.counts
    assert set(seen) <= {"right", "unavailable"}, load.outcome
    tiny = all_agree(server)["tiny/1"]
    assert counts(tiny) == (seen["right"], seen["unavailable"])
    assert tiny.inference_count == seen["right"]


def test_a_front_s_death_loses_no_answer_that_a_client_has_seen(server: Server) -> None:
    with Load(server.port, server.rest_port, clients=8) as load:
        for kind in ("grpc", "rest", "grpc", "rest"):
            kill_one(server, kind, load)
    seen = load.outcome.counts
    assert set(seen) <= {"right", "unavailable", "reset", "turned_away"}, load.outcome
    answered, failed = counts(all_agree(server)["tiny/1"])
    lost = sum(seen.values()) - seen["right"]
    assert seen["right"] <= answered <= seen["right"] + lost
    assert failed <= lost


def test_a_reload_goes_on_counting_and_an_unloaded_version_is_forgotten(
    zoo: ModelZoo, tmp_path: Path
) -> None:
    base_path = tmp_path / "tiny"
    zoo.install("tiny", base_path, 1)
    arguments = ["model", "--model_name", "tiny", "--model_path", str(base_path), "--settle_s", "0.2"]
    with Server(arguments, tmp_path / "server.log", grpc_workers=2, rest_workers=2) as server:
        with Load(server.port, server.rest_port, clients=8) as load:
            eventually(lambda: load.right_answers() > 100, 60.0, "answers come")
            for round_number in range(2):
                for path in (base_path / "1").iterdir():
                    os.utime(path, (1_700_000_000 + round_number, 1_700_000_000 + round_number))
                reply = rest_client.request(server.rest_port, "POST", "/v1/config/reload", timeout_s=60.0)
                assert reply.status == 201, reply.text
                wait_for_answers(load, 100)
        seen = load.outcome.counts
        assert set(seen) == {"right"}, load.outcome
        assert server.log().count("event=loaded model=tiny version=1") == 3
        assert counts(all_agree(server)["tiny/1"]) == (seen["right"], 0)

        zoo.install("tiny", base_path, 2)
        eventually(lambda: listed(server) == {("2",)}, 60.0, "version 2 serves in place of 1")
        assert set(all_agree(server)) == {"tiny/2"}
        with Caller(server) as caller:
            assert counts(caller.statistics("tiny")["tiny/2"]) == (0, 0)
            asked = kserve.ModelStatisticsRequest(name="tiny", version="1").SerializeToString()
            assert caller.ask(STATISTICS, asked) is NOT_FOUND
            assert caller.ask(PREDICT, tfs("tiny", 1, 10)) is grpc.StatusCode.OK
            assert counts(caller.statistics()["tiny/2"]) == (1, 0)
