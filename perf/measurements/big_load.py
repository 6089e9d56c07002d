# SPDX-License-Identifier: Apache-2.0
"""Load a large model and ask it, beside plain OpenVINO: time and memory to the first right answer.

For each round, without a cache of compiled models and with one that was filled before:

- plain: a Python process imports OpenVINO, compiles the file by its path (which is how OpenVINO's own cache is
  quickest) with the server's hint, and runs it once;
- server: from its start to the first right answer over REST, which is asked for every 10 ms.

Memory is the largest resident set of the process that loads (VmHWM: anonymous memory, and pages of mapped files that
are in memory), and of all processes of the server that load, trials among them, at one time. Its split into anonymous
memory and pages of files is that of the last look.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from perf import CHECKOUT
from perf.processes.child import free_port, module_argv

_WIDTH = 4096
"""Inputs of the model that ``perf.models.big_model`` writes."""
_WITHIN_S = 600.0
_POLL_S = 0.01
_LOADERS = ("ovms_mp.worker", "ovms_mp.worker.probe")
_PLAIN = """
import sys
import numpy as np, openvino as ov
path, cache, width = sys.argv[1], sys.argv[2], int(sys.argv[3])
properties = {"PERFORMANCE_HINT": "LATENCY"} | ({"CACHE_DIR": cache} if cache else {})
compiled = ov.Core().compile_model(path, "CPU", properties)
answer = compiled([np.zeros((1, width), np.float32)])[0]
assert answer.shape == (1, width) and not answer.any()
print("answered", flush=True)
sys.stdin.read()
"""


@dataclass(slots=True)
class Memory:
    """Of one process, in MB of 1,000,000 bytes."""

    peak: float = 0.0
    anonymous: float = 0.0
    files: float = 0.0

    @classmethod
    def of(cls, pid: int) -> Memory:
        """Read it, see proc_pid_status(5); zeros if the process is gone."""
        fields: dict[str, float] = {}
        try:
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                key, _, rest = line.partition(":")
                if key in ("VmHWM", "RssAnon", "RssFile"):
                    fields[key] = int(rest.split()[0]) * 1024 / 1e6
        except (OSError, ValueError, IndexError):
            return cls()
        return cls(fields.get("VmHWM", 0.0), fields.get("RssAnon", 0.0), fields.get("RssFile", 0.0))


@dataclass(slots=True)
class Load:
    """One load.

    Attributes:
        seconds: To the first answer.
        memory: Of the process that answers.
        peak_of_all: Of all processes that load, at one time, in MB.
    """

    seconds: float
    memory: Memory
    peak_of_all: float


@dataclass(slots=True)
class Look:
    """What was seen of a server's loading processes."""

    memories: dict[int, Memory] = field(default_factory=dict)
    peak_of_all: float = 0.0

    def take(self, server: int) -> None:
        """Look at the server's children now."""
        now = {pid: Memory.of(pid) for pid in _loaders_of(server)}
        self.memories.update(now)
        resident = sum(memory.anonymous + memory.files for memory in now.values())
        self.peak_of_all = max(self.peak_of_all, resident)

    def load(self, seconds: float) -> Load:
        """The load that was seen; the largest of its processes is the one that answers."""
        memory = max(self.memories.values(), key=lambda entry: entry.peak)
        return Load(seconds, memory, max(self.peak_of_all, memory.peak))


