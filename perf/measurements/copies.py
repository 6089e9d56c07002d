# SPDX-License-Identifier: Apache-2.0
"""Count who copies tensors of 602 kB on their way in and out.

The server runs with a library in front of libc's (``memcpy_count.c``, compiled on the spot with ``cc``) that counts
large copies by the library that asked for them. Two runs with different numbers of requests are subtracted, so what
starting and stopping copies falls out. What remains is bytes a request, shown in units of the request's tensor.

A bare grpc.aio echo with the same bodies runs beside it: its copies are grpcio's own, between its socket slices and
Python's bytes objects. The wanted picture of ``--grpc_front grpcio`` is the echo's copies plus two by the interpreter
in the front, from the request's bytes object into the arena and from the arena into the answer's. The native front is
wanted to make none for what comes in large frames, as from grpcio's clients, and one for what comes in frames of
16 KiB, from the receive memory that all connections share. The worker makes none.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import grpc

from perf.floors import READY_TEXTS
from perf.load.bodies import write_bodies
from perf.load.scenario import Scenario
from perf.models.declared import MODELS, ModelFiles, build_models
from perf.processes.child import free_port, module_argv, running_child
from perf.processes.usage import process_kinds, server_kind
from perf.subjects.server import running_server

_SOURCE = Path(__file__).with_name("memcpy_count.c")
_FEW, _MANY = 50, 250
_PREDICT = "/tensorflow.serving.PredictionService/Predict"

Copied = dict[tuple[str, str], int]
"""Bytes by (process kind, library)."""


def send(port: int, body: bytes, requests: int) -> None:
    """Send so many requests, one at a time."""
    with grpc.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", -1)]
    ) as channel:
        call = channel.unary_unary(_PREDICT, None, None)
        for _ in range(requests):
            call(body, timeout=30)


def copies_of_server(
    grpc_front: Literal["native", "grpcio"], requests: int, files: ModelFiles, body: bytes, counts: Path
) -> Copied:
    """What the server's processes copy from start to end with so many requests."""
    scenario = Scenario(name="copies", model="mirror", protocol="grpc", concurrency=1, grpc_front=grpc_front)
    with running_server(files, scenario, counts.parent) as server:
        kinds = {pid: kind for pid, (kind, _) in process_kinds(server.pid, server_kind).items()}
        send(server.grpc_port, body, requests)
    copied = _read_counts(counts, kinds)
    return {(grpc_front if kind == "grpc" else kind, name): count for (kind, name), count in copied.items()}


def copies_of_echo(requests: int, files: ModelFiles, body: bytes, counts: Path) -> Copied:
    """What a bare grpc.aio server copies when it answers with the request."""
    del files
    port = free_port()
    argv = module_argv("perf.floors.grpc_echo", "--port", str(port))
    with running_child(argv, [READY_TEXTS["grpc_echo"]], counts.parent / "echo.log") as child:
        pid = child.pid
        send(port, body, requests)
    return _read_counts(counts, {pid: "echo"})


def _read_counts(counts: Path, kinds: Mapping[int, str]) -> Copied:
    copied: Copied = defaultdict(int)
    for path in counts.iterdir():
        kind = kinds.get(int(path.name))
        for line in path.read_text().splitlines() if kind else ():
            name, _, nbytes = line.split("\t")
            copied[(str(kind), Path(name).name.partition(".cpython")[0])] += int(nbytes)
    return copied


def copies_a_request(
    measure: Callable[[int, ModelFiles, bytes, Path], Copied], files: ModelFiles, body: bytes, scratch: Path
) -> dict[tuple[str, str], float]:
    """Bytes a request, from two runs, so that what starting and stopping copies falls out."""
    runs: list[Copied] = []
    for requests in (_FEW, _MANY):
        with tempfile.TemporaryDirectory(dir=scratch) as directory:
            counts = Path(directory) / "counts"
            counts.mkdir()
            os.environ["MEMCPY_COUNT_DIRECTORY"] = str(counts)
            runs.append(measure(requests, files, body, counts))
    few, many = runs
    return {key: (many[key] - few.get(key, 0)) / (_MANY - _FEW) for key in many}


def main(arguments: Sequence[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m perf copies", description=__doc__.splitlines()[0])
    parser.parse_args(arguments)
    size = 4
    for dimension in MODELS["mirror"].input_shape:
        size *= dimension
    with tempfile.TemporaryDirectory(prefix="perf-copies-") as directory:
        scratch = Path(directory)
        library = scratch / "memcpy_count.so"
        compiler = shutil.which("cc") or "/usr/bin/cc"
        command = [
            compiler,
            "-O2",
            "-shared",
            "-fPIC",
            "-fno-builtin",
            "-o",
            str(library),
            str(_SOURCE),
            "-ldl",
        ]
        subprocess.run(command, check=True)
        build_models(scratch, ["mirror"])
        files = ModelFiles(scratch, "mirror")
        body = write_bodies(files).grpc_path.read_bytes()[5:]
        os.environ["LD_PRELOAD"] = str(library)
        found = copies_a_request(copies_of_echo, files, body, scratch)
        for front in ("grpcio", "native"):
            measure = functools.partial(copies_of_server, front)
            found |= copies_a_request(measure, files, body, scratch)
    print(f"tensor of {size} bytes in and out, {_MANY - _FEW} requests; copies of 16 KiB and more")
    print(f"{'process':8} {'library that copies':28} {'bytes a request':>16} {'tensors':>8}")
    for key in sorted(found):
        if found[key] >= size / 100:
            print(f"{key[0]:8} {key[1]:28} {found[key]:16.0f} {found[key] / size:8.2f}")
    sums = {
        wanted: sum(value for (kind, _), value in found.items() if kind == wanted) / size
        for wanted in ("echo", "grpcio", "native", "worker")
    }
    print("tensors a request: " + ", ".join(f"{kind} {count:.2f}" for kind, count in sums.items()))
    return 0
