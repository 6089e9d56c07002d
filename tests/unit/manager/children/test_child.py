# SPDX-License-Identifier: Apache-2.0
"""A child's life cycle and what its end is called. No process is started."""

from __future__ import annotations

import itertools
import os
import signal

import pytest

from ovms_mp.manager.children.child import Child, ChildState, exit_text
from ovms_mp.manager.children.kinds import Kind

from ..fakes import Clock

STEPS = {
    (ChildState.SPAWNED, ChildState.BOOTING),
    (ChildState.SPAWNED, ChildState.DRAINING),
    (ChildState.SPAWNED, ChildState.EXITED),
    (ChildState.BOOTING, ChildState.READY),
    (ChildState.BOOTING, ChildState.DRAINING),
    (ChildState.BOOTING, ChildState.EXITED),
    (ChildState.READY, ChildState.DRAINING),
    (ChildState.READY, ChildState.EXITED),
    (ChildState.DRAINING, ChildState.DRAINING),
    (ChildState.DRAINING, ChildState.EXITED),
}
NO_PID = 2**22 + 1
"""Beyond what Linux gives out."""


def child(state: ChildState = ChildState.SPAWNED, pidfd: int = -1) -> Child:
    return Child("grpc-0", "grpc-0.1", Kind.GRPC, NO_PID, pidfd, None, Clock(), state=state)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(ChildState, ChildState)))
def test_step(before: ChildState, after: ChildState) -> None:
    stepping = child(before)
    if (before, after) in STEPS:
        stepping.to(after)
        assert stepping.state is after
    else:
        with pytest.raises(ValueError, match=rf"grpc-0\.1: {before.name} -> {after.name}"):
            stepping.to(after)
        assert stepping.state is before


def test_that_it_was_ready_is_not_forgotten() -> None:
    living = child()
    living.to(ChildState.BOOTING)
    assert not living.was_ready
    living.to(ChildState.READY)
    living.to(ChildState.EXITED)

    assert living.was_ready


def test_which_kinds_own_arenas() -> None:
    assert {kind for kind in Kind if kind.is_front} == {Kind.GRPC, Kind.REST}


def test_an_adopted_process_that_is_not_ours_has_no_status() -> None:
    assert child().reap() is None


def test_close_gives_the_pidfd_back() -> None:
    pidfd = os.pidfd_open(os.getpid())
    child(pidfd=pidfd).close()

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pidfd)


def test_a_signal_goes_through_the_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda pidfd, number: sent.append((pidfd, number)))
    child(pidfd=77).signal(signal.SIGTERM)

    assert sent == [(77, signal.SIGTERM)]


def test_a_signal_to_a_process_that_has_ended_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def has_ended(pidfd: int, number: int) -> None:
        asked.append(pidfd)
        raise ProcessLookupError

    monkeypatch.setattr(signal, "pidfd_send_signal", has_ended)
    child(pidfd=77).signal(signal.SIGKILL)

    assert asked == [77]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (None, "exited"),
        (0, "exit code 0 (CLEAN)"),
        (1, "exit code 1 (unknown)"),
        (2, "exit code 2 (USAGE)"),
        (3, "exit code 3 (BOOT_FAILED)"),
        (70, "exit code 70 (INTERNAL)"),
        (-11, "killed by signal 11 (SIGSEGV)"),
        (-15, "killed by signal 15 (SIGTERM)"),
        (-9, "killed by signal 9 (SIGKILL); if nobody sent it, the machine may be out of memory"),
    ],
)
def test_exit_text(status: int | None, text: str) -> None:
    assert exit_text(status) == text