def plain_load(model_file: Path, cache: str) -> Load:
    """OpenVINO called directly."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", _PLAIN, str(model_file), cache, str(_WIDTH)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        line = process.stdout.readline() if process.stdout else b""
        seconds = time.perf_counter() - start
        memory = Memory.of(process.pid)
        if line != b"answered\n":
            raise RuntimeError(f"plain OpenVINO did not answer: {line!r}")
        process.communicate(timeout=_WITHIN_S)
    return Load(seconds, memory, memory.peak)


def server_load(base_path: Path, cache: str, log_path: Path) -> Load:
    """This server, with one model."""
    port = free_port()
    command = module_argv("ovms_mp", "--model_name", "big", "--model_path", str(base_path))
    command += ["--rest_port", str(port), "--cache_dir", cache]
    look = Look()
    start = time.perf_counter()
    with _running(command, log_path) as process:
        while not _is_answered(port):
            look.take(process.pid)
            if process.poll() is not None or time.perf_counter() - start > _WITHIN_S:
                raise RuntimeError(f"no answer; see {log_path}")
            time.sleep(_POLL_S)
        seconds = time.perf_counter() - start
        look.take(process.pid)
        return look.load(seconds)


@contextmanager
def _running(command: Sequence[str], log_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=CHECKOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_answered(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/v1/models/big:predict", json.dumps({"inputs": [[0.0] * _WIDTH]}))
        reply = connection.getresponse()
        if reply.status != 200:
            return False
        outputs = json.load(reply)["outputs"]
    except OSError:
        return False
    finally:
        connection.close()
    if outputs != [[0.0] * _WIDTH]:
        raise RuntimeError("the server answered wrongly")
    return True


def _loaders_of(server: int) -> list[int]:
    """Its workers and trials."""
    try:
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    except OSError:
        return []
    found = []
    for child in map(int, children):
        try:
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.decode(errors="replace") in _LOADERS for word in words):
            found.append(child)
    return found


def _table(loads: dict[str, list[Load]]) -> Iterator[str]:
    yield "| load | s to the first answer (range) | peak MB | at the end: anonymous + files | peak MB with trials |"
    yield "|---|---|---|---|---|"
    for name, found in loads.items():
        times = [load.seconds for load in found]
        memory = [load.memory for load in found]
        yield (
            f"| {name} | {statistics.median(times):.2f} ({min(times):.2f}..{max(times):.2f}) "
            f"| {statistics.median(entry.peak for entry in memory):.0f} "
            f"| {statistics.median(entry.anonymous for entry in memory):.0f} + "
            f"{statistics.median(entry.files for entry in memory):.0f} "
            f"| {statistics.median(load.peak_of_all for load in found):.0f} |"
        )
    yield ""
    for cache in ("without a cache", "cache filled before"):
        plain, server = loads.get(f"plain, {cache}"), loads.get(f"server, {cache}")
        if plain and server:
            ratios = [mine.seconds / its.seconds for mine, its in zip(server, plain, strict=True)]
            peak = statistics.median(
                mine.peak_of_all / its.memory.peak for mine, its in zip(server, plain, strict=True)
            )
            yield (
                f"{cache}: time {statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f}) "
                f"times plain OpenVINO's, memory {peak:.2f} times"
            )


def measure(base_path: Path, directory: Path, rounds: int) -> dict[str, list[Load]]:
    """Take the loads by turns; the first ones, which fill both caches, are told apart."""
    (model_file,) = (base_path / "1").iterdir()
    loads: dict[str, list[Load]] = defaultdict(list)
    caches = {who: str(directory / f"cache-{who}") for who in ("plain", "server")}
    for number in range(-1, rounds):
        for name in ("cache filled before", "without a cache") if number >= 0 else ("filling a cache",):
            for who in ("plain", "server") if number % 2 == 0 else ("server", "plain"):
                cache = "" if name == "without a cache" else caches[who]
                if who == "plain":
                    load = plain_load(model_file, cache)
                else:
                    load = server_load(base_path, cache, directory / "server.log")
                loads[f"{who}, {name}"].append(load)
                sys.stderr.write(f"{who}, {name}: {load.seconds:.2f} s, {load.peak_of_all:.0f} MB\n")
    return loads


def main(arguments: Sequence[str]) -> int:
    """Write the model, measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m perf big_load", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size_mb", type=int, default=1900)
    parser.add_argument(
        "--directory",
        type=Path,
        help="where the model and the caches go, thrice its size; else a temporary one",
    )
    given = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="big_load-", dir=given.directory))
    try:
        base_path = directory / "model"
        command = module_argv("perf.models.big_model", str(base_path / "1" / "model.onnx"))
        subprocess.run([*command, "--size_mb", str(given.size_mb)], check=True, cwd=CHECKOUT)
        os.sync()  # What is written later would slow down whoever comes first.
        for line in _table(measure(base_path, directory, given.rounds)):
            sys.stdout.write(line + "\n")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0
