# SPDX-License-Identifier: Apache-2.0
"""The log cannot be written, is moved away, or nobody reads it: the server starts, serves and heals all the same."""

from __future__ import annotations

import fcntl
import functools
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from tests.support import rest_client
from tests.support.server import Server, free_ports
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.models import ModelZoo
    from tests.support.tfs_client import TfsClient

X = np.arange(10, dtype=np.float32)[None]
KINDS = ("worker", "grpc", "arbiter", "rest")
LOG_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


def answers(server: Server) -> bool:
    try:
        return rest_client.predict(server.rest_port, "tiny", {"inputs": X.tolist()}).status == 200
    except OSError:
        return False


def arguments(zoo: ModelZoo, log: Path) -> list[str]:
    return [
        "model",
        "--model_name",
        "tiny",
        "--model_path",
        str(zoo.base_path("tiny")),
        "--log_path",
        str(log),
        # gunicorn tells the signals that it takes at this level only.
        "--log_level",
        "DEBUG",
        # Its lines are written in another way, which waits for nobody.
        "--access_log",
        "all",
    ]


def open_files(pid: int) -> set[str]:
    found = set()
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.add(os.readlink(f"/proc/{pid}/fd/{number}"))
        except FileNotFoundError:
            continue
    return found


@pytest.fixture
def server(zoo: ModelZoo, log: Path, log_path: Path) -> Iterator[Server]:
    """It logs to ``log`` on a disk that is full at first, and to stderr."""
    log.symlink_to("/dev/full")
    with Server(arguments(zoo, log), log_path) as started:
        yield started


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "ovms_mp.log"


def kill_and_wait(server: Server, kind: str) -> None:
    """Kill the only process of a kind; its successor gets signals as soon as it is there, and lives."""
    # An arbiter's fronts, which outlive it for a moment, look like it.
    before = server.all_pids()
    (old,) = server.pids(kind)
    os.kill(old, signal.SIGKILL)
    new: list[int] = []

    def is_there() -> bool:
        new[:] = [pid for pid in server.pids(kind) if pid not in before]
        return bool(new)

    eventually(is_there, 20.0, f"another {kind}")
    for number in LOG_SIGNALS:
        os.kill(new[0], number)
    eventually(lambda: answers(server), 20.0, "it answers")
    assert server.pids(kind) == new


@pytest.mark.timeout(180)
def test_a_full_disk_then_rotation(server: Server, log: Path, tfs: TfsClient) -> None:
    """One server for all of it, as starting one takes longer than the rest."""
    assert answers(server)
    kill_and_wait(server, "rest")
    assert "event=log_write_failed to=" in server.log()
    assert "reason=No space left on device" in server.log()

    # There is room again: what was lost is reported.
    log.unlink()
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: log.exists() and "event=reload reason=SIGHUP" in log.read_text(), 10.0, "lines")
    (lost,) = [
        line for line in log.read_text().splitlines() if "[manager " in line and "log_lines_lost" in line
    ]
    assert int(lost.rpartition("count=")[2]) > 10
    assert tfs.call(server.port, "GetModelStatus", {"modelSpec": {"name": "tiny"}}).code == "OK"

    # Renamed, and every process told, also one that has nothing to say.
    for number in (signal.SIGHUP, signal.SIGUSR1):
        moved = log.with_name(f"moved.{number}")
        log.rename(moved)
        server.process.send_signal(number)
        eventually(functools.partial(all_have, server, log, moved), 10.0, "the new file everywhere")

    # Removed, or cut, and nobody told.
    log.unlink()
    kill_and_wait(server, "grpc")
    eventually(lambda: log.exists() and "event=died" in log.read_text(), 10.0, "the new file")
    os.truncate(log, 0)
    kill_and_wait(server, "worker")
    eventually(lambda: "event=ready" in log.read_text(), 20.0, "lines after the cut")
    assert "\0" not in log.read_text()
    kill_and_wait(server, "arbiter")

    # Signals to everybody end nobody, and make no second one.
    before = {kind: server.pids(kind) for kind in KINDS}
    assert all(before.values())
    for number in LOG_SIGNALS:
        for pid in server.all_pids():
            os.kill(pid, number)
    for number in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH):
        os.kill(before["arbiter"][0], number)
    # The arbiter takes its signals one after the other and says so.
    eventually(lambda: "Handling signal: winch" in log.read_text(), 10.0, "all signals taken")
    assert {kind: server.pids(kind) for kind in KINDS} == before
    assert answers(server)
    for text in (server.log(), log.read_text()):
        assert all(line.isprintable() for line in text.split("\n"))


def all_have(server: Server, log: Path, moved: Path) -> bool:
    files = [open_files(pid) for pid in server.all_pids()]
    return all(str(log) in found and str(moved) not in found for found in files)


@pytest.mark.parametrize("kind", ["missing", "no reader", "full", "full, non-blocking"])
def test_stderr_that_is_no_good(zoo: ModelZoo, tmp_path: Path, kind: str) -> None:
    """With a log path that is a FIFO without a reader, so that no line has anywhere to go."""
    os.mkfifo(tmp_path / "fifo")
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(write, "non-blocking" not in kind)
    if kind == "no reader":
        os.close(read)
    redirection = "2>&-" if kind == "missing" else ""
    server = Server(arguments(zoo, tmp_path / "fifo"), tmp_path / "unused")
    server.port, server.rest_port = free_ports(2)
    command = [
        *("/bin/sh", "-c", f'ulimit -Sn 256; exec "$@" {redirection}', "sh", sys.executable, "-m", "ovms_mp"),
        *server.arguments,
        *("--port", str(server.port), "--rest_port", str(server.rest_port)),
    ]
    server.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=write, start_new_session=True)
    try:
        eventually(lambda: answers(server), 60.0, "it answers")
        (front,) = server.pids("rest")
        os.kill(front, signal.SIGKILL)
        eventually(lambda: server.pids("rest") not in ([], [front]), 20.0, "another REST front")
        eventually(lambda: answers(server), 20.0, "it answers")
        for pid in server.all_pids():
            soft, hard = psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE)
            assert soft == min(hard, 1 << 20)
        assert server.stop() == 0
    finally:
        if server.process.poll() is None:
            server.destroy()
        os.close(write)
        if kind != "no reader":
            os.close(read)
