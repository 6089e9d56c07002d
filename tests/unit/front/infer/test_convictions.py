# SPDX-License-Identifier: Apache-2.0
"""What the front does when a worker dies: with tasks it was running, with those it was not, and with the next ones."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, TypeAlias

import pytest

from ovms_mp.errors import Draining, WorkerCrashed, WorkerLost
from ovms_mp.front.infer.convictions import Convictions
from ovms_mp.front.tensors import RawTensor
from ovms_mp.model.dtypes import DType
from ovms_mp.wire.arena import create_arena_file
from ovms_mp.wire.records import Conviction, DeathRecord, RunMark, TensorRef, TensorSpecRecord
from ovms_mp.wire.run_page import NOT_A_TASK
from ovms_mp.wire.tasks import InferTask
from tests.unit.front.core import MIB, Core
from tests.unit.front.workers import PlayedWorker, context, decoded, table, tasks_come

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.tensors import ResultTensor

INPUTS = (TensorSpecRecord("x", "FP32", ((1, 4),)),)
SEGFAULT = "killed by signal 11 (SIGSEGV)"
OTHERS = RunMark(7, 1, 4711, 9)
"""A task of another front."""
LOAD = RunMark(0, 0, NOT_A_TASK, 3)


class Office:
    """A service, and workers that the test plays, one after another."""

    def __init__(self, descriptor: int) -> None:
        self.now_ns = time.monotonic_ns()
        core = Core(descriptor, address=b"2:5", clock_ns=lambda: self.now_ns)
        self.leases, self.dispatcher, self.service = core.leases, core.dispatcher, core.service
        self.announced = core.announced
        self.deaths: list[DeathRecord] = []
        self.worker = PlayedWorker()
        self.show()

    def show(self, convictions: tuple[Conviction, ...] = ()) -> None:
        """The manager's next snapshot."""
        self.service.replace_table(
            table(
                [self.worker],
                [self.worker],
                inputs=INPUTS,
                deaths=tuple(self.deaths),
                convictions=convictions,
            )
        )

    def predict(self, value: int = 1, length: int = 1) -> asyncio.Future[str]:
        """Begin a request whose bytes all have a value."""
        given = {"x": RawTensor(DType.FP32, (length,), memoryview(bytes([value]) * 4 * length))}

        def encode(route: VersionRoute, outputs: Sequence[ResultTensor]) -> str:
            return f"from version {route.version}"

        return asyncio.ensure_future(self.service.predict("m", 0, decoded(given), context(), encode))

    async def tasks(self, count: int) -> list[InferTask]:
        """What the worker has been sent."""
        await tasks_come((self.worker, count))
        return self.worker.tasks

    def die(self, *running: RunMark, has_crashed: bool = True, reason: str = SEGFAULT) -> None:
        """The worker dies while it runs these, and a successor is there."""
        self.deaths.append(DeathRecord(self.worker.endpoint, reason, has_crashed, running))
        self.worker.close()
        self.worker = PlayedWorker()
        self.show()


def mark(task: InferTask) -> RunMark:
    return RunMark(2, 5, task.task_id, task.handle)


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
                assert office.leases.statistics().leases == 0
            finally:
                office.worker.close()
                office.dispatcher.close()

        asyncio.run(around())

    yield runner
    os.close(descriptor)


async def crashed(request: asyncio.Future[str]) -> str:
    with pytest.raises(WorkerCrashed) as caught:
        await request
    return caught.value.message


def test_what_crashed_its_worker_alone_is_not_sent_again(run: Callable[[Body], None]) -> None:
    async def body(office: Office) -> None:
        request = office.predict()
        (task,) = await office.tasks(1)
        office.die(mark(task))
        text = await crashed(request)
        assert "model 'm' version 1" in text
        assert SEGFAULT in text
        assert office.worker.look() == 0
        (conviction,) = office.announced
        assert (conviction.handle, conviction.reason) == (1, SEGFAULT)

    run(body)


def test_the_same_is_refused_from_then_on_and_nothing_else(run: Callable[[Body], None]) -> None:
    async def body(office: Office) -> None:
        request = office.predict(1, 2)
        office.die(mark((await office.tasks(1))[0]))
        await crashed(request)
        assert "the same inputs 0 s ago" in await crashed(office.predict(1, 2))
        others = [office.predict(2, 2), office.predict(1, 1), office.predict(1, 3)]
        await office.tasks(3)
        office.worker.answer()
        assert await asyncio.gather(*others) == ["from version 1"] * 3

    run(body)


