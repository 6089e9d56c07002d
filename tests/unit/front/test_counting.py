# SPDX-License-Identifier: Apache-2.0
"""What a front counts of its requests: each one once, when its end is known."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, TypeAlias

import pytest

from ovms_mp.errors import InferenceFailed, InputNameMismatch, ModelNotFound, OvmsError, VersionNotFound
from ovms_mp.front.routing import RoutingTable
from ovms_mp.front.tensors import RawTensor
from ovms_mp.model.dtypes import DType
from ovms_mp.model.status import State
from ovms_mp.wire.arena import create_arena_file
from ovms_mp.wire.counters import create_counters_file
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import CountersHandle, ModelRecord, TensorSpecRecord, VersionRecord, WorkerRecord
from tests.unit.front.core import MIB, Core
from tests.unit.front.workers import PlayedWorker, context, decoded, eventually, tasks_come

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.tensors import ResultTensor
    from ovms_mp.wire.version_counters import VersionTotals

PAGE = 5
INPUTS = (TensorSpecRecord("x", "FP32", ((0, 100), (2, 2))),)


class Counter:
    """A service whose worker the test plays, and a clock that moves by 10 ns whenever it is read."""

    def __init__(self, descriptor: int, counters: CountersHandle) -> None:
        self.now_ns = 1000
        core = Core(descriptor, counters=counters, retry_window_s=0.2, clock_ns=self.read_clock)
        self.service, self.dispatcher = core.service, core.dispatcher
        self.worker = PlayedWorker()
        self.epoch = 0
        self.serve(self.worker)

    def read_clock(self) -> int:
        self.now_ns += 10
        return self.now_ns

    def serve(self, *workers: PlayedWorker, page: int = PAGE, state: State = State.AVAILABLE) -> None:
        """Have version 1 of a model served at these workers."""
        self.epoch += 1
        endpoints = tuple(worker.endpoint for worker in workers)
        record = VersionRecord(1, state, 0, "", self.epoch, endpoints, 1, "", INPUTS, (), counters=page)
        records = tuple(WorkerRecord("worker-0", "CPU", 1, (0,), endpoint) for endpoint in endpoints)
        snapshot = RoutingSnapshot(self.epoch, False, records, (), (ModelRecord("m", 1, (record,)),))
        self.service.replace_table(RoutingTable(snapshot, self.service.counting.counters_of))

    def begin(
        self,
        rows: int = 1,
        encode: Callable[[VersionRoute, Sequence[ResultTensor]], str | asyncio.Future[str]] | None = None,
        *,
        name: str = "m",
        version: int = 0,
        input_name: str = "x",
        deadline_ns: int = 0,
    ) -> asyncio.Task[str]:
        given = {input_name: RawTensor(DType.FP32, (rows, 2), memoryview(bytes(8 * rows)))}

        async def predict() -> str:
            return await self.service.predict(
                name, version, decoded(given), context(deadline_ns), encode or done
            )

        return asyncio.ensure_future(predict())

    async def answered(self, call: asyncio.Task[str]) -> None:
        await tasks_come((self.worker, 1))
        self.worker.answer()
        assert await call == "done"

    def totals(self, page: int = PAGE) -> VersionTotals:
        return self.service.counting.totals(page)

    def counts(self) -> tuple[int, int, int]:
        found = self.totals()
        return found.answers, found.failures, found.cancelled


def done(_: VersionRoute, __: Sequence[ResultTensor]) -> str:
    return "done"


Body: TypeAlias = "Callable[[Counter], Awaitable[None]]"
Run: TypeAlias = "Callable[[Body], None]"


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs a test's body with a new counter in an event loop."""
    descriptor, counters = create_arena_file(0, MIB), create_counters_file(1)

    async def main(body: Body) -> None:
        counter = Counter(descriptor, counters)
        await body(counter)
        counter.worker.close()
        counter.dispatcher.close()

    yield lambda body: asyncio.run(main(body))
    os.close(descriptor)
    os.close(counters.descriptor)


def test_an_answer_is_counted_with_its_times(run: Run) -> None:
    async def body(counter: Counter) -> None:
        for rows in (3, 0, 3):
            await counter.answered(counter.begin(rows))
        found = counter.totals()
        assert counter.counts() == (3, 0, 0)
        assert found.inferences == 6
        assert {size: batch.answers for size, batch in found.batches.items()} == {0: 1, 3: 2}
        every = found.every_batch
        assert every.input_ns == every.output_ns == 30
        assert found.success_ns > every.input_ns + every.output_ns
        assert 0 < found.last_ns <= counter.now_ns

    run(body)


