# SPDX-License-Identifier: Apache-2.0
"""The clients that people have against the whole server with our own HTTP/2 front.

grpcio (sync and asyncio), ``tensorflow-serving-api``, ``@grpc/grpc-js``, h2load and the ``h2`` library. The arena is
as long as one ``id_u8`` request of ``FILLING`` in and out, so that succeeds exactly when no other lease is left.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import gzip
import re
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import numpy as np
import pytest

from ovms_mp.front.tfs._proto.tensorflow_serving_pb2 import ModelSpec, PredictRequest, PredictResponse
from tests.support import grpc_js, rest_client
from tests.support.grpc_js import JsClient
from tests.support.h2_client import H2Client, message
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.predict_messages import tensor
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.models import ModelZoo
    from tests.support.tfs_client import TfsClient

PREDICT = "/tensorflow.serving.PredictionService/Predict"
MEBIBYTE = 1 << 20
ARENA_MB = 8
MAX_MESSAGE_MB = 16
PATIENCE_S = 30.0
LATE_S = 0.1
"""A run of the slow model takes longer on every machine."""
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def predict(model: str, array: np.ndarray[Any, Any]) -> bytes:
    """A request for a model with one input ``x``."""
    dtype = {"float32": 1, "uint8": 4}[array.dtype.name]
    proto = tensor(dtype, list(array.shape), array.tobytes())
    return PredictRequest(model_spec=ModelSpec(name=model), inputs={"x": proto}).SerializeToString()


def answered(response: bytes) -> bytes:
    """The elements of the answer's one output ``y``."""
    return PredictResponse.FromString(response).outputs["y"].tensor_content