def test_it_is_refused_while_no_worker_serves_the_version(run: Callable[[Body], None]) -> None:
    async def body(office: Office) -> None:
        request = office.predict()
        office.die(mark((await office.tasks(1))[0]))
        await crashed(request)
        office.service.replace_table(table([], [], inputs=INPUTS))
        await crashed(office.predict())

    run(body)


def test_what_another_front_found_out_is_refused_here(run: Callable[[Body], None]) -> None:
    async def body(office: Office) -> None:
        request = office.predict()
        office.die(mark((await office.tasks(1))[0]))
        await crashed(request)
        (conviction,) = office.announced
        other = Office(descriptor := create_arena_file(0, MIB))
        other.show((conviction,))
        await crashed(other.predict())
        assert other.announced == []
        other.worker.close()
        other.dispatcher.close()
        os.close(descriptor)

    run(body)


def test_it_is_forgotten_in_time(run: Callable[[Body], None]) -> None:
    async def body(office: Office) -> None:
        request = office.predict()
        office.die(mark((await office.tasks(1))[0]))
        await crashed(request)
        office.now_ns += 599 * 10**9
        await crashed(office.predict())
        office.now_ns += 2 * 10**9
        again = office.predict()
        await office.tasks(1)
        office.worker.answer()
        assert await again == "from version 1"

    run(body)


@pytest.mark.parametrize("deaths", [1, 2, 5])
def test_what_only_waited_is_sent_again_however_many_workers_die(
    run: Callable[[Body], None], deaths: int
) -> None:
    async def body(office: Office) -> None:
        request = office.predict()
        for _ in range(deaths):
            await office.tasks(1)
            office.die(OTHERS)
        (task,) = await office.tasks(1)
        assert not task.is_suspect
        office.worker.answer()
        assert await request == "from version 1"
        assert office.announced == []

    run(body)


@pytest.mark.parametrize("beside", [OTHERS, LOAD], ids=["a task of another front", "a load"])
def test_what_ran_beside_something_runs_again_under_suspicion(
    run: Callable[[Body], None], beside: RunMark
) -> None:
    async def body(office: Office) -> None:
        request = office.predict()
        (task,) = await office.tasks(1)
        office.die(mark(task), beside)
        (task,) = await office.tasks(1)
        assert task.is_suspect
        office.worker.answer()
        assert await request == "from version 1"
        assert office.announced == []

    run(body)


def test_what_crashes_again_under_suspicion_is_guilty(run: Callable[[Body], None]) -> None:
    async def body(office: Office) -> None:
        guilty, innocent = office.predict(1), office.predict(2)
        tasks = await office.tasks(2)
        office.die(*map(mark, tasks))
        first, _ = await office.tasks(2)
        office.die(mark(first))
        await crashed(guilty)
        (task,) = await office.tasks(1)
        assert task.is_suspect
        office.worker.answer()
        assert await innocent == "from version 1"
        assert len(office.announced) == 1

    run(body)


def test_a_worker_that_somebody_killed_is_not_held_against_what_it_ran(run: Callable[[Body], None]) -> None:
    async def body(office: Office) -> None:
        request = office.predict()
        office.die(mark((await office.tasks(1))[0]), has_crashed=False)
        (task,) = await office.tasks(1)
        assert not task.is_suspect
        office.worker.answer()
        assert await request == "from version 1"

    run(body)


def test_what_ran_alone_in_two_workers_that_were_killed_is_guilty(run: Callable[[Body], None]) -> None:
    """The kernel kills what takes all memory."""

    async def body(office: Office) -> None:
        request = office.predict()
        for _ in range(2):
            office.die(mark((await office.tasks(1))[0]), has_crashed=False)
        await crashed(request)
        await crashed(office.predict())
        assert len(office.announced) == 1

    run(body)


def test_what_ran_with_others_in_two_workers_that_were_killed_is_given_up(
    run: Callable[[Body], None],
) -> None:
    async def body(office: Office) -> None:
        request = office.predict()
        for _ in range(2):
            office.die(mark((await office.tasks(1))[0]), OTHERS, has_crashed=False)
        with pytest.raises(WorkerLost, match="2 inference workers died while they ran this request"):
            await request
        assert office.announced == []

    run(body)


