# SPDX-License-Identifier: Apache-2.0
"""Traces in a real collector, of requests over every protocol. One that is away is not noticed."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from ovms_mp.front.kserve._proto import kserve_pb2 as kserve
from ovms_mp.front.tfs._proto import tensorflow_framework_pb2 as framework
from ovms_mp.front.tfs._proto import tensorflow_serving_pb2 as tfs
from tests.support import rest_client
from tests.support.kserve_client import infer_request
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.server import Server, free_ports
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.models import ModelZoo
    from tests.support.otlp_receiver import Span

WITHIN_S = 20.0
X = np.arange(10, dtype=np.float32)[None]
STAGES = ["decode", "queue", "infer", "encode"]
TFS_PREDICT = "/tensorflow.serving.PredictionService/Predict"
KSERVE_INFER = "/inference.GRPCInferenceService/ModelInfer"
KSERVE_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
HIDDEN = "geheim-4711"
_numbers = itertools.count(1)


def new_trace_id() -> str:
    return f"{next(_numbers) + (0xABC << 64):032x}"


def traceparent(trace_id: str, flags: str = "01") -> str:
    return f"00-{trace_id}-00f067aa0ba902b7-{flags}"


def tfs_predict() -> bytes:
    request = tfs.PredictRequest()
    request.model_spec.name = "tiny"
    tensor = request.inputs["x"]
    tensor.dtype = framework.DT_FLOAT
    for size in X.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = X.tobytes()
    return request.SerializeToString()


def kserve_infer(name: str = "tiny") -> bytes:
    return infer_request(name, {"x": X}, request_id="message-7").SerializeToString()


@contextlib.contextmanager
def connected(server: Server) -> Iterator[Any]:  # Any: a channel's stubs want arguments that have defaults.
    """A client."""
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


def call(server: Server, path: str, request: bytes, metadata: Sequence[tuple[str, str]]) -> dict[str, str]:
    """A unary call; its trailers, with the status."""
    with connected(server) as channel:
        try:
            _, done = channel.unary_unary(path).with_call(request, metadata=metadata, timeout=WITHIN_S)
        except grpc.RpcError as error:
            done = error
        # A failure is a call, too.
        return {"status": done.code().name, **dict(done.trailing_metadata() or ())}


def spans_of(receiver: OtlpReceiver, trace_id: str, count: int) -> list[Span]:
    found: list[Span] = []

    def are_there() -> bool:
        found[:] = receiver.of_trace(trace_id)
        return len(found) >= count

    eventually(are_there, WITHIN_S, f"{count} spans of {trace_id}")
    assert len(found) == count
    return found


def assert_is_inference(spans: list[Span], parent_id: str, model: str = "tiny") -> Span:
    """One call with its stages below it, in their order and within its time."""
    (whole,) = [span for span in spans if span.name not in STAGES]
    stages = [span for span in spans if span is not whole]
    assert [span.name for span in stages] == STAGES
    assert whole.parent_id == parent_id
    assert {span.parent_id for span in stages} == {whole.span_id}
    assert len({span.span_id for span in spans}) == len(spans)
    assert abs(whole.end_ns - time.time_ns()) < 60e9
    ends = [
        whole.start_ns,
        *itertools.chain.from_iterable((s.start_ns, s.end_ns) for s in stages),
        whole.end_ns,
    ]
    assert ends == sorted(ends)
    assert whole.attributes["ovms_mp.model"] == model
    assert (whole.attributes["ovms_mp.version"], whole.attributes["ovms_mp.batch_size"]) == (1, 1)
    assert whole.attributes["client.address"] == "127.0.0.1"
    assert HIDDEN not in repr(spans)
    return whole


def arguments(zoo: ModelZoo, *flags: str) -> list[str]:
    return ["model", "--model_name", "tiny", "--model_path", str(zoo.base_path("tiny")), "--trace", *flags]


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as started:
        yield started


@pytest.fixture(scope="module")
def server(
    zoo: ModelZoo, receiver: OtlpReceiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """With our own HTTP/2 server, JSON lines, and a line for each call."""
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.port}",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
    }
    log = tmp_path_factory.mktemp("tracing") / "server.log"
    flags = arguments(zoo, "--access_log", "all", "--log_format", "JSON")
    with Server(flags, log, environment) as started:
        yield started


def lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log().splitlines()]


def line_of(server: Server, trace_id: str) -> dict[str, Any]:
    """The access log's line of a call."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        found[:] = [line for line in lines(server) if line.get("trace_id") == trace_id]
        return bool(found)

    eventually(is_there, WITHIN_S, f"a line of {trace_id}")
    return found[0]


