# SPDX-License-Identifier: Apache-2.0
"""Work in threads: its result, its failure, and callers who give up."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ovms_mp.front.aside import run_aside, run_in


def test_the_result_comes_back() -> None:
    assert asyncio.run(run_aside(divmod, 7, 2)) == (3, 1)


def test_a_failure_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        asyncio.run(run_aside(divmod, 7, 0))


def test_who_gives_up_hears_of_it_when_the_work_has_ended() -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(10)
        ended.set()

    async def story() -> None:
        task = asyncio.create_task(run_aside(work))
        await asyncio.to_thread(begun.wait, 10)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(story())


def test_who_gives_up_before_a_thread_is_free_takes_the_work_back() -> None:
    begun, may_end = threading.Event(), threading.Event()
    ran: list[int] = []

    def work() -> None:
        begun.set()
        may_end.wait(10)

    async def story() -> None:
        with ThreadPoolExecutor(1) as threads:
            first = asyncio.create_task(run_in(threads, work))
            await asyncio.to_thread(begun.wait, 10)
            second = asyncio.create_task(run_in(threads, ran.append, 1))
            await asyncio.sleep(0)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            first.cancel()
            await asyncio.sleep(0)
            assert not first.done()
            may_end.set()
            with pytest.raises(asyncio.CancelledError):
                await first
        assert not ran

    asyncio.run(story())


def test_threads_of_the_callers_give_results_and_failures() -> None:
    async def story() -> None:
        with ThreadPoolExecutor(1) as threads:
            assert await run_in(threads, divmod, 7, 2) == (3, 1)
            with pytest.raises(ZeroDivisionError):
                await run_in(threads, divmod, 7, 0)

    asyncio.run(story())