def counting(nbytes: int) -> np.ndarray[Any, Any]:
    """Bytes that are nowhere the same for long."""
    return np.arange(nbytes // 4 + 1, dtype=np.uint32).view(np.uint8)[:nbytes]


TINY = predict("tiny", np.zeros((1, 10), np.float32))
ONES = np.ones(10, np.float32).tobytes()
SLOW = predict("slow", np.ones(1, np.float32))
FILLING = counting(ARENA_MB * MEBIBYTE // 2)
SIZES = (1, 32_000, 33_000, 70_000, 3 * MEBIBYTE)
TOO_LARGE = predict("id_u8", counting(MAX_MESSAGE_MB * MEBIBYTE))


@pytest.fixture(scope="module")
def server(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One front and one infer request."""
    directory = tmp_path_factory.mktemp("clients")
    before = Ledger.take()
    with Server(arguments(zoo, directory), directory / "server.log") as running:
        yield running
        assert "Traceback" not in running.log()
    assert_nothing_left(before)


def arguments(zoo: ModelZoo, directory: Path) -> list[str]:
    config = zoo.config_file(directory, ["tiny", "id_u8", "slow"], nireq=1)
    limits = ["--arena_size_mb", str(ARENA_MB), "--max_message_mb", str(MAX_MESSAGE_MB)]
    return ["config", "--config_path", str(config), "--grpc_front", "native", *limits]


@pytest.fixture(scope="module", autouse=True)
def _grpcio_is_initialised(server: Server) -> None:
    """What grpcio opens once for a process is in every test's ledger from the beginning."""
    with connected(server) as ask:
        assert answered(ask(TINY)) == ONES

    async def ask_once() -> None:
        async with grpc.aio.insecure_channel(address(server)) as channel:
            await untyped(channel).unary_unary(PREDICT)(TINY)

    asyncio.run(ask_once())


@pytest.fixture(autouse=True)
def _all_comes_back(server: Server) -> Iterator[None]:
    """After each test the whole arena can be leased, and the processes are the same."""
    pids = server.pids("grpc"), server.pids("worker")
    yield
    with connected(server) as ask:

        def fills() -> bool:
            call = untyped(ask).future(predict("id_u8", FILLING), timeout=PATIENCE_S)
            if call.code() == grpc.StatusCode.OK:
                return answered(call.result()) == FILLING.tobytes()
            assert call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, call.details()
            return False

        eventually(fills, PATIENCE_S, "a request has the whole arena")
    assert pids == (server.pids("grpc"), server.pids("worker"))


def address(server: Server) -> str:
    return f"127.0.0.1:{server.port}"


def untyped(something: object) -> Any:  # Any: grpc's stubs want serializers where raw bytes need none.
    return something


@contextmanager
def connected(server: Server, path: str = PREDICT, **options: Any) -> Iterator[Callable[..., bytes]]:
    """A sync client's method."""
    extra = [(f"grpc.{name}", value) for name, value in options.items()]
    with grpc.insecure_channel(address(server), [*UNLIMITED, *extra]) as channel:
        call = untyped(channel).unary_unary(path)

        def ask(request: bytes, **more: Any) -> bytes:
            response: bytes = call(request, timeout=more.pop("timeout", PATIENCE_S), **more)
            return response

        untyped(ask).future = call.future
        yield ask


def failure(ask: Callable[..., bytes], request: bytes, **more: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        ask(request, **more)
    return untyped(caught.value).code(), untyped(caught.value).details()


# grpcio, sync


@pytest.mark.parametrize("nbytes", SIZES)
@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_grpcio(server: Server, nbytes: int, compression: grpc.Compression | None) -> None:
    """There and back, compressed both ways if at all."""
    given = counting(nbytes)
    with connected(server) as ask:
        assert answered(ask(predict("id_u8", given), compression=compression)) == given.tobytes()


def test_grpcio_from_many_threads(server: Server) -> None:
    """64 calls at once on a connection, long and short ones mixed."""
    arrays = [counting(1 + number % 5 * 20_000) for number in range(64)]
    with connected(server) as ask, concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda array: answered(ask(predict("id_u8", array))), arrays))
    assert answers == [array.tobytes() for array in arrays]


def test_metadata_of_any_kind(server: Server) -> None:
    metadata = [
        ("x-text", "some text"),
        ("x-text", "more"),
        ("x-octets-bin", bytes(range(256))),
        ("x-none-bin", b""),
    ]
    with connected(server) as ask:
        assert answered(ask(TINY, metadata=metadata)) == ONES


def test_deadline(server: Server) -> None:
    with connected(server) as ask:
        started = time.monotonic()
        code, _ = failure(ask, SLOW, timeout=0.2)
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - started > 0.15
        assert answered(ask(TINY)) == ONES


def test_deadline_of_the_server_itself(server: Server) -> None:
    """``grpc-timeout`` is kept where the client does not watch it."""
    with H2Client(server.port) as client:
        started = time.monotonic()
        answer = client.ask(PREDICT, message(SLOW), [("grpc-timeout", "200m")])
    assert answer.headers["grpc-status"] == str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
    assert time.monotonic() - started > 0.15


def test_deadline_reaches_the_worker(server: Server) -> None:
    """What is late when its turn comes is not run."""

    def runs() -> int:
        reply = rest_client.request(server.rest_port, "GET", "/v2/models/slow/stats")
        return int(reply.json()["model_stats"][0]["execution_count"])

    with connected(server) as ask:
        ask(SLOW)
        before = runs()
        running = untyped(ask).future(SLOW, timeout=PATIENCE_S)
        late = [untyped(ask).future(SLOW, timeout=LATE_S) for _ in range(5)]
        # They are refused at once, where the server knows already how long the one before them takes.
        ended = {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert {call.code() for call in late} <= ended
        ask(SLOW)
        assert running.code() == grpc.StatusCode.OK
        assert runs() == before + 2


def test_cancelled_calls_return_their_memory(server: Server) -> None:
    """A hundred, at moments from before the first octet leaves to after the answer; then the whole arena is free."""
    with connected(server) as ask:
        requests = [SLOW, predict("id_u8", FILLING), predict("id_u8", counting(100_000)), TINY]
        for number in range(100):
            call = untyped(ask).future(requests[number % 4], timeout=PATIENCE_S)
            threading.Event().wait(number / 5_000)
            call.cancel()
        running = untyped(ask).future(SLOW, timeout=PATIENCE_S)
        running.cancel()
        assert running.cancelled()


def test_message_above_the_limit(server: Server) -> None:
    """The client is told by which flag it can be raised, and its connection goes on."""
    with connected(server) as ask:
        code, text = failure(ask, TOO_LARGE)
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "--max_message_mb" in text
        assert str(MAX_MESSAGE_MB * MEBIBYTE) in text
        assert answered(ask(TINY)) == ONES


def test_compressed_message_above_the_limit(server: Server) -> None:
    """What counts is its length decompressed."""
    zeros = predict("id_u8", np.zeros(MAX_MESSAGE_MB * MEBIBYTE, np.uint8))
    with connected(server) as ask:
        code, text = failure(ask, zeros, compression=grpc.Compression.Gzip)
    assert (code, "--max_message_mb" in text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_tensor_above_the_arena(server: Server, compression: grpc.Compression | None) -> None:
    with connected(server) as ask:
        code, text = failure(ask, predict("id_u8", counting(9 * MEBIBYTE)), compression=compression)
        assert (code, "--arena_size_mb" in text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
        assert answered(ask(TINY)) == ONES


@pytest.mark.parametrize("path", ["/tensorflow.serving.PredictionService/Guess", "/nobody.Service/Predict"])
def test_unknown_method(server: Server, path: str) -> None:
    with connected(server, path) as ask:
        assert failure(ask, TINY)[0] == grpc.StatusCode.UNIMPLEMENTED
        assert failure(ask, predict("id_u8", FILLING))[0] == grpc.StatusCode.UNIMPLEMENTED


def test_keep_alive_pings(server: Server) -> None:
    """A client that pings every tenth of a second is answered while its calls run, and between them."""
    settings: dict[str, Any] = {
        "keepalive_time_ms": 100,
        "keepalive_timeout_ms": 2000,
        "keepalive_permit_without_calls": 1,
        "http2.max_pings_without_data": 0,
    }
    with connected(server, **settings) as ask:
        for _ in range(3):
            assert ask(SLOW)
        threading.Event().wait(1)
        assert answered(ask(TINY)) == ONES
    with connected(server, **{**settings, "keepalive_time_ms": 10_000}) as ask:
        assert answered(ask(TINY)) == ONES


# grpcio, asyncio


def test_grpc_aio(server: Server) -> None:
    """Calls at once, a deadline, a cancellation, gzip and a refusal in one loop."""

    async def run() -> None:
        async with grpc.aio.insecure_channel(address(server), UNLIMITED) as channel:
            call = untyped(channel).unary_unary(PREDICT)
            arrays = [counting(1 + number % 5 * 20_000) for number in range(32)]
            answers = await asyncio.gather(*(call(predict("id_u8", array)) for array in arrays))
            assert [answered(answer) for answer in answers] == [array.tobytes() for array in arrays]
            zipped = await call(predict("id_u8", counting(MEBIBYTE)), compression=grpc.Compression.Gzip)
            assert answered(zipped) == counting(MEBIBYTE).tobytes()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(SLOW, timeout=0.2)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            cancelled = call(SLOW)
            asyncio.get_running_loop().call_later(0.1, cancelled.cancel)
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(TOO_LARGE)
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "--max_message_mb" in (caught.value.details() or "")
            assert answered(await call(TINY)) == ONES

    asyncio.run(run())
    gc.collect()  # Errors hold calls and their channel in cycles, and with them grpc's descriptors.


# tensorflow-serving-api; the conformance table has it in full


def test_tensorflow_serving_api(server: Server, tfs: TfsClient) -> None:
    reply = tfs.predict(server.port, "id_u8", {"x": counting(100_000)})
    assert reply.outputs()["y"].tobytes() == counting(100_000).tobytes()
    status = tfs.call(server.port, "GetModelStatus", {"modelSpec": {"name": "tiny"}})
    assert status.response["model_version_status"][0]["state"] == "AVAILABLE"
    assert tfs.call(server.port, "HandleReloadConfigRequest", {}).code == "OK"
    tfs.forget(server.port)


# @grpc/grpc-js


@pytest.fixture(scope="module")
def js_directory(clients_cache: Path) -> Path:
    return grpc_js.install(clients_cache)


@pytest.fixture
def js(js_directory: Path) -> Iterator[JsClient]:
    with JsClient(js_directory) as client:
        yield client


@pytest.mark.parametrize("algorithm", [0, 1, 2], ids=["plain", "deflate", "gzip"])
def test_grpc_js(server: Server, js: JsClient, algorithm: int) -> None:
    options = {"grpc.default_compression_algorithm": algorithm} if algorithm else {}
    for nbytes in SIZES:
        given = counting(nbytes)
        code, text, answers = js.ask(server.port, PREDICT, predict("id_u8", given), options=options)
        assert (code, text) == (grpc.StatusCode.OK, "")
        assert answered(answers[0]) == given.tobytes()


def test_grpc_js_metadata(server: Server, js: JsClient) -> None:
    metadata = {"x-text": "some text", "x-octets-bin": "AAEC/w=="}
    assert answered(js.ask(server.port, PREDICT, TINY, metadata=metadata)[2][0]) == ONES


def test_grpc_js_failures(server: Server, js: JsClient) -> None:
    """A deadline, a cancellation, an unknown method, a model that is not there, a message too large."""
    assert js.ask(server.port, PREDICT, SLOW, timeout_s=0.2)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    assert js.ask(server.port, PREDICT, SLOW, cancel_after_ms=100)[0] == grpc.StatusCode.CANCELLED
    assert js.ask(server.port, "/a.B/C", TINY)[0] == grpc.StatusCode.UNIMPLEMENTED
    nobody = predict("nobody", np.ones(1, np.float32))
    code, text, _ = js.ask(server.port, PREDICT, nobody)
    assert (code, "Servable not found" in text) == (grpc.StatusCode.NOT_FOUND, True)
    code, text, _ = js.ask(server.port, PREDICT, TOO_LARGE)
    assert (code, "--max_message_mb" in text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
    assert answered(js.ask(server.port, PREDICT, TINY)[2][0]) == ONES


def test_grpc_js_keep_alive_pings(server: Server, js: JsClient) -> None:
    options = {
        "grpc.keepalive_time_ms": 100,
        "grpc.keepalive_timeout_ms": 2000,
        "grpc.keepalive_permit_without_calls": 1,
    }
    for request in (SLOW, SLOW, TINY):
        assert js.ask(server.port, PREDICT, request, options=options)[:2] == (grpc.StatusCode.OK, "")


# h2load


def test_h2load(server: Server, tmp_path: Path) -> None:
    h2load = shutil.which("h2load")
    if h2load is None:
        pytest.skip("h2load is not installed (package nghttp2-client)")
    body = tmp_path / "body"
    body.write_bytes(message(TINY))
    done = subprocess.run(
        [h2load, "-n", "400", "-c", "4", "-m", "8", "-d", str(body), "-H", "content-type: application/grpc",
         "-H", "te: trailers", f"http://{address(server)}{PREDICT}"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "400 done, 400 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout, done.stdout
    assert "status codes: 400 2xx" in done.stdout
    data = re.search(r"\((\d+)\) data", done.stdout)
    assert data is not None
    assert int(data[1]) > 400 * len(ONES), "answers, not statuses alone"


# The h2 library


def test_h2_peer_sees_what_the_specification_says(server: Server) -> None:
    with H2Client(server.port) as client:
        good = client.ask(PREDICT, message(TINY))
        missing = client.ask(PREDICT, message(predict("ü", np.ones(1, np.float32))))
        unary = client.ask(PREDICT, message(TINY) * 2)
    assert good.headers[":status"] == "200"
    assert good.headers["content-type"].startswith("application/grpc")
    assert good.headers["grpc-status"] == "0"
    assert good.body[:5] == b"\0" + (len(good.body) - 5).to_bytes(4)
    assert answered(good.body[5:]) == ONES
    assert (missing.headers[":status"], missing.headers["grpc-status"], missing.body) == ("200", "5", b"")
    assert "Servable%20not%20found" in missing.headers["grpc-message"].replace(" ", "%20")
    assert "%C3%BC" in missing.headers["grpc-message"]
    assert unary.headers["grpc-status"] == "12"


@pytest.mark.parametrize("nbytes", [40, 100_000])
def test_h2_peer_gets_gzip_for_gzip(server: Server, nbytes: int) -> None:
    given = np.resize(counting(40), nbytes)
    octets = message(gzip.compress(predict("id_u8", given)), flags=1)
    asked = [("grpc-encoding", "gzip"), ("grpc-accept-encoding", "identity,gzip")]
    with H2Client(server.port) as client:
        answer = client.ask(PREDICT, octets, asked)
        plain = client.ask(PREDICT, octets, asked[:1])
    assert (answer.headers["grpc-status"], answer.headers["grpc-encoding"]) == ("0", "gzip")
    assert answer.body[0] == 1
    assert answered(gzip.decompress(answer.body[5:])) == given.tobytes()
    assert plain.body[0] == 0, "a client that does not accept gzip is not sent any"
    assert answered(plain.body[5:]) == given.tobytes()


@pytest.mark.parametrize("is_reset", [True, False], ids=["reset", "hung up"])
def test_h2_peer_leaves_within_a_tensor(server: Server, is_reset: bool) -> None:
    """The memory that its values were on their way to comes back: the fixture asks for all of it."""
    octets = message(predict("id_u8", FILLING))
    for end in (20, 60, 200, 100_000, len(octets) - 1, len(octets)):
        with H2Client(server.port) as client:
            stream = client.open(PREDICT)
            client.send(stream, octets[:end], is_end=False)
            if is_reset:
                client.reset(stream)
                answer = client.ask(PREDICT, message(TINY))
                assert answered(answer.body[5:]) == ONES


@pytest.mark.parametrize("name", ["x-bin", "grpc-trace-bin"])
def test_h2_peer_sends_metadata_that_is_no_base64(server: Server, name: str) -> None:
    with H2Client(server.port) as client:
        assert client.ask(PREDICT, message(TINY), [(name, "*")]).headers["grpc-status"] != "0"
        assert client.ask(PREDICT, message(TINY), [(name, "AA,AQ==")]).headers["grpc-status"] == "0"


# A server that goes and comes again


def test_clients_survive_a_drain(zoo: ModelZoo, tmp_path: Path, js: JsClient) -> None:
    """Calls in flight at SIGTERM end well, and the same channels go on with the next server on that port."""
    first = Server(arguments(zoo, tmp_path), tmp_path / "first.log")
    with first, connected(first) as ask:
        assert answered(ask(TINY)) == ONES
        assert js.ask(first.port, PREDICT, TINY)[0] == grpc.StatusCode.OK
        futures = [untyped(ask).future(SLOW, timeout=PATIENCE_S) for _ in range(3)]
        js.start(first.port, PREDICT, [SLOW])
        assert ask(SLOW), "all of them have begun"
        more = [untyped(ask).future(SLOW, timeout=PATIENCE_S) for _ in range(2)]
        assert answered(ask(TINY)) == ONES
        assert first.stop() == 0
        assert {call.code() for call in (*futures, *more)} == {grpc.StatusCode.OK}
        assert js.wait()[:2] == (grpc.StatusCode.OK, "")
        second = Server(
            arguments(zoo, tmp_path), tmp_path / "second.log", port=first.port, rest_port=first.rest_port
        )
        with second:
            assert answered(ask(TINY, wait_for_ready=True)) == ONES
            code, text, _ = js.ask(second.port, PREDICT, TINY, wait_for_ready=True)
            assert (code, text) == (grpc.StatusCode.OK, "")