@pytest.mark.parametrize(
    ("path", "request_of", "protocol"),
    [(TFS_PREDICT, tfs_predict, "tfs"), (KSERVE_INFER, kserve_infer, "kserve")],
)
def test_a_grpc_call_is_one_trace_of_its_clients(
    server: Server, receiver: OtlpReceiver, path: str, request_of: Any, protocol: str
) -> None:
    trace_id = new_trace_id()
    metadata = [
        ("traceparent", traceparent(trace_id)),
        ("tracestate", "vendor=x"),
        ("x-request-id", "req-1"),
        ("authorization", f"Bearer {HIDDEN}"),
    ]
    answer = call(server, path, request_of(), metadata)

    spans = spans_of(receiver, trace_id, 5)
    whole = assert_is_inference(spans, "00f067aa0ba902b7")
    assert (whole.name, whole.kind, whole.state) == (path[1:], 2, "vendor=x")
    assert answer["status"] == "OK"
    assert answer["traceparent"] == f"00-{trace_id}-{whole.span_id}-01"
    assert whole.attributes["rpc.response.status_code"] == "OK"
    assert whole.attributes["x-request-id"] == "req-1"
    assert (whole.resource["service.name"], whole.resource["deployment.environment"]) == ("ovms_mp", "test")
    line = line_of(server, trace_id)
    assert (line["event"], line["protocol"], line["interface"], line["status"]) == (
        "call",
        protocol,
        "gRPC",
        "OK",
    )
    assert (line["model"], line["version"], line["request_id"]) == ("tiny", 1, "req-1")
    assert line["message_id"] == ("message-7" if protocol == "kserve" else "")
    assert line["received_bytes"] == len(request_of())
    assert 0 < line["infer_ms"] < line["ms"]


def test_a_rest_call_is_one_trace_too(server: Server, receiver: OtlpReceiver) -> None:
    tensor = {"name": "x", "shape": [1, 10], "datatype": "FP32", "data": X.tolist()}
    for path, body in (
        ("/v1/models/tiny:predict", {"instances": X.tolist()}),
        ("/v2/models/tiny/infer", {"inputs": [tensor]}),
    ):
        trace_id = new_trace_id()
        answer = rest_client.request(
            server.rest_port,
            "POST",
            f"{path}?key={HIDDEN}",
            json.dumps(body),
            {
                "traceparent": traceparent(trace_id),
                "authorization": HIDDEN,
                "content-type": "application/json",
            },
        )
        whole = assert_is_inference(spans_of(receiver, trace_id, 5), "00f067aa0ba902b7")
        assert answer.status == 200
        assert answer.headers["traceparent"] == f"00-{trace_id}-{whole.span_id}-01"
        assert (whole.attributes["url.path"], whole.attributes["http.request.method"]) == (path, "POST")
        assert whole.attributes["http.response.status_code"] == 200
        assert line_of(server, trace_id)["status"] == "200/OK"


def test_each_message_of_a_stream_is_below_it(server: Server, receiver: OtlpReceiver) -> None:
    trace_id = new_trace_id()
    with connected(server) as channel:
        replies = channel.stream_stream(KSERVE_STREAM)(
            iter([kserve_infer()] * 2), metadata=[("traceparent", traceparent(trace_id))], timeout=WITHIN_S
        )
        assert len(list(replies)) == 2
    spans = spans_of(receiver, trace_id, 11)
    (stream,) = [span for span in spans if span.parent_id == "00f067aa0ba902b7"]
    messages = [span for span in spans if span.parent_id == stream.span_id]
    assert len(messages) == 2
    for message in messages:
        assert_is_inference(
            [message, *(span for span in spans if span.parent_id == message.span_id)], stream.span_id
        )


def test_failures_say_whose_fault_they_are(server: Server, receiver: OtlpReceiver) -> None:
    trace_id = new_trace_id()
    answer = call(server, KSERVE_INFER, kserve_infer("none"), [("traceparent", traceparent(trace_id))])
    (span,) = spans_of(receiver, trace_id, 1)
    assert answer["status"] == "NOT_FOUND"
    assert answer["traceparent"] == f"00-{trace_id}-{span.span_id}-01"
    assert (span.status, span.attributes["error.type"]) == (0, "NOT_FOUND")
    assert span.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert line_of(server, trace_id)["status"] == "NOT_FOUND"

    trace_id = new_trace_id()
    answer = call(server, "/inference.GRPCInferenceService/No", b"", [("traceparent", traceparent(trace_id))])
    (span,) = spans_of(receiver, trace_id, 1)
    assert answer["status"] == "UNIMPLEMENTED"
    assert (span.status, span.attributes["error.type"]) == (2, "UNIMPLEMENTED")


def test_who_is_not_sampled_has_no_spans(server: Server, receiver: OtlpReceiver) -> None:
    unsampled = new_trace_id()
    answer = call(server, TFS_PREDICT, tfs_predict(), [("traceparent", traceparent(unsampled, "00"))])
    assert "traceparent" not in answer
    # Still, the client finds its call in the log.
    assert line_of(server, unsampled)["status"] == "OK"
    # Without a trace of its own, or with a header that is none, a call begins one.
    for metadata in ([], [("traceparent", "00-nonsense")]):
        answer = call(server, TFS_PREDICT, tfs_predict(), metadata)
        trace_id = answer["traceparent"].split("-")[1]
        assert_is_inference(spans_of(receiver, trace_id, 5), "")
    # What is behind it in the queue has come, so it would have, too.
    assert receiver.of_trace(unsampled) == []


