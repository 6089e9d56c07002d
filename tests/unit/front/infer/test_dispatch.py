# SPDX-License-Identifier: Apache-2.0
"""A dispatcher without workers; tasks and answers are in ``test_spreading.py`` and ``test_containment.py``."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from ovms_mp.client_regions import SharedRegion
from ovms_mp.errors import DeadlineExceeded
from ovms_mp.front.infer.dispatch import DispatchStatistics
from ovms_mp.front.infer.leases import Lease
from ovms_mp.front.regions.region import Region
from ovms_mp.wire.arena import create_arena_file
from ovms_mp.wire.changes import RegionRecord
from ovms_mp.wire.records import TensorRef
from ovms_mp.wire.tasks import AttachRegion, DetachRegion, InferTask
from tests.unit.front.core import MIB, Core
from tests.unit.front.workers import PlayedWorker, eventually, table, tasks_come

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def run(body: Callable[[Core], Awaitable[None]], clock_ns: Callable[[], int] = lambda: 0) -> None:
    """Run a test's coroutine with a dispatcher."""
    descriptor = create_arena_file(0, MIB)

    async def around() -> None:
        core = Core(descriptor, clock_ns=clock_ns)
        try:
            await body(core)
        finally:
            core.dispatcher.close()

    asyncio.run(around())
    os.close(descriptor)


def test_task_ids_are_not_used_twice() -> None:
    async def body(core: Core) -> None:
        ids = [core.dispatcher.new_task_id() for _ in range(1000)]

        assert len(set(ids)) == 1000
        assert min(ids) > 0

    run(body)


def test_nothing_in_flight_is_idle_at_once() -> None:
    async def body(core: Core) -> None:
        waiting = asyncio.ensure_future(core.dispatcher.wait_idle(3600))
        await asyncio.sleep(0)
        assert waiting.done()

    run(body)


def test_a_worker_knows_a_clients_region_from_its_first_task_until_nobody_holds_it() -> None:
    async def body(core: Core) -> None:
        worker = PlayedWorker()
        core.dispatcher.keep_links([worker.endpoint])
        route = table([worker], [worker]).find("m", 1)
        ended: list[int] = []

        def end(number: int) -> None:
            ended.append(number)
            core.dispatcher.detach_region(number)

        with SharedRegion(4096) as memory:
            status = os.fstat(memory.descriptor)
            record = RegionRecord("r", "", 0, 4096, status.st_dev, status.st_ino, memory.descriptor)
            region = Region(record, os.dup(memory.descriptor), 7, end)
        tasks = []
        for task_id in (1, 2):
            region.hold()
            lease = Lease(64, 4, region=region)
            task = InferTask(task_id, 1, (TensorRef(64, 4, (1,), 7),), 0, 64, 0)
            tasks.append(asyncio.ensure_future(core.dispatcher.infer(route, task, (lease,))))
            await asyncio.sleep(0)
            core.leases.release(lease)
        region.release()
        await tasks_come((worker, 2))
        assert ended == []
        assert [type(message) for message in worker.regions] == [AttachRegion]

        worker.answer()
        await asyncio.gather(*tasks)

        assert ended == [7]
        await eventually(lambda: not worker.look() and len(worker.regions) == 2)
        assert worker.regions[1] == DetachRegion(7)
        worker.close()

    run(body)


def test_whose_deadline_has_passed_is_told_and_the_worker_hears_of_it() -> None:
    now_ns = [1000]

    async def body(core: Core) -> None:
        worker = PlayedWorker()
        core.dispatcher.keep_links([worker.endpoint])
        route = table([worker], [worker]).find("m", 1)
        early = asyncio.ensure_future(core.dispatcher.infer(route, InferTask(1, 1, (), 0, 0, 2000), ()))
        late = asyncio.ensure_future(core.dispatcher.infer(route, InferTask(2, 1, (), 0, 0, 9000), ()))
        await tasks_come((worker, 2))
        now_ns[0] = 2001
        await eventually(early.done)
        assert isinstance(early.exception(), DeadlineExceeded)
        await eventually(lambda: worker.look() == 2 and worker.cancelled == [1])
        worker.answer()

        assert (await late).outputs == ()
        await eventually(lambda: core.dispatcher.statistics() == DispatchStatistics(0, 2, 0))
        worker.close()

    run(body, lambda: now_ns[0])


def test_an_answer_that_nobody_asked_for_is_counted_and_dropped() -> None:
    async def body(core: Core) -> None:
        worker = PlayedWorker()
        core.dispatcher.keep_links([worker.endpoint])
        route = table([worker], [worker]).find("m", 1)
        call = asyncio.ensure_future(core.dispatcher.infer(route, InferTask(1, 1, (), 0, 0, 0), ()))
        await tasks_come((worker, 1))
        worker.tasks.append(worker.tasks[0])
        worker.answer()

        assert (await call).outputs == ()
        assert core.dispatcher.statistics() == DispatchStatistics(0, 1, 1)
        worker.close()

    run(body)
