# SPDX-License-Identifier: Apache-2.0
"""The real TensorFlow Serving client, in a process of its own, and its driver.

``tensorflow.*`` descriptors of ours and of TensorFlow cannot be in one process, and grpc's threads and descriptors
would spoil the ledger of the test process. So a child (``python -m tests.support.tfs_client``) imports
``tensorflow_serving.apis`` and grpc, and is driven by lines of JSON::

    {"start": id, "port": P, "method": "Predict", "request": {protobuf JSON}, "timeout": s}       -> {}
    {"start": id, "port": P, "path": "/...", "body": base64, "timeout": s}                        -> {}
    {"start": id, "port": P, "model": M, "arrays": {name: {"npy": base64, "as": "list"}}, ...}    -> {}
    {"start": id, "port": P, "path": "/...", "bodies": [base64], "metadata": [[K, V]], ...}       -> {}
    {"cancel": id}                                                                                -> {}
    {"wait": id}                            -> {"code": "OK", "details": "", "seconds": s, "response" | "arrays": ...}
    {"close": P}                                                                                  -> {}

Calls overlap: only ``wait`` blocks. Importing all of TensorFlow takes 4 s, and its generated messages need its
directory alone, so the child has a stub in its place; with ``--genuine`` it is TensorFlow itself, which then makes and
reads the tensors of ``arrays``.
"""

from __future__ import annotations

import base64
import importlib
import importlib.util
import io
import itertools
import json
import subprocess
import sys
import time
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.support.tensors import array_of, content

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from ovms_mp.model.dtypes import AnyArray
    from tests.support.tensors import Document

_SERVICES = {
    "Predict": "prediction_service",
    "Classify": "prediction_service",
    "Regress": "prediction_service",
    "MultiInference": "prediction_service",
    "GetModelMetadata": "prediction_service",
    "GetModelStatus": "model_service",
    "HandleReloadConfigRequest": "model_service",
}
DEADLINE_S = 60.0


# --- the driver ---


@dataclass(frozen=True)
class Reply:
    """How a call ended.

    Attributes:
        code: gRPC code by name.
        details: The server's words.
        seconds: From its start until its end was known.
        response: The message as protobuf JSON; a raw body's bytes under ``"body"``, those of a stream under
            ``"bodies"``.
        arrays: Outputs that TensorFlow has read; only of ``start_arrays``.
    """

    code: str
    details: str
    seconds: float
    response: Document
    arrays: Mapping[str, AnyArray]

    def outputs(self) -> dict[str, AnyArray]:
        """The arrays of a PredictResponse."""
        return {name: array_of(tensor) for name, tensor in self.response.get("outputs", {}).items()}


@dataclass(frozen=True)
class Call:
    """A call on its way."""

    client: TfsClient
    number: int

    def cancel(self) -> None:
        """Give up."""
        self.client.send({"cancel": self.number})

    def wait(self) -> Reply:
        """Its end."""
        answer = self.client.send({"wait": self.number})
        arrays = {name: _read_npy(text) for name, text in answer.get("arrays", {}).items()}
        return Reply(answer["code"], answer["details"], answer["seconds"], answer.get("response", {}), arrays)


