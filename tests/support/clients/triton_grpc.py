# SPDX-License-Identifier: Apache-2.0
"""``tritonclient.grpc``, as its users call it."""

from __future__ import annotations

import queue
import threading
import uuid
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import tritonclient.grpc as triton
from cases import Address, run
from tritonclient.utils import InferenceServerException, np_to_triton_dtype
from tritonclient.utils import shared_memory as shm

X = np.arange(10, dtype=np.float32).reshape(1, 10)
WITHIN_S = 30
DTYPES = {
    "boolean": np.array([True, False, True]),
    "u8": np.array([0, 1, 255], np.uint8),
    "u16": np.array([0, 1, 65535], np.uint16),
    "u32": np.array([0, 1, 2**32 - 1], np.uint32),
    "i8": np.array([-128, 0, 127], np.int8),
    "i16": np.array([-32768, 0, 32767], np.int16),
    "i32": np.array([-(2**31), 0, 2**31 - 1], np.int32),
    "f16": np.array([-1.5, 0, 65504], np.float16),
    "f32": np.array([-1.5, 0, 3e38], np.float32),
}


def given(name: str, array: Any, datatype: str = "") -> triton.InferInput:
    """An input with its data."""
    made = triton.InferInput(name, list(array.shape), datatype or np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def refused(call: Any, code: str, *texts: str) -> None:
    """The call fails with this code and these texts."""
    try:
        call()
    except InferenceServerException as error:
        assert error.status() == f"StatusCode.{code}", error
        for text in texts:
            assert text in error.message(), error.message()
    else:
        raise AssertionError(f"no failure; expected {code}")


def case_health(address: Address) -> None:
    """Live, ready, and models that are and are not."""
    with triton.InferenceServerClient(address.grpc) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tiny")
        assert client.is_model_ready("versions", "3")
        assert not client.is_model_ready("broken")


def case_metadata(address: Address) -> None:
    """Of the server and of a model, as messages and as JSON."""
    with triton.InferenceServerClient(address.grpc) as client:
        server = client.get_server_metadata(as_json=True)
        assert server["name"]
        assert server["version"]
        assert "binary_tensor_data" in server["extensions"]
        model = client.get_model_metadata("pair", as_json=True)
        assert model["name"] == "pair"
        assert model["versions"] == ["1"]
        assert {(entry["name"], entry["datatype"], tuple(entry["shape"])) for entry in model["inputs"]} == {
            ("a", "FP32", ("2", "3")),
            ("b", "INT64", ("2", "3")),
        }
        assert [entry["name"] for entry in model["outputs"]] == ["sum", "product"]


def case_config(address: Address) -> None:
    """What perf_analyzer and image clients read."""
    with triton.InferenceServerClient(address.grpc) as client:
        config = client.get_model_config("tiny").config
        assert (config.name, config.backend, config.max_batch_size) == ("tiny", "openvino", 0)
        assert list(config.input[0].dims) == [1, 10]


def case_infer(address: Address) -> None:
    """Inputs as the library sends them, raw; an id comes back."""
    with triton.InferenceServerClient(address.grpc) as client:
        result = client.infer("tiny", [given("x", X)], request_id="one")
        assert result.as_numpy("y").tobytes() == (X + 1).tobytes()
        response = result.get_response()
        assert (response.id, response.model_name, response.model_version) == ("one", "tiny", "1")


def case_versions(address: Address) -> None:
    """The version that is asked for answers, and the newest without one."""
    with triton.InferenceServerClient(address.grpc) as client:
        for version, expected in {"1": X + 1, "3": X + 2, "": X + 2}.items():
            result = client.infer("versions", [given("x", X)], model_version=version)
            assert result.as_numpy("y").tobytes() == expected.tobytes()
        refused(lambda: client.infer("versions", [given("x", X)], model_version="2"), "NOT_FOUND")


def case_dtypes(address: Address) -> None:
    """Each is answered bit by bit."""
    with triton.InferenceServerClient(address.grpc) as client:
        for name, array in DTYPES.items():
            found = client.infer(f"id_{name}", [given("x", array)]).as_numpy("y")
            assert (found.dtype, found.tobytes()) == (array.dtype, array.tobytes()), name


def case_bf16(address: Address) -> None:
    """An extension type of NumPy."""
    with triton.InferenceServerClient(address.grpc) as client:
        values = np.array([1.5, -2.0, 0.0], ml_dtypes.bfloat16)
        found = client.infer("id_bf16", [given("x", values, "BF16")]).as_numpy("y")
        assert found.astype(np.float32).tolist() == values.astype(np.float32).tolist()


def case_requested_outputs(address: Address) -> None:
    """One of two; an unknown name is refused."""
    a, b = np.ones((2, 3), np.float32), np.ones((2, 3), np.int64)
    inputs = [given("a", a), given("b", b)]
    with triton.InferenceServerClient(address.grpc) as client:
        result = client.infer("pair", inputs, outputs=[triton.InferRequestedOutput("product")])
        assert [output.name for output in result.get_response().outputs] == ["product"]
        assert result.as_numpy("product").tolist() == (a * b).tolist()
        wrong = [triton.InferRequestedOutput("nothing")]
        refused(lambda: client.infer("pair", inputs, outputs=wrong), "INVALID_ARGUMENT", "nothing")


def case_zero_size(address: Address) -> None:
    """A tensor without elements."""
    with triton.InferenceServerClient(address.grpc) as client:
        empty = np.zeros(0, np.float32)
        found = client.infer("id_f32", [given("x", empty)]).as_numpy("y")
        assert found.shape == (0,)


def case_large(address: Address) -> None:
    """Megabytes, which go past the small path."""
    with triton.InferenceServerClient(address.grpc) as client:
        array = np.arange(3_000_000, dtype=np.float32)
        assert client.infer("id_f32", [given("x", array)]).as_numpy("y").tobytes() == array.tobytes()


def case_classification(address: Address) -> None:
    """The largest values with their places."""
    with triton.InferenceServerClient(address.grpc) as client:
        outputs = [triton.InferRequestedOutput("y", class_count=2)]
        found = client.infer("tiny", [given("x", X)], outputs=outputs).as_numpy("y")
        assert found.tolist() == [[b"10.000000:9", b"9.000000:8"]]


def case_compression(address: Address) -> None:
    """Requests packed as gRPC has it."""
    array = np.zeros(100_000, np.float32)
    with triton.InferenceServerClient(address.grpc) as client:
        for algorithm in ("gzip", "deflate"):
            result = client.infer("id_f32", [given("x", array)], compression_algorithm=algorithm)
            assert result.as_numpy("y").tobytes() == array.tobytes()


def case_refusals(address: Address) -> None:
    """The usual mistakes."""
    with triton.InferenceServerClient(address.grpc) as client:
        refused(lambda: client.infer("nobody", [given("x", X)]), "NOT_FOUND")
        refused(lambda: client.infer("tiny", [given("x", X[:, :9])]), "INVALID_ARGUMENT", "shape")
        refused(lambda: client.infer("id_i32", [given("x", X[0] + 0.5)]), "INVALID_ARGUMENT", "0.5")
        refused(lambda: client.infer("tiny", [given("other", X)]), "INVALID_ARGUMENT")
        refused(lambda: client.infer("broken", [given("x", X)]), "UNAVAILABLE")


def case_parameters(address: Address) -> None:
    """Of every kind; a timeout that is over in a microsecond is a deadline."""
    with triton.InferenceServerClient(address.grpc) as client:
        parameters = {"text": "a", "number": 5, "flag": True}
        assert client.infer("tiny", [given("x", X)], parameters=parameters, priority=1).as_numpy("y").size
        assert client.infer("tiny", [given("x", X)], timeout=10_000_000).as_numpy("y").size
        refused(lambda: client.infer("tiny", [given("x", X)], timeout=1), "DEADLINE_EXCEEDED")


def case_async_and_cancel(address: Address) -> None:
    """Callbacks; a call that is cancelled tells so."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(address.grpc) as client:

        def take(result: Any, error: Any) -> None:
            answers.put((result, error))

        client.async_infer("tiny", [given("x", X)], take)
        result, error = answers.get(timeout=WITHIN_S)
        assert error is None
        assert result.as_numpy("y").tobytes() == (X + 1).tobytes()
        client.async_infer("id_f32", [given("x", np.zeros(5_000_000, np.float32))], take).cancel()
        result, error = answers.get(timeout=WITHIN_S)
        assert "ancelled" in str(error)


def case_client_timeout(address: Address) -> None:
    """The library's own deadline; the connection goes on."""
    with triton.InferenceServerClient(address.grpc) as client:
        long = [given("x", np.zeros(5_000_000, np.float32))]  # 20 MB never arrive in a millisecond.
        refused(lambda: client.infer("id_f32", long, client_timeout=0.001), "DEADLINE_EXCEEDED")
        assert client.infer("tiny", [given("x", X)]).as_numpy("y").size == 10


def case_stream(address: Address) -> None:
    """Several models in one stream, in order, with a failure between them."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(address.grpc) as client:
        client.start_stream(partial(lambda result, error: answers.put((result, error))))
        for index in range(20):
            client.async_stream_infer("tiny", [given("x", X + index)], request_id=str(index))
        client.async_stream_infer("nobody", [given("x", X)], request_id="wrong")
        client.async_stream_infer("id_f32", [given("x", X[0])], request_id="last")
        for index in range(20):
            result, error = answers.get(timeout=WITHIN_S)
            assert error is None
            assert result.get_response().id == str(index)
            assert result.as_numpy("y").tobytes() == (X + index + 1).tobytes()
        result, error = answers.get(timeout=WITHIN_S)
        assert "nobody" in error.message()
        result, error = answers.get(timeout=WITHIN_S)
        assert result.as_numpy("y").tobytes() == X[0].tobytes()
        client.stop_stream()


def case_stream_final_response(address: Address) -> None:
    """Who asks for it hears that an answer was the last one."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(address.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("tiny", [given("x", X)], enable_empty_final_response=True)
        result, error = answers.get(timeout=WITHIN_S)
        assert error is None
        assert result.get_response().parameters["triton_final_response"].bool_param
        client.stop_stream()


def case_shared_memory(address: Address) -> None:
    """Inputs and outputs in regions, also at an offset; status and names."""
    key = f"/ovms_mp-test-{uuid.uuid4().hex}"
    region = shm.create_shared_memory_region("region", key, 4096)
    try:
        with triton.InferenceServerClient(address.grpc) as client:
            name = f"grpc-{uuid.uuid4().hex}"
            client.register_system_shared_memory(name, key, 4096)
            status = client.get_system_shared_memory_status(name, as_json=True)
            assert status["regions"][name]["byte_size"] == "4096"
            shm.set_shared_memory_region(region, [X], offset=64)
            x = triton.InferInput("x", [1, 10], "FP32")
            x.set_shared_memory(name, X.nbytes, offset=64)
            y = triton.InferRequestedOutput("y")
            y.set_shared_memory(name, X.nbytes, offset=1024)
            result = client.infer("tiny", [x], outputs=[y])
            output = result.get_output("y")
            assert output.parameters["shared_memory_region"].string_param == name
            found = shm.get_contents_as_numpy(region, np.float32, [1, 10], offset=1024)
            assert found.tobytes() == (X + 1).tobytes()
            x.set_shared_memory(name, X.nbytes, offset=4090)
            refused(lambda: client.infer("tiny", [x]), "INVALID_ARGUMENT")
            client.unregister_system_shared_memory(name)
            refused(lambda: client.infer("tiny", [x]), "NOT_FOUND", name)
            assert client.get_cuda_shared_memory_status(as_json=True) == {}
    finally:
        shm.destroy_shared_memory_region(region)


def case_statistics(address: Address) -> None:
    """A request that was answered has been counted."""
    with triton.InferenceServerClient(address.grpc) as client:

        def successes() -> int:
            statistics = client.get_inference_statistics("scalar").model_stats[0]
            return int(statistics.inference_stats.success.count)

        before = successes()
        for _ in range(3):
            client.infer("scalar", [given("x", np.ones((), np.float32))])
        assert successes() == before + 3
        assert len(client.get_inference_statistics().model_stats) > 10


def case_repository(address: Address) -> None:
    """The index; loading and unloading."""
    with triton.InferenceServerClient(address.grpc) as client:
        index = client.get_model_repository_index(as_json=True)
        states = {(entry["name"], entry.get("version", "")): entry.get("state") for entry in index["models"]}
        assert states["tiny", "1"] == "READY"
        assert {state for (name, _), state in states.items() if name == "broken"} == {"UNAVAILABLE"}
        client.unload_model("plus_two")
        assert not client.is_model_ready("plus_two")
        refused(lambda: client.infer("plus_two", [given("x", X)]), "NOT_FOUND")
        client.load_model("plus_two")
        assert client.infer("plus_two", [given("x", X)]).as_numpy("y").tobytes() == (X + 2).tobytes()
        refused(lambda: client.load_model("nobody"), "NOT_FOUND", "failed to load")
        refused(lambda: client.load_model("tiny", config="{}"), "UNIMPLEMENTED", "failed to load")


def case_settings(address: Address) -> None:
    """Trace and log."""
    with triton.InferenceServerClient(address.grpc) as client:
        assert client.get_trace_settings(as_json=True)["settings"]["trace_level"]["value"] == ["OFF"]
        settings = client.get_log_settings(as_json=True)["settings"]
        assert settings["log_error"]["bool_param"]
        client.update_log_settings({"log_verbose_level": 0})


def case_many_threads(address: Address) -> None:
    """One client in many threads: everyone gets their own answer."""
    failures: list[str] = []
    with triton.InferenceServerClient(address.grpc) as client:

        def ask(index: int) -> None:
            for turn in range(20):
                array = np.full(7, 100 * index + turn, np.float32)
                found = client.infer("id_f32", [given("x", array)]).as_numpy("y")
                if found.tobytes() != array.tobytes():
                    failures.append(f"{index} {turn}")

        threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WITHIN_S)
    assert not failures


if __name__ == "__main__":
    run(__name__)
