# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's own client gets, bit for bit, what OpenVINO answers when it is called directly.

The oracle compiles with OpenVINO's defaults, as the server does here: on CPUs with bfloat16 both then compute in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ovms_mp.demo import digits
from tests.support import rest_client
from tests.support.models import infer_directly
from tests.support.tfs_client import TfsClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ovms_mp.model.dtypes import AnyArray
    from tests.support.models import ModelZoo
    from tests.support.server import Server

SEED = 20260731
MODELS = ("tiny", "pair", "batch", "resnet50", "digits")


@pytest.fixture(scope="module")
def genuine() -> Iterator[TfsClient]:
    """The client whose TensorFlow is not a stub."""
    with TfsClient(is_genuine=True) as client:
        yield client


def model_file(model: str, zoo: ModelZoo, resnet50: Path) -> Path:
    base_paths = {"resnet50": resnet50, "digits": digits.model_directory()}
    return base_paths.get(model, zoo.base_path(model)) / "1" / "model.xml"


def inputs_of(model: str) -> dict[str, AnyArray]:
    random = np.random.default_rng(SEED)
    match model:
        case "tiny":
            return {"x": random.normal(size=(1, 10)).astype(np.float32)}
        case "pair":
            return {
                "a": random.normal(size=(2, 3)).astype(np.float32),
                "b": random.integers(-1000, 1000, (2, 3)),
            }
        case "batch":
            return {"x": random.normal(size=(7, 4)).astype(np.float32)}
        case "resnet50":
            return {"image": random.random((1, 3, 224, 224), dtype=np.float32)}
    images, _ = digits.load_held_out()
    return {"image": images[:20]}


def assert_same(found: dict[str, AnyArray], expected: dict[str, AnyArray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("model", MODELS)
def test_answers_equal_openvino(
    model: str,
    shared_server: Server,
    tfs: TfsClient,
    genuine: TfsClient,
    zoo: ModelZoo,
    resnet50: Path,
    tmp_path: Path,
) -> None:
    """Bit for bit over gRPC, with plain messages and TensorFlow's own tensors, and over REST by way of decimals."""
    inputs = inputs_of(model)
    expected = infer_directly(model_file(model, zoo, resnet50), inputs, tmp_path)
    assert all(array.size for array in expected.values())

    reply = tfs.predict(shared_server.port, model, inputs)
    assert reply.code == "OK", reply.details
    assert_same(reply.outputs(), expected)

    made = genuine.start_arrays(shared_server.port, model, inputs).wait()
    assert made.code == "OK", made.details
    assert_same(dict(made.arrays), expected)

    answer = rest_client.predict(
        shared_server.rest_port, model, {"inputs": {name: array.tolist() for name, array in inputs.items()}}
    )
    assert answer.status == 200, answer.text()
    outputs = answer.json()["outputs"]
    if len(expected) == 1:
        outputs = dict.fromkeys(expected, outputs)
    read = {name: np.array(value, expected[name].dtype) for name, value in outputs.items()}
    assert_same(read, expected)


def test_lists_of_tensorflow(shared_server: Server, genuine: TfsClient) -> None:
    """Lists and numbers are put into ``float_val`` by ``make_tensor_proto``, and equal ones in its compact form."""
    port = shared_server.port
    ramp = genuine.start_arrays(port, "tiny", {"x": np.arange(10, dtype=np.float32)[None]}, "list")
    same = genuine.start_arrays(port, "tiny", {"x": np.full((1, 10), 3, np.float32)}, "list")
    assert ramp.wait().arrays["y"].tolist() == [list(range(1, 11))]
    assert same.wait().arrays["y"].tolist() == [[4.0] * 10]


def test_float64_arrays_as_legacy_clients_send_them(shared_server: Server, genuine: TfsClient) -> None:
    reply = genuine.start_arrays(shared_server.port, "batch", {"x": np.arange(8.0).reshape(2, 4)}).wait()
    assert reply.arrays["y"].dtype == np.float32
    assert reply.arrays["y"].tolist() == [[0, 2, 4, 6], [8, 10, 12, 14]]


def test_response_names_model_version_and_signature(shared_server: Server, tfs: TfsClient) -> None:
    reply = tfs.predict(shared_server.port, "versions", {"x": np.zeros((1, 10), np.float32)})
    assert reply.response["modelSpec"] == {
        "name": "versions",
        "version": "3",
        "signatureName": "serving_default",
    }


def test_many_calls_at_once_keep_their_answers(shared_server: Server, tfs: TfsClient) -> None:
    calls = [
        tfs.start_predict(
            shared_server.port, "batch", {"x": np.full((1 + number % 5, 4), number, np.float32)}
        )
        for number in range(100)
    ]
    for number, call in enumerate(calls):
        expected = np.full((1 + number % 5, 4), 2 * number, np.float32)
        assert_same(call.wait().outputs(), {"y": expected})
