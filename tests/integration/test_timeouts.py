# SPDX-License-Identifier: Apache-2.0
"""``grpc-timeout`` in all forms, over both gRPC fronts: the call is answered, and nobody else notices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovms_mp.front.tfs._proto import tensorflow_framework_pb2 as framework
from ovms_mp.front.tfs._proto import tensorflow_serving_pb2 as serving
from tests.support import rest_client
from tests.support.h2_client import H2Client, message
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.load import PREDICT
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.models import ModelZoo

STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
LONG = 1 << 16
OK, DEADLINE, INTERNAL = "0", "4", "13"
ANY = (OK, DEADLINE)
TIMEOUTS = {
    "99999999H": (OK,), "99999999M": (OK,), "99999999S": (OK,), "2562048H": (OK,), "99999999n": ANY, "5S": (OK,),
    "0n": (DEADLINE,), "0H": (DEADLINE,), "1n": ANY, "1u": ANY,
    "-5S": (INTERNAL,), "5x": (INTERNAL,), "5": (INTERNAL,), "S": (INTERNAL,), "1e9S": (INTERNAL,),
    # Nine digits are more than the protocol has; C-core takes them.
    "123456789H": (OK, INTERNAL), "999999999999999999999999H": (OK, DEADLINE, INTERNAL),
}  # fmt: skip


def predict(name: str, count: int) -> bytes:
    request = serving.PredictRequest()
    request.model_spec.name = name
    tensor = request.inputs["x"]
    tensor.dtype = framework.DT_FLOAT
    for size in (1, 10) if name == "tiny" else (count,):
        tensor.tensor_shape.dim.add().size = size
    tensor.tensor_content = bytes(4 * count)
    return message(request.SerializeToString())


def status() -> bytes:
    request = serving.GetModelStatusRequest()
    request.model_spec.name = "tiny"
    return message(request.SerializeToString())


@pytest.fixture(scope="module", params=["native", "grpcio"])
def server(
    zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Server]:
    """One front of each protocol."""
    directory = tmp_path_factory.mktemp("timeouts")
    config = zoo.config_file(directory, ["tiny", "id_f32"])
    before = Ledger.take()
    arguments = ["config", "--config_path", str(config), "--grpc_front", request.param]
    with Server(arguments, directory / "server.log") as made:
        yield made
        # What was asked with the longest deadline must not hold the stop, either.
        made.stop(within_s=10.0)
    assert_nothing_left(before)


@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_a_timeout_is_its_calls_own_affair(server: Server, timeout: str) -> None:
    expected = TIMEOUTS[timeout]
    is_clear = expected in ((OK,), ANY)
    fronts = server.pids("grpc"), server.pids("rest"), server.pids("worker")
    with H2Client(server.port) as other, H2Client(server.port) as client:
        for path, request in (
            (PREDICT, predict("tiny", 10)),
            (PREDICT, predict("id_f32", LONG)),
            (STATUS, status()),
        ):
            if len(request) > LONG and not is_clear:
                continue  # It may be refused while the client still sends.
            stream = client.open(path, [("grpc-timeout", timeout)])
            if OK in expected:
                client.send(stream, request)
            assert client.wait(stream).headers["grpc-status"] in expected
            assert other.ask(PREDICT, predict("tiny", 10)).headers["grpc-status"] == OK
    assert rest_client.predict(server.rest_port, "tiny", {"inputs": [[0] * 10]}).status == 200
    assert (server.pids("grpc"), server.pids("rest"), server.pids("worker")) == fronts
    assert "Traceback" not in server.log()
    assert "event=defect" not in server.log()


@pytest.mark.parametrize("timeout", ["99999999H", "0n", "5S"])
def test_a_reload_with_a_timeout(server: Server, timeout: str) -> None:
    with H2Client(server.port) as client:
        stream = client.open(RELOAD, [("grpc-timeout", timeout)])
        if timeout != "0n":
            client.send(stream, message(b""))
        assert client.wait(stream).headers["grpc-status"] == (DEADLINE if timeout == "0n" else OK)
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("header", ["99999999H", "1e400", "-1", "\u0661"])
def test_rest_knows_no_timeouts_of_clients(server: Server, header: str) -> None:
    headers = {
        name: header.encode().decode("latin-1") for name in ("grpc-timeout", "Request-Timeout", "X-Timeout")
    }
    body = '{"inputs": [[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]}'
    reply = rest_client.request(server.rest_port, "POST", "/v1/models/tiny:predict", body, headers)
    assert reply.status == 200
