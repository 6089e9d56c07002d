# SPDX-License-Identifier: Apache-2.0
"""Priorities of real processes, asked of the kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ovms_mp.manager.children.priority import give_some_time, give_spare_time

if TYPE_CHECKING:
    from collections.abc import Iterator

THREADS = 3
WAIT = f"""
import sys, threading
for _ in range({THREADS - 1}):
    threading.Thread(target=sys.stdin.readline, daemon=True).start()
print("ready", flush=True)
sys.stdin.readline()
"""
AS_NOBODY = """
import os, resource
from ovms_mp.manager.children.priority import give_spare_time
resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
if os.getuid() == 0:
    os.setuid(65534)
give_spare_time(os.getpid())
print(os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0))
"""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """One of three threads that all wait."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", WAIT], stdin=pipe, stdout=pipe) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == b"ready\n"
        yield started
        started.kill()


def priorities(pid: int) -> list[tuple[int, int]]:
    """(policy, nice value) of each thread."""
    threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    return [(os.sched_getscheduler(thread), os.getpriority(os.PRIO_PROCESS, thread)) for thread in threads]


def test_all_threads_get_some_time(process: subprocess.Popen[bytes]) -> None:
    give_some_time(process.pid)
    assert priorities(process.pid) == [(os.SCHED_BATCH, 10)] * THREADS


@pytest.mark.skipif(os.getuid() != 0, reason="only root may always take SCHED_IDLE back")
def test_spare_time_is_taken_back(process: subprocess.Popen[bytes]) -> None:
    give_spare_time(process.pid)
    assert priorities(process.pid) == [(os.SCHED_IDLE, 10)] * THREADS
    give_some_time(process.pid)
    assert priorities(process.pid) == [(os.SCHED_BATCH, 10)] * THREADS


def test_who_could_not_take_it_back_does_not_begin() -> None:
    command = [sys.executable, "-c", AS_NOBODY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [str(os.SCHED_BATCH), "10"], "")


def test_a_nicer_process_stays_so(process: subprocess.Popen[bytes]) -> None:
    os.setpriority(os.PRIO_PROCESS, process.pid, 15)
    give_some_time(process.pid)
    assert sorted(priorities(process.pid)) == [(os.SCHED_BATCH, 10)] * (THREADS - 1) + [(os.SCHED_BATCH, 15)]


def test_an_ended_process_is_nobody(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(10)
    give_spare_time(process.pid)
    give_some_time(process.pid)