def test_who_encodes_in_a_thread_is_counted_when_that_has_ended(run: Run) -> None:
    async def body(counter: Counter) -> None:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        call = counter.begin(encode=lambda _, __: future)
        await tasks_come((counter.worker, 1))
        counter.worker.answer()
        await eventually(lambda: counter.dispatcher.statistics().in_flight == 0)
        assert counter.counts() == (0, 0, 0)
        future.set_result("done")
        assert await call == "done"
        assert counter.counts() == (1, 0, 0)

        failing: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        call = counter.begin(encode=lambda _, __: failing)
        await tasks_come((counter.worker, 1))
        counter.worker.answer()
        await eventually(lambda: counter.dispatcher.statistics().in_flight == 0)
        failing.set_exception(InferenceFailed("too long"))
        with pytest.raises(InferenceFailed):
            await call
        assert counter.counts() == (1, 1, 0)

    run(body)


def test_failures_count_where_the_version_is_known(run: Run) -> None:
    def broken(_: VersionRoute, __: Sequence[ResultTensor]) -> str:
        raise ValueError("a defect")

    async def body(counter: Counter) -> None:
        with pytest.raises(InputNameMismatch):
            await counter.begin(input_name="y")
        assert counter.counts() == (0, 1, 0)
        with pytest.raises(ModelNotFound):
            await counter.begin(name="other")
        with pytest.raises(VersionNotFound):
            await counter.begin(version=9)
        assert counter.counts() == (0, 1, 0)
        call = counter.begin()
        await tasks_come((counter.worker, 1))
        counter.worker.answer(error_name="InferenceFailed", error_message="no")
        with pytest.raises(InferenceFailed):
            await call
        call = counter.begin(encode=broken)
        await tasks_come((counter.worker, 1))
        counter.worker.answer()
        with pytest.raises(ValueError, match="a defect"):
            await call
        assert counter.counts() == (0, 3, 0)
        counter.serve(state=State.LOADING)
        with pytest.raises(OvmsError, match="not available"):
            await counter.begin()
        assert counter.counts() == (0, 4, 0)
        assert counter.totals().failure_ns > 0

    run(body)


def test_a_client_that_leaves_and_one_whose_deadline_has_passed(run: Run) -> None:
    async def body(counter: Counter) -> None:
        leaving = counter.begin()
        await tasks_come((counter.worker, 1))
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert counter.counts() == (0, 0, 1)
        late = counter.begin(deadline_ns=counter.now_ns + 10**9)
        await tasks_come((counter.worker, 2))
        counter.now_ns += 2 * 10**9
        late.cancel()  # As a transport does at the deadline.
        with pytest.raises(asyncio.CancelledError):
            await late
        assert counter.counts() == (0, 1, 1)
        counter.worker.answer()
        await eventually(lambda: counter.dispatcher.statistics().in_flight == 0)
        assert counter.counts() == (0, 1, 1)

    run(body)


def test_a_request_that_is_sent_again_counts_once(run: Run) -> None:
    async def body(counter: Counter) -> None:
        call = counter.begin()
        await tasks_come((counter.worker, 1))
        dead, counter.worker = counter.worker, PlayedWorker()
        dead.close()
        counter.serve(counter.worker)
        await tasks_come((counter.worker, 1))
        counter.worker.answer(error_name="VersionNotFound")
        await counter.answered(call)
        assert counter.counts() == (1, 0, 0)

    run(body)


def test_a_page_that_is_another_version_s_by_now_is_not_touched(run: Run) -> None:
    async def body(counter: Counter) -> None:
        call = counter.begin()
        await tasks_come((counter.worker, 1))
        counter.serve(counter.worker, page=0)
        counter.serve(counter.worker, page=PAGE)
        counter.worker.answer()
        assert await call == "done"
        assert counter.counts() == (0, 0, 0)
        await counter.answered(counter.begin())
        assert counter.counts() == (1, 0, 0)

    run(body)


def test_a_version_without_a_page_is_served_and_not_counted(run: Run) -> None:
    async def body(counter: Counter) -> None:
        counter.serve(counter.worker, page=0)
        await counter.answered(counter.begin())
        assert counter.counts() == (0, 0, 0)

    run(body)
