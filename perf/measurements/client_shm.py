# SPDX-License-Identifier: Apache-2.0
"""Send tensors in the client's shared memory, beside the same and tiny ones in messages.

KServe over gRPC, 16 in flight. Four loads take turns on one server: ``tiny`` in messages, ``payload`` (602 kB) in
messages, and ``payload`` in a region that was registered before, with its output in messages: of system shared memory,
which the front copies, and of sealed memory, which the worker reads in place. One answer from each region is compared
with the expected one first; all requests of a load are the same, and so are their answers' sizes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, closing
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import grpc
import numpy as np

from ovms_mp.client_regions import RegionConnection, SharedRegion
from ovms_mp.front.kserve._proto import kserve_pb2
from perf.load.bodies import GRPC_PREFIX_BYTES, grpc_frame, infer_output, infer_request
from perf.load.h2load import GRPC_METHODS, LoadPlan, run_load
from perf.measurements.rounds import rounds_of, usual_models
from perf.models.declared import MODELS, Float32Array, ModelFiles, is_expected, load_reference
from perf.report.console import say, say_table, spread
from perf.subjects.server import RunningServer, config_entry, running_config

_CONCURRENCY = 16
_TIMEOUT_S = 30.0
_WANTED = 0.85
_TINY, _SENT, _SHARED = "tiny in messages", "payload in messages", "payload in shared memory"
_SEALED = "payload in sealed memory"
_MODELS = {_TINY: "tiny", _SENT: "payload", _SHARED: "payload", _SEALED: "payload"}
_REGIONS = {_SHARED: "shared", _SEALED: "sealed"}


class WrongAnswer(Exception):
    """The server has answered something else, or another size."""


def region_request(image: Float32Array, region: str) -> bytes:
    """A ModelInferRequest for ``payload`` whose input is at the beginning of a region."""
    spec = MODELS["payload"]
    request = kserve_pb2.ModelInferRequest(model_name=spec.name)
    entry = request.inputs.add(name=spec.input_name, datatype="FP32", shape=image.shape)
    entry.parameters["shared_memory_region"].string_param = region
    entry.parameters["shared_memory_byte_size"].int64_param = image.nbytes
    return request.SerializeToString()


def register(server: RunningServer, memory: SharedMemory) -> None:
    """Register system shared memory.

    Raises:
        grpc.RpcError: The call failed.
    """
    register_path = "/inference.GRPCInferenceService/SystemSharedMemoryRegister"
    message = kserve_pb2.SystemSharedMemoryRegisterRequest(
        name=_REGIONS[_SHARED], key=f"/{memory.name}", byte_size=memory.size
    )
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary(register_path, request_serializer=bytes, response_deserializer=bytes)
        call(message.SerializeToString(), timeout=_TIMEOUT_S)


def ask(server: RunningServer, request: bytes, expected: Float32Array) -> int:
    """Ask once; the size of a right answer.

    Raises:
        WrongAnswer: It is not the expected one.
        grpc.RpcError: The call failed.
    """
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        infer = channel.unary_unary(
            GRPC_METHODS["kserve_grpc"], request_serializer=bytes, response_deserializer=bytes
        )
        answer: bytes = infer(request, timeout=_TIMEOUT_S)
    if not is_expected(MODELS["payload"], infer_output(MODELS["payload"], answer), expected):
        raise WrongAnswer("the answer to the tensor in shared memory is not the expected one")
    return len(answer) + GRPC_PREFIX_BYTES


def measure(root: Path, rounds: int, seconds: float) -> Mapping[str, list[float]]:
    """Rates a second of each load, one a round."""
    files = {name: ModelFiles(root, name) for name in ("tiny", "payload")}
    references = {name: load_reference(entry.reference_path) for name, entry in files.items()}
    image, expected = references["payload"][0][0], references["payload"][1][0]
    requests = {
        _TINY: infer_request(MODELS["tiny"], references["tiny"][0][0]),
        _SENT: infer_request(MODELS["payload"], image),
        **{load: region_request(image, region) for load, region in _REGIONS.items()},
    }
    rates: dict[str, list[float]] = {name: [] for name in requests}
    with ExitStack() as stack:
        memory = stack.enter_context(closing(SharedMemory(create=True, size=image.nbytes)))
        stack.callback(memory.unlink)
        np.ndarray(image.shape, image.dtype, memory.buf)[:] = image
        entries = [config_entry(entry, {}) for entry in files.values()]
        # Below the longest path of a socket, wherever the models are.
        path = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "shm.sock")
        flags = ("--allow_client_shm", "--client_shm_socket", path)
        server = stack.enter_context(running_config(entries, root / "scratch", *flags))
        register(server, memory)
        sealed = stack.enter_context(SharedRegion(image.nbytes, is_read_only=True))
        sealed.array(image.shape, image.dtype)[:] = image
        stack.enter_context(RegionConnection(path)).register(_REGIONS[_SEALED], sealed)
        right_bytes = {load: ask(server, requests[load], expected) for load in _REGIONS}
        for _ in range(rounds):
            for name, request in requests.items():
                body = root / "body.grpc"
                body.write_bytes(grpc_frame(request))
                plan = LoadPlan(
                    protocol="kserve_grpc",
                    port=server.grpc_port,
                    model=_MODELS[name],
                    body_path=body,
                    concurrency=_CONCURRENCY,
                )
                found = run_load(plan, seconds, root / "h2load.log")
                if found.unsuccessful or (
                    name in right_bytes and round(found.answer_bytes) != right_bytes[name]
                ):
                    raise WrongAnswer(f"{name}: {found.unsuccessful} failed, {found.answer_bytes:.1f} bytes")
                rates[name].append(found.rate_per_s)
                say(f"  {name}: {found.rate_per_s:.0f}/s")
    return rates


def main(arguments: list[str]) -> int:
    """Measure and print a table; 1 if an answer was wrong."""
    given = rounds_of("client_shm", __doc__, arguments)
    with usual_models() as root:
        try:
            rates = measure(root, given.rounds, given.seconds)
        except WrongAnswer as error:
            say(f"WRONG: {error}")
            return 1
    table = [("load", "req/s", "of tiny", "wanted")]
    for load, found in rates.items():
        ratios = [rate / tiny for rate, tiny in zip(found, rates[_TINY], strict=True)]
        wanted = f">= {_WANTED:g} x" if load == _SEALED else ""
        table.append((load, spread(found, ".0f"), spread(ratios), wanted))
    say_table(table)
    return 0
