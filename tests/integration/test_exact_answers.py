# SPDX-License-Identifier: Apache-2.0
"""Answers are right or refused: values beyond 32 bits, states, equal names, shapes of nothing, lists of detections.

Over gRPC with both fronts, and over REST.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pytest

from tests.support import rest_client
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.server import Server
from tests.support.tensors import content, typed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ovms_mp.model.dtypes import AnyArray
    from tests.support.models import ModelCache
    from tests.support.tensors import Document
    from tests.support.tfs_client import TfsClient

    Reply: TypeAlias = tuple[str, str, dict[str, AnyArray]]
    """gRPC's code by name, the server's words, the outputs."""

SETTINGS: dict[str, Document] = {
    "counter": {"nireq": 3},
    "resized": {"nireq": 3},
    "listed": {"shape": "auto"},
    "variants": {"shape": "auto"},
}
LONG = 10_000
"""Elements that go straight into shared memory over gRPC (front/tfs/protobuf/predict_sink.py)."""
HUGE = 1 << 62


@pytest.fixture(scope="module")
def models(model_cache: ModelCache) -> Path:
    return model_cache.get("tests.support.build_exact_models")


def config_file(models: Path, directory: Path, names: list[str]) -> Path:
    entries = [
        {"config": {"name": name, "base_path": str(models / name), **SETTINGS.get(name, {})}}
        for name in names
    ]
    path = directory / "config.json"
    path.write_text(json.dumps({"model_config_list": entries}))
    return path


@pytest.fixture(scope="module", params=["native", "grpcio"])
def server(
    request: pytest.FixtureRequest, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("exact_server")
    config = config_file(models, directory, sorted(path.name for path in models.iterdir()))
    before = Ledger.take()
    arguments = ["config", "--config_path", str(config), "--grpc_front", request.param]
    with Server(arguments, directory / "server.log") as server:
        yield server
    assert_nothing_left(before)


class Protocol:
    """One way to ask for a prediction."""

    def __init__(self, server: Server, tfs: TfsClient, form: Callable[[AnyArray], Document] | None) -> None:
        """Ask over REST where there is no form for gRPC's tensors."""
        self.server, self._tfs, self._form = server, tfs, form

    @property
    def is_rest(self) -> bool:
        return self._form is None

    def predict(self, model: str, **inputs: AnyArray) -> Reply:
        if self._form is not None:
            tensors = {name: self._form(array) for name, array in inputs.items()}
            request = {"modelSpec": {"name": model}, "inputs": tensors}
            reply = self._tfs.call(self.server.port, "Predict", request)
            return reply.code, reply.details, reply.outputs()
        body = {"inputs": {name: array.tolist() for name, array in inputs.items()}}
        answer = rest_client.predict(self.server.rest_port, model, body)
        if answer.status != 200:
            return {400: "INVALID_ARGUMENT"}.get(answer.status, str(answer.status)), answer.text(), {}
        found = answer.json()["outputs"]
        if not isinstance(found, dict):
            return "OK", "", {"y": np.array(found)}
        return "OK", "", {name: np.array(values) for name, values in found.items()}

    def output(self, model: str, name: str = "y", **inputs: AnyArray) -> object:
        code, details, outputs = self.predict(model, **inputs)
        assert code == "OK", details
        return outputs[name].tolist()


@pytest.fixture(params=["content", "typed", "REST"])
def ask(request: pytest.FixtureRequest, server: Server, tfs: TfsClient) -> Protocol:
    return Protocol(server, tfs, {"content": content, "typed": typed, "REST": None}[request.param])


def arrays(dtype: type, *values: object) -> AnyArray:
    return np.array(values, dtype)