def test_it_is_found_out_though_its_client_has_left(run: Callable[[Body], None]) -> None:
    async def body(office: Office) -> None:
        request = office.predict()
        (task,) = await office.tasks(1)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        office.die(mark(task))
        assert len(office.announced) == 1
        await crashed(office.predict())

    run(body)


def test_a_task_of_the_same_number_of_an_earlier_front_is_another_one(run: Callable[[Body], None]) -> None:
    async def body(office: Office) -> None:
        request = office.predict()
        (task,) = await office.tasks(1)
        office.die(RunMark(2, 4, task.task_id, task.handle))
        await office.tasks(1)
        office.worker.answer()
        assert await request == "from version 1"

    run(body)


def test_a_request_ends_with_its_front(run: Callable[[Body], None]) -> None:
    async def body(office: Office) -> None:
        request = office.predict()
        await office.tasks(1)
        office.dispatcher.close()
        with pytest.raises(Draining):
            await request

    run(body)


# Recognising inputs.


class Desk:
    """Convictions over an arena of the test."""

    def __init__(self) -> None:
        self.memory = bytearray(1 << 16)
        self.region = bytearray(3 << 20)
        self.announced: list[Conviction] = []
        self.known = Convictions(
            memoryview(self.memory), self.announced.append, time.monotonic_ns, self.read_part
        )

    def read_part(self, ref: TensorRef, start: int, end: int) -> memoryview:
        """Of the one region of the test, which is as long as its input."""
        return memoryview(self.region)[start:end]

    def task(self, *inputs: tuple[int, int], handle: int = 1, width: int = 0) -> InferTask:
        """With inputs at these (offset, nbytes)."""
        refs = tuple(TensorRef(start, n, (n // width, width) if width else (n,)) for start, n in inputs)
        return InferTask(1, handle, refs, 0, 0, 0)

    def is_refused(self, task: InferTask) -> bool:
        try:
            self.known.check(task, "model")
        except WorkerCrashed:
            return True
        return False


@pytest.mark.parametrize("place", [0, 4095, 10_000, 29_999])
def test_every_byte_counts(place: int) -> None:
    desk = Desk()
    task = desk.task((64, 30_000))
    desk.known.convict(task, SEGFAULT)
    assert desk.is_refused(task)
    desk.memory[64 + place] ^= 1
    assert not desk.is_refused(task)


def test_shape_and_version_and_the_cut_between_inputs_count_and_the_place_does_not() -> None:
    desk = Desk()
    desk.known.convict(desk.task((0, 64), (64, 64)), SEGFAULT)
    assert desk.is_refused(desk.task((0, 64), (64, 64)))
    assert desk.is_refused(desk.task((1024, 64), (4096, 64)))
    assert not desk.is_refused(desk.task((0, 64), (64, 64), handle=2))
    assert not desk.is_refused(desk.task((0, 64), (64, 64), width=2))
    assert not desk.is_refused(desk.task((0, 128)))
    assert not desk.is_refused(desk.task((0, 32), (32, 96)))


def test_an_input_without_elements_and_one_longer_than_what_is_sketched() -> None:
    desk = Desk()
    for task in (desk.task((0, 0)), desk.task((0, 0), (64, 4096)), desk.task((0, 4097)), desk.task()):
        assert not desk.is_refused(task)
        desk.known.convict(task, SEGFAULT)
        assert desk.is_refused(task)


def test_only_the_newest_are_kept_and_what_is_over_is_not() -> None:
    desk = Desk()
    now = time.monotonic_ns()
    many = [Conviction(1, b"s", b"%d" % n, now + n, now + 10**12, SEGFAULT) for n in range(200)]
    old = Conviction(2, b"s", b"old", now - 10, now - 1, SEGFAULT)
    desk.known.learn((*many, old))
    assert desk.known.by_handle == {1: many[-64:]}
    desk.known.learn(())
    assert desk.known.by_handle == {1: many[-64:]}


def test_an_input_in_a_clients_region_is_recognised_by_what_is_there_now() -> None:
    desk = Desk()
    task = InferTask(1, 1, (TensorRef(64, len(desk.region), (len(desk.region),), 7),), 0, 0, 0)
    desk.known.convict(task, "crashed")

    with pytest.raises(WorkerCrashed):
        desk.known.check(task, "m")

    desk.region[1 << 20] = 1
    desk.known.check(task, "m")
