# SPDX-License-Identifier: Apache-2.0
"""How a child begins and ends: in a process of its own each, with the test as its manager."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ovms_mp.child.specs import ChildSpec, CommonSpec
from ovms_mp.codes import ExitCode
from ovms_mp.log_levels import LogLevels
from ovms_mp.wire.channels import Router, new_endpoint
from ovms_mp.wire.codec import decode_to_manager
from ovms_mp.wire.messages import BootFailed, Drained
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

CHILD = """
import os, signal, sys
from ovms_mp.errors import BootError
from ovms_mp.wire.messages import Drained
from ovms_mp.child.process import run_child, with_control_link
from ovms_mp.child.specs import ChildSpec

def work(spec, control):
    match sys.argv[2]:
        case "speak":
            for _ in range(1000):
                control.send(Drained())
        case "refuse":
            raise BootError("no cores")
        case "signals":
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
        case "defect":
            raise ValueError("a defect")

code = run_child(sys.argv[1:], ChildSpec, lambda spec: "tested", lambda spec: with_control_link(spec, work))
os._exit(code)
"""


@pytest.fixture
def control() -> Iterator[tuple[Router, str]]:
    endpoint = new_endpoint()
    with Router(endpoint) as router:
        yield router, endpoint


def run(endpoint: str, deed: str, parent_pid: int = 0) -> subprocess.CompletedProcess[str]:
    common = CommonSpec(
        parent_pid=parent_pid or os.getpid(),
        run_id="run",
        control_endpoint=endpoint,
        log_levels=LogLevels(),
        log_path="",
        log_format="EVENTS",
        heartbeat_interval_s=1.0,
        boot_timeout_s=1.0,
        arenas=(),
    )
    argument = ChildSpec(child_id="c", kind="worker", common=common).to_argument()
    return start(argument, deed)


def start(argument: str, deed: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CHILD, argument, deed]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_last_words_of_a_process_leave_before_it_ends(control: tuple[Router, str]) -> None:
    router, endpoint = control
    ended = run(endpoint, "speak")
    heard: list[object] = []

    def listen() -> int:
        while (received := router.receive()) is not None:
            heard.append(decode_to_manager(received[1]))
        return len(heard)

    assert ended.returncode == ExitCode.CLEAN, ended.stderr
    eventually(lambda: listen() == 1000, within_s=5, what="all messages")
    assert heard[-1] == Drained()


def test_a_start_that_would_fail_again_is_told(control: tuple[Router, str]) -> None:
    router, endpoint = control
    ended = run(endpoint, "refuse")
    received = eventually(router.receive, within_s=5, what="a message")
    message = decode_to_manager(received[1]) if received else None

    assert ended.returncode == ExitCode.BOOT_FAILED
    assert isinstance(message, BootFailed)
    assert message.error.to_error().message == "no cores"
    assert "event=boot_failed error=no cores" in ended.stderr


def test_signals_are_the_manager_s_business(control: tuple[Router, str]) -> None:
    assert run(control[1], "signals").returncode == ExitCode.CLEAN


def test_a_defect_is_a_traceback_and_a_code_of_its_own(control: tuple[Router, str]) -> None:
    ended = run(control[1], "defect")

    assert ended.returncode == ExitCode.INTERNAL
    assert "event=child_died kind=worker" in ended.stderr
    assert "ValueError: a defect" in ended.stderr
    assert "[tested pid=" in ended.stderr


def test_a_child_whose_parent_is_another_does_nothing(control: tuple[Router, str]) -> None:
    ended = run(control[1], "speak", parent_pid=1)

    assert ended.returncode == ExitCode.BOOT_FAILED
    assert ended.stderr == "parent process 1 is gone\n"
    assert control[0].receive() is None


@pytest.mark.parametrize("argument", ["", "nonsense", "{}"])
def test_what_was_started_by_hand_says_so(argument: str) -> None:
    ended = start(argument, "speak")

    assert ended.returncode == ExitCode.BOOT_FAILED
    assert "started by the ovms_mp manager, not by hand" in ended.stderr


def test_the_child_is_killed_with_its_parent() -> None:
    # The parent of the child is a shell of ours that dies; what is asked of the kernel is what is checked.
    script = (
        "import ctypes, os; from ovms_mp.child.lifetime import die_with_parent; die_with_parent(os.getppid());"
        "number = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(number), 0, 0, 0); print(number.value)"
    )
    asked = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )

    assert int(asked.stdout) == signal.SIGKILL