def test_a_client_sets_how_much_is_traced(server: Server, receiver: OtlpReceiver) -> None:
    def post(given: dict[str, Any]) -> dict[str, Any]:
        reply = rest_client.request(server.rest_port, "POST", "/v2/trace/setting", json.dumps(given))
        assert reply.status == 200
        document: dict[str, Any] = reply.json()
        return document

    def traced(count: int) -> int:
        answers = [call(server, TFS_PREDICT, tfs_predict(), []) for _ in range(count)]
        return sum("traceparent" in answer for answer in answers)

    try:
        assert post({"trace_rate": 5})["trace_rate"] == "5"
        assert traced(10) == 2
        assert post({"trace_level": ["OFF"]})["trace_level"] == ["OFF"]
        assert traced(3) == 0
        assert "traceparent" not in call(
            server, TFS_PREDICT, tfs_predict(), [("traceparent", traceparent(new_trace_id()))]
        )
        with connected(server) as channel:
            octets = channel.unary_unary("/inference.GRPCInferenceService/TraceSetting")(
                b"", timeout=WITHIN_S
            )
        settings = kserve.TraceSettingResponse.FromString(octets).settings
        assert list(settings["trace_level"].value) == ["OFF"]
    finally:
        assert post({"trace_level": None, "trace_rate": None})["trace_level"] == ["TIMESTAMPS"]
    assert traced(2) == 2


def test_the_levels_of_the_log_hold_for_its_lines_of_calls(server: Server) -> None:
    def set_info(is_on: bool) -> None:
        body = json.dumps({"log_info": is_on})
        assert rest_client.request(server.rest_port, "POST", "/v2/logging", body).status == 200

    quiet, loud = new_trace_id(), new_trace_id()
    set_info(False)
    for trace_id in (quiet, loud):
        call(server, TFS_PREDICT, tfs_predict(), [("traceparent", traceparent(trace_id, "00"))])
        set_info(True)
    line_of(server, loud)
    assert quiet not in server.log()


def test_every_line_is_an_object_and_no_key_is_in_any(server: Server) -> None:
    found = lines(server)

    assert HIDDEN not in server.log()
    assert {line["process"]["kind"].partition(" ")[0] for line in found} >= {"manager", "grpc", "rest"}
    assert {"starting", "ready", "call"} <= {line.get("event") for line in found}
    assert all(isinstance(line["time"], str) and isinstance(line["level"], str) for line in found)


def test_fronts_do_not_get_a_second_grpc_library_by_it() -> None:
    code = "import sys, ovms_mp.front.tracing.tracer; print('grpc' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=WITHIN_S, check=True
    )
    assert done.stdout == "False\n"


def test_a_collector_that_is_away_costs_nothing(zoo: ModelZoo, tmp_path: Path) -> None:
    """With grpcio's server. The collector comes, takes what is new, and goes again before the stop."""
    (port,) = free_ports(1)
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_BSP_MAX_QUEUE_SIZE": "20",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10",
    }
    flags = arguments(zoo, "--grpc_front", "grpcio", "--stop_grace_s", "10")
    with Server(flags, tmp_path / "log", environment) as server:
        calls = itertools.cycle([(TFS_PREDICT, tfs_predict()), (KSERVE_INFER, kserve_infer())])

        def ask() -> str:
            trace_id = new_trace_id()
            answer = call(server, *next(calls), [("traceparent", traceparent(trace_id))])
            assert answer["status"] == "OK"
            assert trace_id in answer["traceparent"]
            reply = rest_client.predict(server.rest_port, "tiny", {"inputs": X.tolist()})
            assert reply.status == 200
            return trace_id

        def has_lost() -> bool:
            ask()
            return server.log().count("event=spans_lost") == 2

        eventually(has_lost, WITHIN_S, "that both fronts lose spans")
        for _ in range(20):
            ask()
        # One line each, however much is lost.
        assert server.log().count("event=spans_lost") == 2
        with OtlpReceiver(port) as receiver:
            came: list[str] = []

            def of_both_protocols() -> dict[str, list[Span]]:
                came.append(ask())
                whole = [spans for trace_id in came if len(spans := receiver.of_trace(trace_id)) == 5]
                by_method = {span.name: spans for spans in whole for span in spans if span.name not in STAGES}
                return by_method if len(by_method) == 2 else {}

            found = eventually(of_both_protocols, WITHIN_S, "spans at the collector")
            assert set(found) == {TFS_PREDICT[1:], KSERVE_INFER[1:]}
            for spans in found.values():
                assert_is_inference(spans, "00f067aa0ba902b7")
            eventually(
                lambda: "event=spans_exported_again lost=" in server.log(), WITHIN_S, "that it is over"
            )
        ask()
        assert server.stop(number=signal.SIGTERM) == 0
    # Nobody had to be ended by force, as who waits for a collector would have to be.
    assert "event=grace_over" not in server.log()
