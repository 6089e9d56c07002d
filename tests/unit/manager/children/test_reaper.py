# SPDX-License-Identifier: Apache-2.0
"""The thread that collects processes, with functions in place of processes."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import pytest

from ovms_mp.manager.children.reaper import Reaped, ReapingThread
from ovms_mp.wire.channels import Poller

if TYPE_CHECKING:
    from collections.abc import Iterator

WITHIN_S = 10.0


@pytest.fixture
def poller() -> Poller:
    return Poller()


@pytest.fixture
def reaper(poller: Poller) -> Iterator[ReapingThread]:
    with contextlib.closing(ReapingThread(poller)) as reaper:
        yield reaper


def test_the_poller_learns_of_what_was_collected(poller: Poller, reaper: ReapingThread) -> None:
    reaper.begin(7, lambda: -9)

    assert reaper.take(poller.wait(WITHIN_S)) == [Reaped(7, -9)]
    assert reaper.take(poller.wait(0.0)) == []


def test_nobody_waits_for_a_process_that_takes_long(poller: Poller, reaper: ReapingThread) -> None:
    may_end = threading.Event()

    def reap() -> int:
        may_end.wait(WITHIN_S)
        return 0

    reaper.begin(7, reap)
    reaper.begin(8, lambda: None)

    assert reaper.take(poller.wait(0.0)) == []
    may_end.set()
    found: list[Reaped] = []
    while len(found) < 2 and (readable := poller.wait(WITHIN_S)):
        found += reaper.take(readable)
    assert found == [Reaped(7, 0), Reaped(8, None)]


def test_what_raises_has_no_status_and_ends_nothing_else(
    poller: Poller, reaper: ReapingThread, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> int:
        raise OSError("no")

    reaper.begin(7, fail)
    assert reaper.take(poller.wait(WITHIN_S)) == [Reaped(7, None)]

    reaper.begin(8, lambda: 0)
    assert reaper.take(poller.wait(WITHIN_S)) == [Reaped(8, 0)]
    assert "step=manager.reap victim='7' error=OSError: no" in caplog.text


def test_one_that_was_never_needed_closes(poller: Poller) -> None:
    ReapingThread(poller).close()

    assert poller.wait(0.0) == set()