REFUSED = {
    "INT64": ("wide", arrays(np.int64, 1, 2**31), "2147483648 at index [1]", "-2147483648 to 2147483647"),
    "INT64 below": ("wide", arrays(np.int64, -(2**40)), "-1099511627776 at index [0]", "INT64"),
    "INT64, the greatest": ("wide", arrays(np.int64, 2**63 - 1), "9223372036854775807", "INT64"),
    "INT64, long": (
        "wide",
        np.append(np.arange(LONG), np.int64(2**33)),
        f"8589934592 at index [{LONG}]",
        "INT64",
    ),
    "UINT64": ("unsigned", arrays(np.uint64, [0, 7, 2**63 + 5]), "9223372036854775813 at index [0, 2]", "0 to"),
    "INT32 in a kernel for FP32": (
        "remainder",
        arrays(np.int32, [1, 2**24 + 1, 2]),
        "16777217 at index [0, 1]",
        "-16777216 to 16777216",
    ),
    "FP64": ("double", arrays(np.float64, 0.5, -1e300), "-1e+300 at index [1]", "3.40282346"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_values_that_would_be_lost_are_refused(case: str, ask: Protocol) -> None:
    model, values, found, exact = REFUSED[case]

    code, details, _ = ask.predict(model, x=values)

    assert code == "INVALID_ARGUMENT", details
    for piece in ("input 'x'", found, exact, "--lossy_integers allow"):
        assert piece in details


def test_values_that_are_kept_are_computed(ask: Protocol) -> None:
    assert ask.output("wide", x=arrays(np.int64, 2**31 - 2, -(2**31), 0)) == [2**31 - 1, 1 - 2**31, 1]
    assert ask.output("wide", x=np.arange(LONG)) == list(range(1, LONG + 1))
    assert ask.output("wide", x=np.zeros(0, np.int64)) == []
    assert ask.output("unsigned", x=arrays(np.uint64, [0, 7, 2**31 - 1])) == [0, 7, 2**31 - 1]
    assert ask.output("remainder", x=arrays(np.int32, [5, -(2**24), 2**24])) == [[5, -6, 6]]
    assert ask.output("double", x=arrays(np.float64, 0.1, 3e38 / 4, 16777217.0)) == [
        float(np.float32(value)) * 2 for value in (0.1, 3e38 / 4, 16777217.0)
    ]
    # The model itself turns these into floats, and the engine does it in one step.
    rounded = np.array(ask.output("rounded", x=arrays(np.int64, 2**40, -(2**33))), np.float32)
    assert rounded.tolist() == [2.0**40, -(2.0**33)]


def test_one_input_of_several_is_named(ask: Protocol) -> None:
    small = arrays(np.float32, 1, 2)
    code, details, _ = ask.predict("beside", small=small, keys=arrays(np.int64, 3, 2**31))
    assert (code, "input 'keys' has 2147483648 at index [1]" in details) == ("INVALID_ARGUMENT", True)

    keys = arrays(np.int64, 3, -3)
    assert ask.output("beside", "y" if ask.is_rest else "sum", small=small, keys=keys) == [2.0, 2.0]


def test_status_and_log_tell_what_is_exact(server: Server) -> None:
    document = rest_client.request(server.rest_port, "GET", "/v1/status").json()
    details = {name: model["versions"][0]["detail"] for name, model in document["models"].items()}

    assert "input 'x' (INT64) is exact from -2147483648 to 2147483647; others are refused" in details["wide"]
    assert "output 'y' (INT64) is computed in 32 bits" in details["wide"]
    assert "input 'x' (FP64) is rounded to FP32" in details["double"]
    assert "the model has states ('sum'), which are reset before each request" in details["counter"]
    for name in ("rounded", "free", "twice"):
        assert "\n" not in details[name]
    log = server.log()
    assert "event=notice model=wide version=1" in log
    assert "event=notice model=rounded" not in log


def test_lossy_values_are_computed_where_that_is_allowed(
    models: Path, tfs: TfsClient, tmp_path: Path, log_path: Path
) -> None:
    config = config_file(models, tmp_path, ["wide", "double"])
    arguments = ["config", "--config_path", str(config), "--lossy_integers", "allow"]
    with Server(arguments, log_path) as server:
        for form in (content, None):
            ask = Protocol(server, tfs, form)
            assert ask.output("wide", x=arrays(np.int64, 2**31 + 5, 7)) == [-(2**31) + 6, 8]
        assert ask.predict("double", x=arrays(np.float64, 1e300))[0] == "OK"
        detail = rest_client.request(server.rest_port, "GET", "/v1/status").text()
        assert "others are computed with as well and give wrong results (--lossy_integers allow)" in detail
        tfs.forget(server.port)


def test_every_request_begins_with_the_initial_states(ask: Protocol) -> None:
    """Whoever asked before, on whichever infer request, also for another shape."""
    for number in (3.0, 5.0, 7.0, 9.0):
        assert ask.output("counter", x=arrays(np.float32, [number, 1])) == [[number, 1.0]]
        assert ask.output("started", x=arrays(np.float32, [number, 1])) == [[3 * number, 3.0]]
        rows = [[number, 2.0]] * int(number)
        assert ask.output("resized", x=np.array(rows, np.float32)) == rows


def test_a_run_that_fails_halfway_leaves_no_state(ask: Protocol) -> None:
    x = arrays(np.float32, 1, 2, 3)
    for _ in range(3):
        assert ask.predict("halfway", x=x, z=arrays(np.float32, 1, 2))[0] == "INVALID_ARGUMENT"
        code, details, outputs = ask.predict("halfway", x=x, z=x)
        assert code == "OK", details
        assert {name: array.tolist() for name, array in outputs.items()} == {
            "y": [1.0, 2.0, 3.0],
            "sum": [2.0, 4.0, 6.0],
        }


def test_states_stay_apart_where_many_ask_at_once(server: Server, tfs: TfsClient) -> None:
    calls = [
        (number, tfs.start_predict(server.port, model, {"x": arrays(np.float32, [number, -number])}))
        for number in range(40)
        for model in ("counter", "resized")
    ]

    answers = [(number, call.wait()) for number, call in calls]

    assert all(reply.outputs()["y"].tolist() == [[number, -number]] for number, reply in answers)


NAMES = {
    "twice": {"y": 1.0, "y_1": 1.0},
    "mapped": {"first": 1.0, "second": 1.0},
    "named": {"a": 1.0, "b": 1.0},
    # OpenVINO itself mends names that different tensors of an IR share, in the same way.
    "clash": {"y": 1.0, "y_1": 2.0, "y_1_1": 3.0},
}


@pytest.mark.parametrize("model", NAMES)
def test_each_output_has_a_name_of_its_own(model: str, ask: Protocol, tfs: TfsClient) -> None:
    x = arrays(np.float32, [1, 2])
    expected = {name: [[1 + added, 2 + added]] for name, added in NAMES[model].items()}

    code, details, outputs = ask.predict(model, x=x)

    assert code == "OK", details
    assert {name: array.tolist() for name, array in outputs.items()} == expected
    if ask.is_rest:
        raw = rest_client.predict(ask.server.rest_port, model, {"inputs": {"x": x.tolist()}}).body
        pairs: list[str] = []
        json.loads(raw, object_pairs_hook=lambda found: pairs.extend(key for key, _ in found))
        assert sorted(pairs) == sorted([*expected, "outputs"])
        rows = rest_client.predict(ask.server.rest_port, model, {"instances": [{"x": [1.0, 2.0]}]}).json()
        assert {name: [row[name] for row in rows["predictions"]] for name in expected} == expected


@pytest.mark.parametrize("model", NAMES)
def test_names_are_the_same_in_metadata_and_filters(model: str, server: Server, tfs: TfsClient) -> None:
    place = f"/v1/models/{model}/metadata"
    metadata = rest_client.request(server.rest_port, "GET", place).json()
    signature = metadata["metadata"]["signature_def"]["signatureDef"]["serving_default"]
    assert sorted(signature["outputs"]) == sorted(NAMES[model])

    for name, added in NAMES[model].items():
        request = {
            "modelSpec": {"name": model},
            "inputs": {"x": content(arrays(np.float32, [1, 2]))},
            "outputFilter": [name],
        }
        reply = tfs.call(server.port, "Predict", request)
        assert {key: array.tolist() for key, array in reply.outputs().items()} == {
            name: [[1 + added, 2 + added]]
        }


IMPOSSIBLE: dict[str, list[list[int]]] = {
    "free": [[0, HUGE], [HUGE, 0], [2**63 - 1, 0], [HUGE, HUGE], [HUGE, 1], [0, 2**31], [-1, 1], [1] * 65],
    "listed": [[0, HUGE, 5, 7], [HUGE, 4, 0, 7], [2**31, 2**31, 0, 7], [-1, 4, 5, 7], [0] * 65],
    "variants": [[0, 4, 8, HUGE], [HUGE, 4, 0, 8], [HUGE, 4, 8, 8], [0, 4, 8, 8], [1, 4, 0, 8]],
    "twice": [[0, HUGE], [HUGE, 0], [0, 2], [-1, 2], [1] * 65, [2**31, 2]],
}


@pytest.mark.parametrize("form", ["no values", "one value", "content"])
@pytest.mark.parametrize("model", IMPOSSIBLE)
def test_shapes_that_no_tensor_has_are_refused(model: str, form: str, server: Server, tfs: TfsClient) -> None:
    name = "image" if model == "listed" else "x"
    compilations = server.log().count("event=variant_compiled") + server.log().count("event=compiled_again")
    for shape in IMPOSSIBLE[model]:
        if 0 in shape and form != "no values":
            continue
        values: dict[str, Document] = {
            "no values": {},
            "one value": {"floatVal": [1.0]},
            "content": {"tensorContent": "AAAAAA=="},
        }
        tensor = {
            "dtype": "DT_FLOAT",
            "tensorShape": {"dim": [{"size": str(size)} for size in shape]},
            **values[form],
        }
        reply = tfs.call(server.port, "Predict", {"modelSpec": {"name": model}, "inputs": {name: tensor}})
        assert reply.code == "INVALID_ARGUMENT", (shape, reply.details)

    found = server.log().count("event=variant_compiled") + server.log().count("event=compiled_again")
    assert found == compilations


def test_empty_tensors_with_empty_answers_are_served(ask: Protocol) -> None:
    assert ask.output("free", x=np.zeros((2, 0), np.float32)) == [[], []]
    if not ask.is_rest:
        assert ask.output("free", x=np.zeros((0, 3), np.float32)) == []


def test_nothing_is_computed_of_nothing(ask: Protocol) -> None:
    """The engine answers what its memory holds."""
    code, details, _ = ask.predict("greatest", x=np.zeros((3, 0), np.float32))
    assert (code, "has no elements" in details) == ("INVALID_ARGUMENT", True)

    assert ask.output("greatest", x=arrays(np.float32, [1, 3, 2])) == [[3.0]]


def test_a_list_of_detections_grows_with_the_batch(ask: Protocol) -> None:
    for batch in (1, 4, 2):
        image = np.arange(batch * 140, dtype=np.float32).reshape(batch, 4, 5, 7)
        _, details, outputs = ask.predict("listed", image=image)
        found = next(iter(outputs.values()), None)
        assert found is not None, details
        assert found.tolist() == image.reshape(1, 1, -1, 7).tolist()
