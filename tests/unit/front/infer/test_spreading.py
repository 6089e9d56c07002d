# SPDX-License-Identifier: Apache-2.0
"""Which worker a task goes to, and where it goes when that worker dies or is replaced."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, TypeAlias

import pytest

from ovms_mp.errors import ModelNotReady
from ovms_mp.front.infer.outcomes import WorkerGone
from ovms_mp.front.tensors import RawTensor
from ovms_mp.model.dtypes import DType
from ovms_mp.wire.arena import create_arena_file
from ovms_mp.wire.records import TensorSpecRecord
from ovms_mp.wire.tasks import InferTask
from tests.unit.front.core import MIB, Core
from tests.unit.front.workers import PlayedWorker, context, decoded, eventually, table, tasks_come

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.tensors import ResultTensor
    from ovms_mp.wire.records import TensorRef

INPUTS = (TensorSpecRecord("x", "FP32", ((1, 1),)),)
GIVEN = {"x": RawTensor(DType.FP32, (1,), memoryview(bytes(4)))}


class Office:
    """A dispatcher, a service on it, and three workers that the test plays."""

    def __init__(self, descriptor: int) -> None:
        # Nobody waits for a successor: what is answered here was sent on at once.
        core = Core(descriptor, retry_window_s=0.0)
        self.leases, self.dispatcher, self.service = core.leases, core.dispatcher, core.service
        self.workers = [PlayedWorker() for _ in range(3)]
        self.calls: list[asyncio.Future[tuple[TensorRef, ...]]] = []
        self.dispatcher.keep_links([worker.endpoint for worker in self.workers])

    def send(self, route: VersionRoute, count: int = 1) -> None:
        """Begin to send tasks, one after another within this turn of the loop."""
        for _ in range(count):
            task = InferTask(self.dispatcher.new_task_id(), route.handle, (), 0, 0, 0)
            self.calls.append(asyncio.ensure_future(self.ask(route, task)))

    async def ask(self, route: VersionRoute, task: InferTask) -> tuple[TensorRef, ...]:
        return (await self.dispatcher.infer(route, task, ())).outputs

    def route(self, *serving: PlayedWorker, handle: int = 1) -> VersionRoute:
        """A way to these workers."""
        return table(self.workers, serving, handle=handle).find("m", 1)

    def predict(self) -> asyncio.Future[str]:
        """Begin a predict request."""

        def encode(route: VersionRoute, outputs: Sequence[ResultTensor]) -> str:
            return f"from version {route.version}"

        return asyncio.ensure_future(self.service.predict("m", 0, decoded(GIVEN), context(), encode))


Body: TypeAlias = "Callable[[Office], Awaitable[None]]"


@pytest.fixture
def run() -> Iterator[Callable[[Body], None]]:
    """Runs a test's coroutine in an office."""
    descriptor = create_arena_file(0, MIB)

    def runner(body: Body) -> None:
        async def around() -> None:
            office = Office(descriptor)
            try:
                await body(office)
            finally:
                office.dispatcher.close()
                await asyncio.gather(*office.calls, return_exceptions=True)
                for worker in office.workers:
                    worker.close()

        asyncio.run(around())

    yield runner
    os.close(descriptor)


def test_tasks_spread_evenly(run: Callable[[Body], None]) -> None:
    async def body(office: Office) -> None:
        a, b, c = office.workers
        office.send(office.route(a, b, c), 9)
        await tasks_come((a, 3), (b, 3), (c, 3))

    run(body)


def test_equal_workers_take_turns(run: Callable[[Body], None]) -> None:
    """One request at a time, so that none ever has more to do than another."""

    async def body(office: Office) -> None:
        a, b, _ = office.workers
        route = office.route(a, b)
        seen: list[int] = []
        for _ in range(6):
            office.send(route)
            await eventually(lambda: a.look() + b.look() == 1)
            seen.append(0 if a.tasks else 1)
            office.workers[seen[-1]].answer()
            await office.calls[-1]
        assert sorted(seen[:2]) == [0, 1]
        assert seen == seen[:2] * 3

    run(body)


def test_quick_runs_stay_in_company(run: Callable[[Body], None]) -> None:
    """With one worker, until that has many; long ones are spread, also behind quick ones."""

    async def body(office: Office) -> None:
        a, b, _ = office.workers
        quick, long = office.route(a, b, handle=1), office.route(a, b, handle=2)
        for route, run_ns in ((quick, 9_000), (long, 3_000_000)):
            office.send(route, 2)
            await tasks_come((a, 1), (b, 1))
            for worker in (a, b):
                worker.answer(infer_ns=run_ns)
            await asyncio.gather(*office.calls)

        office.send(quick, 32)
        await tasks_come((a, 32), (b, 0))
        office.send(quick, 2)
        await tasks_come((a, 32), (b, 2))
        a.answer(infer_ns=9_000)
        b.answer(infer_ns=9_000)
        await asyncio.gather(*office.calls)
        office.send(long, 4)
        await tasks_come((a, 2), (b, 2))

    run(body)


def test_a_run_that_was_kept_from_its_core_does_not_count_as_long(run: Callable[[Body], None]) -> None:
    async def body(office: Office) -> None:
        a, b, _ = office.workers
        route = office.route(a, b)
        for run_ns in (9_000, 9_000_000):
            office.send(route, 1)
            await eventually(lambda: a.look() + b.look() == 1)
            for worker in (a, b):
                if worker.tasks:
                    worker.answer(infer_ns=run_ns)
            await asyncio.gather(*office.calls)
        office.send(route, 4)
        await tasks_come((a, 4), (b, 0))

    run(body)