class TfsClient:
    """Owner of the child process."""

    def __init__(self, *, is_genuine: bool = False) -> None:
        self._numbers = itertools.count()
        self._command = [
            sys.executable,
            "-m",
            "tests.support.tfs_client",
            *(["--genuine"] if is_genuine else []),
        ]

    def __enter__(self) -> Self:
        """Start the child."""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the child."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=30)

    def send(self, command: Document) -> Document:
        """One line there, one line back."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the client ended with {self._process.wait(timeout=10)} after {command!r:.300}"
        answer: Document = json.loads(line)
        return answer

    def start(self, port: int, method: str, request: Document, timeout_s: float = DEADLINE_S) -> Call:
        """Begin a call of a method with a message."""
        return self._start(port, timeout_s, {"method": method, "request": request})

    def start_raw(self, port: int, path: str, body: bytes, timeout_s: float = DEADLINE_S) -> Call:
        """Begin a call of a path with any bytes."""
        return self._start(port, timeout_s, {"path": path, "body": base64.b64encode(body).decode()})

    def start_raw_stream(
        self,
        port: int,
        path: str,
        bodies: Sequence[bytes],
        metadata: Sequence[tuple[str, str]] = (),
        timeout_s: float = DEADLINE_S,
    ) -> Call:
        """Begin a streaming call of a path with these messages and no more."""
        texts = [base64.b64encode(body).decode() for body in bodies]
        return self._start(port, timeout_s, {"path": path, "bodies": texts, "metadata": list(metadata)})

    def start_arrays(
        self,
        port: int,
        model: str,
        arrays: Mapping[str, AnyArray],
        form: str = "array",
        timeout_s: float = DEADLINE_S,
    ) -> Call:
        """Begin a Predict call whose tensors ``make_tensor_proto`` makes from arrays, or from their lists."""
        entries = {name: {"npy": _write_npy(array), "as": form} for name, array in arrays.items()}
        return self._start(port, timeout_s, {"model": model, "arrays": entries})

    def call(self, port: int, method: str, request: Document, timeout_s: float = DEADLINE_S) -> Reply:
        """Call a method and wait."""
        return self.start(port, method, request, timeout_s).wait()

    def predict(
        self,
        port: int,
        model: str,
        inputs: Mapping[str, AnyArray],
        timeout_s: float = DEADLINE_S,
        version: int = 0,
    ) -> Reply:
        """Call Predict with tensors in ``tensor_content``."""
        return self.start_predict(port, model, inputs, timeout_s, version).wait()

    def start_predict(
        self,
        port: int,
        model: str,
        inputs: Mapping[str, AnyArray],
        timeout_s: float = DEADLINE_S,
        version: int = 0,
    ) -> Call:
        """Begin what :meth:`predict` does."""
        tensors = {name: content(array) for name, array in inputs.items()}
        spec: Document = {"name": model, **({"version": version} if version else {})}
        return self.start(port, "Predict", {"modelSpec": spec, "inputs": tensors}, timeout_s)

    def forget(self, port: int) -> None:
        """Close the connection to a server that has ended."""
        self.send({"close": port})

    def _start(self, port: int, timeout_s: float, call: Document) -> Call:
        number = next(self._numbers)
        self.send({"start": number, "port": port, "timeout": timeout_s, **call})
        return Call(self, number)


def _write_npy(array: AnyArray) -> str:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode()


def _read_npy(text: str) -> AnyArray:
    array: AnyArray = np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)
    return array


# --- the child ---


def stand_in_for_tensorflow() -> None:
    """Let ``tensorflow.core`` be imported without TensorFlow's own ``__init__``."""
    found = importlib.util.find_spec("tensorflow")
    assert found is not None
    package = types.ModuleType("tensorflow")
    package.__path__ = list(found.submodule_search_locations or [])
    sys.modules["tensorflow"] = package


