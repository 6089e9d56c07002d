# SPDX-License-Identifier: Apache-2.0
"""Work in threads: its result, its failure, and callers who give up."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ovms_mp.front.aside import run_aside


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
