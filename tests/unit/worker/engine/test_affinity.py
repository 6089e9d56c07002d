# SPDX-License-Identifier: Apache-2.0
"""Cores and priorities of a process's threads, as the kernel sees them; each case in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovms_mp.child.specs import CpuShare
from tests.support.worker import WorkerUnderTest, settings

if TYPE_CHECKING:
    from tests.support.models import ModelZoo

PREFACE = """
import json, logging, os, sys, threading
from ovms_mp.errors import BootError
from ovms_mp.child.specs import CpuShare
from ovms_mp.worker.engine.affinity import *
logging.basicConfig(level="INFO", stream=sys.stderr)
cores = sorted(os.sched_getaffinity(0))
if os.geteuid() == 0:
    os.setpriority(os.PRIO_PROCESS, 0, 0)  # The tests may run at another one.
stop = threading.Event()

def in_thread(deed):
    ready, found = threading.Event(), []
    def live():
        found.append(deed())
        ready.set()
        stop.wait()
    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    ready.wait()
    return thread

def say(value):
    print(json.dumps(value))
    stop.set()
"""
needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


def run(script: str) -> tuple[object, str]:
    """What the script says, and its log."""
    ended = subprocess.run(
        [sys.executable, "-c", PREFACE + script], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout), ended.stderr


@needs_two_cores
def test_threads_made_later_have_the_share_too() -> None:
    said, _ = run("""
share = CpuShare(cores=(cores[1],))
take_share(share)
thread = in_thread(lambda: None)
say([sorted(os.sched_getaffinity(0)), sorted(os.sched_getaffinity(thread.native_id)), len(strays(share)), cores[1]])
""")
    assert isinstance(said, list)
    assert said == [[said[3]], [said[3]], 0, said[3]]


def test_an_empty_share_leaves_the_affinity_alone() -> None:
    assert run("take_share(CpuShare()); say([sorted(os.sched_getaffinity(0)) == cores, strays(CpuShare())])")[
        0
    ] == [
        True,
        {},
    ]


def test_cores_that_are_not_there_are_named() -> None:
    said, _ = run("""
try:
    take_share(CpuShare(cores=(900, 901)))
except BootError as error:
    say([error.message, core_text(cores)])
""")
    assert isinstance(said, list)
    assert "900-901" in said[0]
    assert said[0].endswith(f"available: {said[1]}")


@needs_two_cores
def test_a_thread_that_leaves_the_share_is_seen_and_called_back() -> None:
    said, log = run("""
share = CpuShare(cores=(cores[0],))
take_share(share)
leaver = in_thread(lambda: os.sched_setaffinity(0, {cores[1]}))
wide = in_thread(lambda: os.sched_setaffinity(0, set(cores)))
seen = {thread: sorted(found) for thread, found in strays(share).items()}
call_strays_back(share)
say([seen == {leaver.native_id: [cores[1]], wide.native_id: cores}, len(strays(share)),
     [sorted(os.sched_getaffinity(thread.native_id)) == [cores[0]] for thread in (leaver, wide)]])
""")
    assert said == [True, 0, [True, True]]
    assert "event=threads_left_share" in log
    assert "threads=2" in log
    assert "is_mended=True" in log


def test_nothing_is_said_where_all_threads_stay() -> None:
    _, log = run("share = CpuShare(cores=tuple(cores)); take_share(share); call_strays_back(share); say(0)")

    assert log == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may raise a priority again")
def test_threads_that_a_load_makes_do_not_keep_its_priority() -> None:
    said, _ = run("""
before = in_thread(lambda: None)
def load():
    with low_priority():
        made = in_thread(lambda: None)
        inside = [os.getpriority(os.PRIO_PROCESS, thread.native_id) for thread in (before, made)]
        inside.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    after = os.getpriority(os.PRIO_PROCESS, made.native_id), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    say([inside, after])
thread = threading.Thread(target=load)
thread.start()
thread.join()
""")
    assert said == [[0, 10, 10], [0, 0]]


def test_who_may_not_raise_a_priority_again_does_not_lower_it() -> None:
    said, _ = run("""
import ctypes
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
with low_priority():
    say(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
""")
    assert said == 0


@needs_two_cores
@pytest.mark.parametrize("hint", ["LATENCY", "THROUGHPUT"])
def test_openvino_s_threads_stay_on_the_worker_s_cores(zoo: ModelZoo, tmp_path: Path, hint: str) -> None:
    core = max(os.sched_getaffinity(0))
    with WorkerUnderTest(tmp_path / "log", cpu=CpuShare((core,), 1, True)) as worker:
        model = zoo.base_path("tiny") / "1" / "model.xml"
        assert worker.load(1, model, settings(PERFORMANCE_HINT=hint)).error is None
        allowed = {
            line.split(":")[1].strip()
            for status in Path(f"/proc/{worker.process.pid}/task").glob("*/status")
            for line in status.read_text().splitlines()
            if line.startswith("Cpus_allowed_list:")
        }

        assert allowed == {str(core)}
        assert "threads_left_share" not in worker.log