def test_work_for_other_versions_counts(run: Callable[[Body], None]) -> None:
    async def body(office: Office) -> None:
        a, b, _ = office.workers
        office.send(office.route(a, handle=1), 4)
        office.send(office.route(a, b, handle=2), 4)
        await tasks_come((a, 4), (b, 4))
        assert {task.handle for task in a.tasks} == {1}
        assert {task.handle for task in b.tasks} == {2}

    run(body)


def test_tasks_of_one_turn_leave_in_groups(run: Callable[[Body], None]) -> None:
    """Eight at most, so that a worker begins before all of them are decoded; the rest at the turn's end."""

    async def body(office: Office) -> None:
        a, _, _ = office.workers
        office.send(office.route(a), 20)
        await tasks_come((a, 20))
        assert a.groups == [8, 8, 4]

    run(body)


def test_many_messages_at_once_are_all_taken(run: Callable[[Body], None]) -> None:
    """A few in each turn of the loop; the socket's one edge has to do for all of them."""

    async def body(office: Office) -> None:
        a, _, _ = office.workers
        for _ in range(5):
            office.send(office.route(a), 40)
            await tasks_come((a, 40))
            tasks, a.tasks = a.tasks, []
            for task in tasks:
                a.tasks = [task]
                a.answer()
            assert await asyncio.wait_for(asyncio.gather(*office.calls), 10) == [()] * len(office.calls)
        assert office.dispatcher.statistics().in_flight == 0

    run(body)


def test_a_worker_with_a_long_task_gets_no_more_while_others_are_free(run: Callable[[Body], None]) -> None:
    async def body(office: Office) -> None:
        a, b, _ = office.workers
        office.send(office.route(a))
        await tasks_come((a, 1))
        for _ in range(5):
            office.send(office.route(a, b))
            await tasks_come((a, 1), (b, 1))
            b.answer()
            await office.calls[-1]

    run(body)


def test_the_dead_are_passed_over(run: Callable[[Body], None]) -> None:
    async def body(office: Office) -> None:
        a, b, _ = office.workers
        route = office.route(a, b)
        office.dispatcher.keep_links([b.endpoint])
        office.send(route, 4)
        await tasks_come((b, 4), (a, 0))

    run(body)


def test_none_lives(run: Callable[[Body], None]) -> None:
    async def body(office: Office) -> None:
        a, b, _ = office.workers
        for route in (office.route(a, b), office.route(a), office.route()):
            office.dispatcher.keep_links([])
            office.send(route)
            with pytest.raises(WorkerGone):
                await office.calls[-1]
        assert office.dispatcher.statistics().in_flight == 0

    run(body)


def test_who_leaves_a_version_and_lives_still_answers(run: Callable[[Body], None]) -> None:
    """A worker that is replaced leaves the version's endpoints first, and finishes what it has."""

    async def body(office: Office) -> None:
        a, b, _ = office.workers
        route = office.route(a)
        office.send(route, 2)
        await tasks_come((a, 2))
        office.send(route)  # Waits for the turn's end.
        await asyncio.sleep(0)
        office.service.replace_table(table([a, b], [b]))
        office.send(office.route(b))
        await tasks_come((a, 3), (b, 1))
        a.answer()
        b.answer()
        assert await asyncio.gather(*office.calls) == [(), (), (), ()]

    run(body)


def test_flights_of_a_dead_worker_end_and_others_go_on(run: Callable[[Body], None]) -> None:
    async def body(office: Office) -> None:
        a, b, _ = office.workers
        office.send(office.route(a), 2)
        office.send(office.route(b), 2)
        await tasks_come((a, 2), (b, 2))
        office.dispatcher.keep_links([b.endpoint])
        b.answer()
        answers = await asyncio.gather(*office.calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [WorkerGone, WorkerGone, tuple, tuple]
        assert office.dispatcher.statistics().in_flight == 0

    run(body)


def test_a_request_whose_worker_died_goes_to_another_at_once(run: Callable[[Body], None]) -> None:
    async def body(office: Office) -> None:
        a, b, c = office.workers
        office.service.replace_table(table(office.workers, office.workers, inputs=INPUTS))
        requests = [office.predict() for _ in range(9)]
        await tasks_come((a, 3), (b, 3), (c, 3))
        office.service.replace_table(table([b, c], [b, c], inputs=INPUTS))
        # Three more for two workers, and no answer from any of them yet.
        await eventually(lambda: b.look() + c.look() == 9)
        assert {len(b.tasks), len(c.tasks)} == {4, 5}
        b.answer()
        c.answer()
        assert set(await asyncio.gather(*requests)) == {"from version 1"}
        assert office.leases.statistics().leases == 0

    run(body)


def test_a_version_without_a_worker_is_not_waited_for_longer_than_allowed(
    run: Callable[[Body], None],
) -> None:
    async def body(office: Office) -> None:
        a, b, _ = office.workers
        office.service.replace_table(table([a, b], [a], inputs=INPUTS))
        request = office.predict()
        await tasks_come((a, 1))
        office.service.replace_table(table([b], [], inputs=INPUTS))
        with pytest.raises(ModelNotReady):
            await request

    run(body)
