# SPDX-License-Identifier: Apache-2.0
"""Outputs that are inputs, constants or one tensor, next to a model that leaves its answers in shared memory.

An answer may hold what its own request gave, and nothing of another's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pytest

from tests.support import rest_client
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ovms_mp.model.dtypes import AnyArray
    from tests.support.models import ModelCache
    from tests.support.tfs_client import TfsClient

Arrays: TypeAlias = "dict[str, AnyArray]"

FOREIGN = np.float32(-777.25)
"""What another client's answers are full of."""
FOUR = np.arange(4, dtype=np.int64)[None]


def row(seed: int, *shape: int) -> AnyArray:
    return np.random.default_rng(seed).integers(1, 1000, shape or (1, 3)).astype(np.float32)


def keyed(dtype: type[np.integer]) -> Callable[[int], tuple[Arrays, Arrays]]:
    def case(seed: int) -> tuple[Arrays, Arrays]:
        x, key = row(seed), row(seed + 1, 1, 2).astype(dtype)
        return {"x": x, "key": key}, {"y": x + 1, "key": key}

    return case


def fork(seed: int) -> tuple[Arrays, Arrays]:
    x = row(seed)
    return {"x": x}, {"x": x, "same": x[0], "y": 2 * x}


def halves(seed: int) -> tuple[Arrays, Arrays]:
    x = row(seed, 1, 4)
    return {"x": x}, {"x": x, "low": x[:, :2], "high": x[:, 2:]}


def turned(seed: int) -> tuple[Arrays, Arrays]:
    x = row(seed, 1 + seed % 3, 3).astype(np.int32)
    return {"x": x}, {"same": x, "y": x[:, ::-1]}


def through(*shape: int) -> Callable[[int], tuple[Arrays, Arrays]]:
    return lambda seed: ({"x": row(seed, *shape)}, {"x": row(seed, *shape)})


CASES: dict[str, Callable[[int], tuple[Arrays, Arrays]]] = {
    "e": through(1, 3),
    "loose": through(2, 3),
    "shape": lambda seed: ({"x": row(seed, 2, 3)}, {"y": row(seed, 2, 3).reshape(3, 2)}),
    "turned": turned,
    "keyed_i64": keyed(np.int64),
    "keyed_i32": keyed(np.int32),
    "fork": fork,
    "constant": lambda seed: ({"x": row(seed)}, {"y": row(seed) + 1, "four": FOUR}),
    "halves": halves,
    "computed": lambda seed: ({"x": row(seed)}, {"y": row(seed) + 1}),
}
"""Inputs and right outputs by model, for a number."""


@pytest.fixture(scope="module")
def models(model_cache: ModelCache) -> Path:
    return model_cache.get("tests.support.build_shared_models")


@pytest.fixture(scope="module", params=["native", "grpcio"])
def server(
    request: pytest.FixtureRequest, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("shared")
    entries = [{"config": {"name": name, "base_path": str(models / name)}} for name in (*CASES, "patterns")]
    config = directory / "config.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    before = Ledger.take()
    arguments = ["config", "--config_path", str(config), "--grpc_front", request.param]
    with Server(arguments, directory / "server.log") as running:
        yield running
    assert_nothing_left(before)


def assert_right(model: str, got: Arrays, right: Arrays) -> None:
    assert set(got) == set(right), model
    for name, array in right.items():
        assert FOREIGN not in got[name].astype(np.float32), f"{model} {name}: another model's values"
        assert got[name].dtype == array.dtype
        assert np.array_equal(got[name], array), f"{model} {name}: {got[name]}, not {array}"


def by_rest(server: Server, model: str, inputs: Arrays, right: Arrays) -> Arrays:
    body = {"inputs": {name: array.tolist() for name, array in inputs.items()}}
    reply = rest_client.predict(server.rest_port, model, body)
    assert reply.status == 200, reply.text()
    outputs = reply.json()["outputs"]
    named = outputs if len(right) > 1 else {next(iter(right)): outputs}
    return {name: np.array(value, right[name].dtype) for name, value in named.items()}


@pytest.mark.parametrize("model", CASES)
def test_answers_hold_nothing_of_another_model(server: Server, tfs: TfsClient, model: str) -> None:
    pattern = {"x": np.array([[FOREIGN]])}
    for seed in range(6):
        inputs, right = CASES[model](seed)

        assert tfs.predict(server.port, "patterns", pattern).code == "OK"
        reply = tfs.predict(server.port, model, inputs)
        assert reply.code == "OK", reply.details
        assert_right(model, reply.outputs(), right)

        by_rest(server, "patterns", pattern, {"y": np.zeros(0, np.float32)})
        assert_right(model, by_rest(server, model, inputs, right), right)


def test_the_case_that_was_reported(server: Server) -> None:
    by_rest(server, "patterns", {"x": np.array([[FOREIGN]])}, {"y": np.zeros(0, np.float32)})
    reply = rest_client.predict(server.rest_port, "e", {"instances": [[1, 2, 3]]})

    assert (reply.status, reply.json()) == (200, {"predictions": [[1.0, 2.0, 3.0]]})


def test_a_run_of_mixed_models_has_no_foreign_value_in_any_answer(server: Server, tfs: TfsClient) -> None:
    names = list(CASES)
    for begin in range(0, 600, 60):
        calls = []
        for seed in range(begin, begin + 60):
            if seed % 3 == 0:
                tfs.start_predict(server.port, "patterns", {"x": np.array([[FOREIGN]])}).wait()
            model = names[seed % len(names)]
            inputs, right = CASES[model](seed)
            calls.append((model, right, tfs.start_predict(server.port, model, inputs)))
        for model, right, call in calls:
            reply = call.wait()
            assert reply.code == "OK", reply.details
            assert_right(model, reply.outputs(), right)


def test_status_says_how_outputs_reach_shared_memory(server: Server) -> None:
    models = rest_client.request(server.rest_port, "GET", "/v1/status").json()["models"]
    details = {name: models[name]["versions"][0]["detail"] for name in (*CASES, "patterns")}

    for name, detail in details.items():
        assert " trial_s=" in detail, name
        path = (
            "copied"
            if name in ("e", "keyed_i64", "keyed_i32", "fork", "halves", "loose", "turned")
            else "bound"
        )
        assert f"outputs={path}" in detail, name
    assert "outputs=copied inputs=copied (when copied, it writes where" in details["turned"]
    assert "outputs=copied (when bound, output 'x' has other values)" in details["e"]
    assert "event=outputs_not_bound model='e version 1'" in server.log()
    assert "event=outputs_not_bound model='computed version 1'" not in server.log()
