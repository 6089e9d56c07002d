# SPDX-License-Identifier: Apache-2.0
"""Clients that have tensors in shared memory, over gRPC and over REST; each call takes a new connection."""

from __future__ import annotations

import contextlib
import json
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import grpc
import numpy as np

from ovms_mp.front.kserve._proto import kserve_pb2 as kserve
from tests.support import rest_client
from tests.support.ledger import CLIENTS_MEMORY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from google.protobuf.message import Message

    from ovms_mp.model.dtypes import AnyArray
    from tests.support.server import Server

TIMEOUT_S = 60.0


class Place(NamedTuple):
    """A range of a region."""

    region: str
    offset: int
    nbytes: int

    @property
    def parameters(self) -> dict[str, Any]:
        """As a request names it."""
        return {
            "shared_memory_region": self.region,
            "shared_memory_byte_size": self.nbytes,
            **({"shared_memory_offset": self.offset} if self.offset else {}),
        }


class Input(NamedTuple):
    """An input in a region."""

    name: str
    datatype: str
    shape: Sequence[int]
    place: Place


class Refused(Exception):
    """A call has failed; ``code`` is gRPC's name or HTTP's status."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


@dataclass(frozen=True)
class ShmClient(ABC):
    """What both can do."""

    server: Server

    @abstractmethod
    def status(self, name: str = "", kind: str = "System") -> dict[str, tuple[str, int, int]]:
        """Key, offset and size of regions, by name."""

    @abstractmethod
    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Register a region."""

    @abstractmethod
    def unregister(self, name: str = "", kind: str = "System") -> None:
        """Unregister a region, or all."""

    @abstractmethod
    def register_cuda(self, name: str) -> None:
        """Try to register memory of a GPU."""

    @abstractmethod
    def infer(
        self, model: str, inputs: Sequence[Input], outputs: Sequence[tuple[str, Place]]
    ) -> dict[str, Any]:
        """The parameters of the answer's outputs, none of which carries data."""


class GrpcShmClient(ShmClient):
    """Over gRPC."""

    def _call(self, name: str, request: Message, answer: type[Message]) -> Any:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{self.server.port}", options) as channel:
            call = channel.unary_unary(
                f"/inference.GRPCInferenceService/{name}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=answer.FromString,
            )
            try:
                return call(request, timeout=TIMEOUT_S)
            except grpc.RpcError as error:
                raise Refused(error.code().name, str(error.details())) from None

    def status(self, name: str = "", kind: str = "System") -> dict[str, tuple[str, int, int]]:
        request = getattr(kserve, f"{kind}SharedMemoryStatusRequest")(name=name)
        answer = self._call(
            f"{kind}SharedMemoryStatus", request, getattr(kserve, f"{kind}SharedMemoryStatusResponse")
        )
        return {
            name: (region.key, region.offset, region.byte_size) for name, region in answer.regions.items()
        }

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        request = kserve.SystemSharedMemoryRegisterRequest(
            name=name, key=key, offset=offset, byte_size=byte_size
        )
        self._call("SystemSharedMemoryRegister", request, kserve.SystemSharedMemoryRegisterResponse)

    def unregister(self, name: str = "", kind: str = "System") -> None:
        request = getattr(kserve, f"{kind}SharedMemoryUnregisterRequest")(name=name)
        self._call(
            f"{kind}SharedMemoryUnregister", request, getattr(kserve, f"{kind}SharedMemoryUnregisterResponse")
        )

    def register_cuda(self, name: str) -> None:
        request = kserve.CudaSharedMemoryRegisterRequest(name=name, raw_handle=bytes(64), byte_size=64)
        self._call("CudaSharedMemoryRegister", request, kserve.CudaSharedMemoryRegisterResponse)

    def infer(
        self, model: str, inputs: Sequence[Input], outputs: Sequence[tuple[str, Place]]
    ) -> dict[str, Any]:
        request = kserve.ModelInferRequest(model_name=model)
        for given in inputs:
            entry = request.inputs.add(name=given.name, datatype=given.datatype, shape=given.shape)
            _set(entry.parameters, given.place)
        for name, place in outputs:
            _set(request.outputs.add(name=name).parameters, place)
        answer = self._call("ModelInfer", request, kserve.ModelInferResponse)
        assert len(answer.raw_output_contents) == 0
        return {
            output.name: {
                key: getattr(value, value.WhichOneof("parameter_choice"))
                for key, value in output.parameters.items()
            }
            for output in answer.outputs
        }


class RestShmClient(ShmClient):
    """Over REST."""

    def _call(self, verb: str, path: str, body: object = None) -> Any:
        sent = None if body is None else json.dumps(body)
        reply = rest_client.request(self.server.rest_port, verb, f"/v2/{path}", sent, timeout_s=TIMEOUT_S)
        if reply.status != 200:
            raise Refused(str(reply.status), reply.json()["error"])
        return reply.json() if reply.body else None

    def status(self, name: str = "", kind: str = "System") -> dict[str, tuple[str, int, int]]:
        regions = self._call("GET", f"{kind.lower()}sharedmemory{_region(name)}/status")
        return {region["name"]: (region["key"], region["offset"], region["byte_size"]) for region in regions}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        body = {"key": key, "offset": offset, "byte_size": byte_size}
        self._call("POST", f"systemsharedmemory{_region(name)}/register", body)

    def unregister(self, name: str = "", kind: str = "System") -> None:
        self._call("POST", f"{kind.lower()}sharedmemory{_region(name)}/unregister")

    def register_cuda(self, name: str) -> None:
        body = {"raw_handle": {"b64": "AA=="}, "device_id": 0, "byte_size": 64}
        self._call("POST", f"cudasharedmemory{_region(name)}/register", body)

    def infer(
        self, model: str, inputs: Sequence[Input], outputs: Sequence[tuple[str, Place]]
    ) -> dict[str, Any]:
        body = {
            "inputs": [
                {
                    "name": given.name,
                    "datatype": given.datatype,
                    "shape": list(given.shape),
                    "parameters": given.place.parameters,
                }
                for given in inputs
            ],
            "outputs": [{"name": name, "parameters": place.parameters} for name, place in outputs],
        }
        answer = self._call("POST", f"models/{model}/infer", body)
        assert not any("data" in output for output in answer["outputs"])
        return {output["name"]: output["parameters"] for output in answer["outputs"]}


def _region(name: str) -> str:
    return f"/region/{quote(name, safe='')}" if name else ""


def _set(parameters: Any, place: Place) -> None:
    for key, value in place.parameters.items():
        if isinstance(value, str):
            parameters[key].string_param = value
        else:
            parameters[key].int64_param = value


@contextlib.contextmanager
def shared_memory(size: int) -> Iterator[SharedMemory]:
    """A client's shared memory; gone afterwards, unless the test has removed it."""
    memory = SharedMemory(f"{CLIENTS_MEMORY}{uuid.uuid4().hex[:12]}", create=True, size=size)
    try:
        yield memory
    finally:
        memory.close()
        with contextlib.suppress(FileNotFoundError):
            memory.unlink()


def view(memory: SharedMemory) -> memoryview:
    """All of it."""
    assert memory.buf is not None
    return memory.buf


def put(memory: SharedMemory, values: AnyArray, offset: int = 0) -> None:
    """Write an array."""
    view(memory)[offset : offset + values.nbytes] = values.tobytes()


def get(memory: SharedMemory, dtype: type[np.generic], count: int, offset: int = 0) -> AnyArray:
    """A copy of an array."""
    nbytes = np.dtype(dtype).itemsize * count
    return np.frombuffer(bytes(view(memory)[offset : offset + nbytes]), dtype)