class _Child:
    """Channels, and calls on their way. Its objects are grpc's and protobuf's, untyped here."""

    def __init__(self, *, is_genuine: bool) -> None:
        self._tensorflow: Any = None
        if is_genuine:
            self._tensorflow = importlib.import_module("tensorflow")
        else:
            stand_in_for_tensorflow()
        self._grpc = importlib.import_module("grpc")
        self._json_format = importlib.import_module("google.protobuf.json_format")
        self._descriptors = {
            service: importlib.import_module(f"tensorflow_serving.apis.{service}_pb2").DESCRIPTOR
            for service in set(_SERVICES.values())
        }
        importlib.import_module("tensorflow_serving.apis.get_model_metadata_pb2")
        self._stubs_of = {
            service: importlib.import_module(f"tensorflow_serving.apis.{service}_pb2_grpc")
            for service in set(_SERVICES.values())
        }
        self._channels: dict[int, Any] = {}
        self._calls: dict[int, tuple[Any, float, str]] = {}

    def obey(self, command: Document) -> Document:
        """Carry out one line."""
        match command:
            case {"start": int(number), "port": int(port), "timeout": timeout}:
                future = self._start(self._channel(port), command, timeout)
                kind = next((key for key in ("arrays", "bodies") if key in command), "")
                self._calls[number] = future, time.monotonic(), kind
                return {}
            case {"cancel": int(number)}:
                self._calls[number][0].cancel()
                return {}
            case {"wait": int(number)}:
                return self._wait(*self._calls.pop(number))
            case {"close": int(port)}:
                channel = self._channels.pop(port, None)
                if channel is not None:
                    channel.close()
                return {}
        raise ValueError(f"unknown command {command!r:.300}")

    def close(self) -> None:
        """Close all channels."""
        for channel in self._channels.values():
            channel.close()

    def _channel(self, port: int) -> Any:
        if port not in self._channels:
            options = [
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.enable_http_proxy", 0),
                ("grpc.use_local_subchannel_pool", 1),
            ]
            self._channels[port] = self._grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
        return self._channels[port]

    def _start(self, channel: Any, command: Document, timeout: float) -> Any:
        if "bodies" in command:
            messages = [base64.b64decode(body) for body in command["bodies"]]
            metadata = [(key, value) for key, value in command["metadata"]]
            call = channel.stream_stream(command["path"])
            return call(iter(messages), timeout=timeout, metadata=metadata)
        if "path" in command:
            return channel.unary_unary(command["path"]).future(
                base64.b64decode(command["body"]), timeout=timeout
            )
        method = command.get("method", "Predict")
        service = _SERVICES[method]
        name = {"prediction_service": "PredictionService", "model_service": "ModelService"}[service]
        stub = getattr(self._stubs_of[service], f"{name}Stub")(channel)
        descriptor = self._descriptors[service].services_by_name[name].methods_by_name[method]
        request = descriptor.input_type._concrete_class()
        if "arrays" in command:
            request.model_spec.name = command["model"]
            for key, entry in command["arrays"].items():
                array: Any = _read_npy(entry["npy"])
                given = array if entry["as"] == "array" else array.tolist()
                proto = self._tensorflow.make_tensor_proto(given, dtype=array.dtype)
                request.inputs[key].CopyFrom(proto)
        else:
            self._json_format.ParseDict(command["request"], request)
        return getattr(stub, method).future(request, timeout=timeout)

    def _wait(self, future: Any, started: float, kind: str) -> Document:
        bodies: list[str] = []
        answer: Document
        try:
            if kind == "bodies":
                bodies.extend(base64.b64encode(body).decode() for body in future)
            else:
                response = future.result()
        except self._grpc.FutureCancelledError:
            return {"code": "CANCELLED", "details": "", "seconds": time.monotonic() - started}
        except self._grpc.RpcError as error:
            seconds = time.monotonic() - started
            answer = {"code": error.code().name, "details": error.details(), "seconds": seconds}
            return {**answer, "response": {"bodies": bodies}} if bodies else answer
        answer = {"code": "OK", "details": "", "seconds": time.monotonic() - started}
        if kind == "bodies":
            answer["response"] = {"bodies": bodies}
        elif isinstance(response, bytes):
            answer["response"] = {"body": base64.b64encode(response).decode()}
        elif kind == "arrays":
            read = self._tensorflow.make_ndarray
            answer["arrays"] = {name: _write_npy(read(proto)) for name, proto in response.outputs.items()}
        else:
            answer["response"] = self._json_format.MessageToDict(response)
        return answer


def main(arguments: Sequence[str]) -> None:
    """Obey the lines of stdin until it ends."""
    child = _Child(is_genuine="--genuine" in arguments)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(child.obey(json.loads(line))) + "\n")
        sys.stdout.flush()
    child.close()


if __name__ == "__main__":
    main(sys.argv[1:])
