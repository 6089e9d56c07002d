# SPDX-License-Identifier: Apache-2.0
"""``tritonclient.http``, as its users call it."""

from __future__ import annotations

import uuid
from typing import Any

import ml_dtypes
import numpy as np
import tritonclient.http as triton
from cases import Address, run
from tritonclient.utils import InferenceServerException, np_to_triton_dtype
from tritonclient.utils import shared_memory as shm

X = np.arange(10, dtype=np.float32).reshape(1, 10)
ARRAYS = {
    "boolean": np.array([True, False, True]),
    "u8": np.array([0, 1, 255], np.uint8),
    "u16": np.array([0, 1, 65535], np.uint16),
    "u32": np.array([0, 1, 2**32 - 1], np.uint32),
    "i8": np.array([-128, 0, 127], np.int8),
    "i16": np.array([-32768, 0, 32767], np.int16),
    "i32": np.array([-(2**31), 0, 2**31 - 1], np.int32),
    "f32": np.array([-1.5, 0, 3e38], np.float32),
}


def given(name: str, array: Any, datatype: str = "", *, binary: bool = True) -> triton.InferInput:
    """An input with its data."""
    made = triton.InferInput(name, list(array.shape), datatype or np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def refused(call: Any, status: str, *texts: str) -> None:
    """The call fails with this HTTP status and these texts."""
    try:
        call()
    except InferenceServerException as error:
        assert error.status() == status, error
        for text in texts:
            assert text in error.message(), error.message()
    else:
        raise AssertionError(f"no failure; expected {status}")


def client_of(address: Address) -> triton.InferenceServerClient:
    """A client with a deadline."""
    return triton.InferenceServerClient(address.rest, connection_timeout=30, network_timeout=30)


def case_health(address: Address) -> None:
    """Live, ready, and models that are and are not."""
    with client_of(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tiny")
        assert client.is_model_ready("versions", "3")
        assert not client.is_model_ready("broken")
        assert not client.is_model_ready("nobody")


def case_metadata(address: Address) -> None:
    """Of the server, and of models, also those with odd names."""
    with client_of(address) as client:
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        model = client.get_model_metadata("pair")
        assert model["inputs"][0] == {"name": "a", "datatype": "FP32", "shape": [2, 3]}
        assert client.get_model_metadata("org/tiny")["name"] == "org/tiny"
        assert client.get_model_metadata("modèle b")["name"] == "modèle b"


def case_config(address: Address) -> None:
    """What perf_analyzer and image clients read."""
    with client_of(address) as client:
        config = client.get_model_config("tiny")
        assert (config["backend"], config["max_batch_size"]) == ("openvino", 0)
        assert config["input"][0]["dims"] == [1, 10]


def case_infer(address: Address) -> None:
    """Every mixture of binary and JSON, both ways."""
    with client_of(address) as client:
        for binary_in in (True, False):
            for binary_out in (True, False):
                outputs = [triton.InferRequestedOutput("y", binary_data=binary_out)]
                result = client.infer(
                    "tiny", [given("x", X, binary=binary_in)], outputs=outputs, request_id="one"
                )
                assert result.as_numpy("y").tobytes() == (X + 1).tobytes()
                response = result.get_response()
                assert (response["id"], response["model_name"], response["model_version"]) == (
                    "one",
                    "tiny",
                    "1",
                )


def case_all_outputs(address: Address) -> None:
    """Without a word about outputs the library wants all of them, binary."""
    a, b = np.full((2, 3), 2, np.float32), np.full((2, 3), 3, np.int64)
    with client_of(address) as client:
        result = client.infer("pair", [given("a", a), given("b", b, binary=False)])
        assert result.as_numpy("sum").tolist() == (a + b).tolist()
        assert result.as_numpy("product").tolist() == (a * b).tolist()


def case_versions(address: Address) -> None:
    """The version that is asked for answers."""
    with client_of(address) as client:
        for version, expected in {"1": X + 1, "3": X + 2, "": X + 2}.items():
            result = client.infer("versions", [given("x", X)], model_version=version)
            assert result.as_numpy("y").tobytes() == expected.tobytes()


def case_dtypes(address: Address) -> None:
    """Each is answered bit by bit, binary and as JSON."""
    with client_of(address) as client:
        for name, array in ARRAYS.items():
            for binary in (True, False):
                outputs = [triton.InferRequestedOutput("y", binary_data=binary)]
                x = given("x", array, binary=binary)
                found = client.infer(f"id_{name}", [x], outputs=outputs).as_numpy("y")
                assert (found.dtype, found.tobytes()) == (array.dtype, array.tobytes()), (name, binary)


def case_halves(address: Address) -> None:
    """FP16 and BF16 are binary only with this library."""
    with client_of(address) as client:
        half = np.array([-1.5, 0, 65504], np.float16)
        assert client.infer("id_f16", [given("x", half)]).as_numpy("y").tobytes() == half.tobytes()
        values = np.array([1.5, -2.0, 0.0], ml_dtypes.bfloat16)
        found = client.infer("id_bf16", [given("x", values, "BF16")]).as_numpy("y")
        assert found.astype(np.float32).tolist() == values.astype(np.float32).tolist()


def case_zero_size(address: Address) -> None:
    """A tensor without elements."""
    with client_of(address) as client:
        empty = np.zeros(0, np.float32)
        assert client.infer("id_f32", [given("x", empty)]).as_numpy("y").shape == (0,)


def case_large(address: Address) -> None:
    """Megabytes."""
    with client_of(address) as client:
        array = np.arange(3_000_000, dtype=np.float32)
        assert client.infer("id_f32", [given("x", array)]).as_numpy("y").tobytes() == array.tobytes()


def case_classification(address: Address) -> None:
    """The largest values with their places."""
    with client_of(address) as client:
        for binary in (True, False):
            outputs = [triton.InferRequestedOutput("y", binary_data=binary, class_count=2)]
            found = client.infer("tiny", [given("x", X)], outputs=outputs).as_numpy("y")
            assert [str(item, "utf-8") if isinstance(item, bytes) else item for item in found[0]] == [
                "10.000000:9",
                "9.000000:8",
            ]


def case_compression(address: Address) -> None:
    """Both ways, with both algorithms."""
    array = np.zeros(100_000, np.float32)
    with client_of(address) as client:
        for algorithm in ("gzip", "deflate"):
            result = client.infer(
                "id_f32",
                [given("x", array)],
                request_compression_algorithm=algorithm,
                response_compression_algorithm=algorithm,
            )
            assert result.as_numpy("y").tobytes() == array.tobytes()


def case_refusals(address: Address) -> None:
    """The usual mistakes; the connection goes on."""
    with client_of(address) as client:
        refused(lambda: client.infer("nobody", [given("x", X)]), "404")
        refused(lambda: client.infer("tiny", [given("x", X[:, :9])]), "400", "shape")
        refused(lambda: client.infer("id_i32", [given("x", X[0] + 0.5)]), "400", "0.5")
        refused(lambda: client.infer("tiny", [given("other", X)]), "400")
        refused(lambda: client.infer("broken", [given("x", X)]), "503")
        wrong = [triton.InferRequestedOutput("nothing")]
        refused(lambda: client.infer("tiny", [given("x", X)], outputs=wrong), "400", "nothing")
        assert client.infer("tiny", [given("x", X)]).as_numpy("y").size == 10


def case_parameters(address: Address) -> None:
    """Of every kind, also doubles."""
    with client_of(address) as client:
        parameters = {"text": "a", "number": 2**40, "flag": True, "double": 0.5}
        assert client.infer("tiny", [given("x", X)], parameters=parameters, priority=1).as_numpy("y").size
        refused(lambda: client.infer("tiny", [given("x", X)], timeout=1), "504")


def case_async(address: Address) -> None:
    """Several at once over its pool of connections."""
    with triton.InferenceServerClient(address.rest, concurrency=4) as client:
        calls = [client.async_infer("tiny", [given("x", X + index)]) for index in range(16)]
        for index, call in enumerate(calls):
            assert call.get_result().as_numpy("y").tobytes() == (X + index + 1).tobytes()


def case_shared_memory(address: Address) -> None:
    """Inputs and outputs in regions."""
    key = f"/ovms_mp-test-{uuid.uuid4().hex}"
    region = shm.create_shared_memory_region("region", key, 4096)
    try:
        with client_of(address) as client:
            name = f"http-{uuid.uuid4().hex}"
            client.register_system_shared_memory(name, key, 4096)
            assert [entry["name"] for entry in client.get_system_shared_memory_status(name)] == [name]
            shm.set_shared_memory_region(region, [X])
            x = triton.InferInput("x", [1, 10], "FP32")
            x.set_shared_memory(name, X.nbytes)
            y = triton.InferRequestedOutput("y")
            y.set_shared_memory(name, X.nbytes, offset=1024)
            client.infer("tiny", [x], outputs=[y])
            found = shm.get_contents_as_numpy(region, np.float32, [1, 10], offset=1024)
            assert found.tobytes() == (X + 1).tobytes()
            client.unregister_system_shared_memory(name)
            refused(lambda: client.infer("tiny", [x]), "404", name)
            assert client.get_cuda_shared_memory_status() == []
    finally:
        shm.destroy_shared_memory_region(region)


def case_statistics(address: Address) -> None:
    """Requests that were answered have been counted."""
    with client_of(address) as client:

        def successes() -> int:
            statistics = client.get_inference_statistics("range")["model_stats"][0]
            return int(statistics["inference_stats"]["success"]["count"])

        before = successes()
        for _ in range(3):
            client.infer("range", [given("x", np.zeros((2, 3), np.float32))])
        assert successes() == before + 3
        assert len(client.get_inference_statistics()["model_stats"]) > 10


def case_repository(address: Address) -> None:
    """The index; loading and unloading."""
    with client_of(address) as client:
        states = {
            (entry["name"], entry.get("version", "")): entry.get("state")
            for entry in client.get_model_repository_index()
        }
        assert states["tiny", "1"] == "READY"
        client.unload_model("batch")
        assert not client.is_model_ready("batch")
        client.load_model("batch")
        assert client.is_model_ready("batch")
        refused(lambda: client.load_model("nobody"), "404", "failed to load")


def case_settings(address: Address) -> None:
    """Trace and log."""
    with client_of(address) as client:
        assert client.get_trace_settings()["trace_level"] == ["OFF"]
        assert client.get_log_settings()["log_error"] is True
        assert client.update_log_settings({"log_verbose_level": 0})["log_verbose_level"] == 0


if __name__ == "__main__":
    run(__name__)
