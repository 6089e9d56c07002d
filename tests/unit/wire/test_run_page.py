# SPDX-License-Identifier: Apache-2.0
"""The page where a worker marks what it runs, in two mappings, as two processes have it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ovms_mp.wire.records import RunMark
from ovms_mp.wire.run_page import NOT_A_TASK, RunPage, create_run_page

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pages() -> Iterator[tuple[RunPage, RunPage]]:
    """The worker's and the manager's."""
    descriptor = create_run_page()
    both = RunPage(descriptor), RunPage(descriptor)
    yield both
    for page in both:
        page.close()
    os.close(descriptor)


def test_what_runs_is_seen_by_the_other_and_what_has_ended_is_not(pages: tuple[RunPage, RunPage]) -> None:
    worker, manager = pages
    first, second = worker.begin((3, 9), 17, 4), worker.begin((0, 1), NOT_A_TASK, 2**31)

    assert set(manager.running()) == {RunMark(3, 9, 17, 4), RunMark(0, 1, NOT_A_TASK, 2**31)}
    worker.end(first)
    assert manager.running() == (RunMark(0, 1, NOT_A_TASK, 2**31),)
    worker.end(second)
    assert manager.running() == ()


def test_a_worker_that_died_is_forgotten_before_the_next_one(pages: tuple[RunPage, RunPage]) -> None:
    worker, manager = pages
    worker.begin((3, 9), 17, 4)
    manager.clear()
    assert manager.running() == worker.running() == ()


def test_more_runs_than_entries_are_run_without_a_mark(pages: tuple[RunPage, RunPage]) -> None:
    worker, manager = pages
    entries = [worker.begin((0, 1), number + 1, 1) for number in range(4102)]
    assert entries.count(-1) == 6
    assert len(manager.running()) == 4096
    for entry in entries:
        worker.end(entry)
    assert manager.running() == ()
    assert worker.begin((0, 1), 5, 1) >= 0


def test_a_worker_without_a_page_marks_in_its_own_memory() -> None:
    page = RunPage()
    page.begin((1, 2), 3, 4)
    assert page.running() == (RunMark(1, 2, 3, 4),)
    page.close()
