# SPDX-License-Identifier: Apache-2.0
"""KServe's decoders, and a server with them, given mutated requests for a while.

A decoder has a quarter of ``--fault-seconds``: 2400 is the full run of ten minutes for each. Each
reader is held against the one that decides. What fails names the seed of its request.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import itertools
import json
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import psutil
import pytest

from ovms_mp.errors import OvmsError
from ovms_mp.front.budget import BodyBudget
from ovms_mp.front.json import lists
from ovms_mp.front.json.reader import load_json
from ovms_mp.front.kserve.json import decode_long as long_json
from ovms_mp.front.kserve.json.assemble import assemble, header_length, raw_request
from ovms_mp.front.kserve.json.binary import Binary, Part
from ovms_mp.front.kserve.json.decode import decode_json
from ovms_mp.front.kserve.json.decode_long import decode_long
from ovms_mp.front.kserve.json.reader import read_infer
from ovms_mp.front.kserve.protobuf import infer_sink
from ovms_mp.front.kserve.protobuf.decode import decode_infer, parse_infer, refused_id
from ovms_mp.front.kserve.protobuf.decode_long import read_long
from ovms_mp.front.kserve.protobuf.infer_sink import InferSink
from ovms_mp.front.protobuf import plain
from ovms_mp.front.protobuf.arena_sink import PlacedCall
from ovms_mp.front.protobuf.turns import at_one_go
from ovms_mp.model.dtypes import DType
from ovms_mp.model.tensors import TensorSpec
from tests.support import kserve_rest
from tests.support.infer_messages import ODDITIES, head, outcome, plain_tensor, request, typed
from tests.support.mutation import mutated
from tests.support.server import Server
from tests.support.sinks import ToyArena, cuts_of, deliver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ovms_mp.front.kserve.json.request import JsonRequest
    from tests.support.models import ModelZoo

LONG_BYTES = 3
WARM_UP = 2000
MAX_GROWTH_OBJECTS = 2000
MAX_GROWTH_BYTES = 16 << 20
SERVER_WARM_UP = 500
MAX_SERVER_GROWTH_BYTES = 32 << 20
CODES = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "UNIMPLEMENTED",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
    "UNAVAILABLE",
}
"""What a request may be answered; a mutated ``timeout`` may be a short one."""

X = {"x": np.arange(10, dtype=np.float32).reshape(1, 10)}
MORE: dict[str, Any] = {
    "id": "a",
    "parameters": {"timeout": 10_000_000, "b": True, "c": 0.5},
    "outputs": [{"name": "y", "parameters": {"binary_data": True, "classification": 2}}],
}
RAW = request((head("x", "FP32", [1, 10]), X["x"].tobytes()), id="i")
STRINGS = request((head("x", "BYTES", [2]), b"\x01\x00\x00\x00a\x02\x00\x00\x00bc"))
MESSAGES = [RAW, STRINGS, *ODDITIES.values()]
JSON_TEXT, BINARY_BODY = (
    kserve_rest.infer_body(X, **MORE)[0],
    kserve_rest.infer_body(X, is_binary=True, **MORE),
)
TEXTS = [
    JSON_TEXT,
    b'{"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [[1, 2.5], [-3, 4e2]]}]}',
    b'{"inputs": [{"name": "x", "shape": [2], "datatype": "INT64", "data": [9223372036854775807, 1]}]}',
    b'{"inputs": [{"name": "x", "shape": [2], "datatype": "BYTES", "data": ["a", "\\u00fc"]}]}',
    b'{"id": 7, "inputs": [{"name": "x", "shape": [3], "datatype": "BOOL", "data": [true, false, 1]}]}',
]
SPECS = [TensorSpec.of("x", DType.FP32, ((1, 1), (0, -1)))]


@pytest.fixture(autouse=True, scope="module")
def _short_is_long() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        # So that what decoders remember of inputs and outputs is full before the objects are counted.
        patch.setattr(plain, "_MOST_REMEMBERED", 100)
        patch.setattr(infer_sink, "SHORTEST_LONG_BYTES", LONG_BYTES)
        patch.setattr(long_json, "LIST_BYTES", 1)
        patch.setattr(long_json, "_CUT_BYTES", 6)
        patch.setattr(lists, "_PIECE_BYTES", 6)
        yield


def try_messages(dice: random.Random) -> None:
    """All readers of whole messages say the same."""
    body = mutated(dice.choice(MESSAGES), dice)
    expected = outcome(parse_infer, body)
    assert outcome(decode_infer, body) == expected
    assert outcome(lambda octets: at_one_go(read_long(octets)), body) == expected
    refused_id(body)


def try_sink(dice: random.Random) -> None:
    """What comes in pieces is what comes whole, and gives back all that it leased."""
    body = mutated(dice.choice(MESSAGES), dice)
    arena = ToyArena()
    sink = arena.sink(InferSink, body)
    deliver(sink, body, cuts_of(body, [dice.randrange(1000) for _ in range(dice.randrange(4))]))
    found = sink.finish()
    if isinstance(found, PlacedCall):
        assert outcome(lambda _: found.call, body) == outcome(decode_infer, body)
        found.release()
    else:
        assert found == body
    assert arena.is_whole


def told(read: Callable[[], JsonRequest]) -> object:
    """What the JSON of a request says, or that it is refused."""
    try:
        found = read()
    except OvmsError as error:
        return error.code if error.message else None
    outputs = [(output.name, typed(output.parameters)) for output in found.outputs]
    inputs = [(item.name, item.dtype, item.shape, typed(item.parameters)) for item in found.inputs]
    data = [item.data if item.data is None else plain_tensor(item.data) for item in found.inputs]  # type: ignore[arg-type] # no index is left
    return found.id, typed(found.parameters), outputs, inputs, data


def try_json(dice: random.Random) -> None:
    """Both readers say the same, and so does the one that cuts lists out."""
    text = mutated(dice.choice(TEXTS), dice)
    expected = told(lambda: read_infer(load_json(text, is_strict_json=False)))
    assert told(lambda: decode_json(text)) == expected
    assert told(lambda: asyncio.run(decode_long(text, BodyBudget(1 << 30).share()))) == expected


def try_binary(dice: random.Random) -> None:
    """Wherever the JSON is said to end: a request whose tensors have as many octets as they need, or a refusal."""
    body = mutated(BINARY_BODY[0], dice)
    right = int(BINARY_BODY[1][kserve_rest.HEADER]) + len(body) - len(BINARY_BODY[0])
    said = dice.choice([right, right, dice.randrange(len(body) + 2), 0, -1])
    try:
        length = header_length(str(said), len(body))
        view = memoryview(body)
        if length:
            found = at_one_go(
                assemble(decode_json(view[:length]), Binary([Part(view[length:])]), SPECS, "m", "1")
            )
        else:
            found = raw_request(Part(view), SPECS, "m", "1")
    except OvmsError:
        return
    for given in found.inputs.values():
        plain_tensor(given)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("attempt", [try_messages, try_sink, try_json, try_binary])
def test_a_decoder(attempt: Callable[[random.Random], None], fault_seconds: float) -> None:
    first = random.SystemRandom().randrange(1 << 40)
    process, sizes, count = psutil.Process(), (0, 0), 0
    until = time.monotonic() + fault_seconds / 4
    while time.monotonic() < until or count <= WARM_UP:
        try:
            attempt(random.Random(first + count))
        except Exception as error:
            raise AssertionError(f"seed {first + count}: {error!r}") from error
        count += 1
        if count == WARM_UP:
            gc.collect()
            sizes = len(gc.get_objects()), process.memory_info().rss
    gc.collect()
    growth = len(gc.get_objects()) - sizes[0], process.memory_info().rss - sizes[1]
    print(f"{count} requests from seed {first}, growth {growth} objects, bytes")  # noqa: T201  # pytest -s shows it
    assert growth[0] < MAX_GROWTH_OBJECTS, growth
    assert growth[1] < MAX_GROWTH_BYTES, growth


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("front", ["native", "grpcio"])
def test_a_server(front: str, zoo: ModelZoo, log_path: Path, fault_seconds: float) -> None:
    path = str(zoo.base_path("tiny"))
    arguments = ["model", "--model_name", "m", "--model_path", path, "--grpc_front", front]
    first = random.SystemRandom().randrange(1 << 40)
    with (
        Server(arguments, log_path) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=20)) as rest,
    ):
        pids, before, seen = server.all_pids(), 0, Counter[str]()
        until = time.monotonic() + fault_seconds / 2
        for seed in itertools.count(first):
            dice = random.Random(seed)
            answers = (ask_grpc(channel, dice), ask_stream(channel, dice), ask_rest(rest, dice))
            assert set(answers) <= CODES | {"answered", "200", "400", "413", "501", "503", "504"}, seed
            seen.update(answers)
            if seed - first == SERVER_WARM_UP:
                before = resident(pids)
            if seed - first > SERVER_WARM_UP and time.monotonic() > until:
                break
        growth = resident(pids) - before
        print(f"{seen} from seed {first}, growth {growth}")  # noqa: T201  # pytest -s shows it
        assert server.all_pids() == pids
        assert "Traceback" not in server.log(), server.log()
    assert {"OK", "INVALID_ARGUMENT", "200", "400"} <= set(seen), seen
    assert growth < MAX_SERVER_GROWTH_BYTES


def ask_grpc(channel: grpc.Channel, dice: random.Random) -> str:
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", None, None)
    try:
        call(message_of(dice), timeout=20)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def ask_stream(channel: grpc.Channel, dice: random.Random) -> str:
    call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer", None, None)
    bodies = [message_of(dice) for _ in range(5)]
    assert len(list(call(iter(bodies), timeout=20))) == len(bodies)
    return "answered"


def message_of(dice: random.Random) -> bytes:
    right = RAW.replace(b"\x12\x013", b"")  # The default version.
    return mutated(dice.choice([right, right, *MESSAGES]), dice)


def ask_rest(rest: http.client.HTTPConnection, dice: random.Random) -> str:
    headers: dict[str, str] = {}
    if dice.random() < 0.5:
        body = mutated(JSON_TEXT, dice)
    else:
        body = mutated(BINARY_BODY[0], dice)
        right = int(BINARY_BODY[1][kserve_rest.HEADER]) + len(body) - len(BINARY_BODY[0])
        headers[kserve_rest.HEADER] = str(dice.choice([right, right, dice.randrange(len(body) + 2), -1]))
    rest.request("POST", "/v2/models/m/infer", body, headers)
    response = rest.getresponse()
    text = response.read()
    if response.status != http.HTTPStatus.OK:
        assert list(json.loads(text)) == ["error"]
    return str(response.status)


def resident(pids: list[int]) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in pids)
