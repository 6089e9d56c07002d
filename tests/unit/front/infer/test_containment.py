# SPDX-License-Identifier: Apache-2.0
"""What fails in the front's shared steps ends one request: the others of the same batch are answered."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import msgspec
import pytest

from ovms_mp.errors import InferenceFailed, ProtocolError
from ovms_mp.front.routing import RoutingTable
from ovms_mp.front.steps import Periodic, attempt
from ovms_mp.front.tensors import RawTensor
from ovms_mp.model.dtypes import DType
from ovms_mp.model.status import State
from ovms_mp.wire.arena import create_arena_file
from ovms_mp.wire.codec import encode
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import ModelRecord, TensorRef, TensorSpecRecord, VersionRecord
from ovms_mp.wire.tasks import InferResult, InferTask
from tests.unit.front.core import MIB, Core
from tests.unit.front.workers import PlayedWorker, context, decoded, eventually, table, tasks_come

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

INPUTS = (TensorSpecRecord("x", "FP32", ((1, 1),)),)
GIVEN = {"x": RawTensor(DType.FP32, (1,), memoryview(bytes(4)))}
TOO_LARGE = 1 << 64


class Desk:
    """A dispatcher and one worker that the test plays."""

    def __init__(self, descriptor: int) -> None:
        core = Core(descriptor, retry_window_s=0.0)
        self.leases, self.dispatcher, self.service = core.leases, core.dispatcher, core.service
        self.worker = PlayedWorker()
        self.dispatcher.keep_links([self.worker.endpoint])
        self.route = table([self.worker], [self.worker]).find("m", 1)
        self.calls: list[asyncio.Future[tuple[TensorRef, ...]]] = []

    def send(self, *tasks: InferTask) -> None:
        """Send tasks in one turn of the loop, each with a lease of its own."""
        for task in tasks:
            self.calls.append(asyncio.ensure_future(self.ask(task)))

    async def ask(self, task: InferTask) -> tuple[TensorRef, ...]:
        lease = self.leases.lease(64)
        try:
            return (await self.dispatcher.infer(self.route, task, (lease,))).outputs
        finally:
            self.leases.release(lease)

    def outcomes(self) -> list[type[BaseException] | None]:
        """How each call ended."""
        return [None if (error := call.exception()) is None else type(error) for call in self.calls]


@pytest.fixture
def run() -> Iterator[Callable[[Callable[[Desk], Awaitable[None]]], None]]:
    """Runs a test's coroutine at a desk; in the end nothing is leased."""
    descriptor = create_arena_file(0, MIB)

    def runner(body: Callable[[Desk], Awaitable[None]]) -> None:
        async def around() -> None:
            desk = Desk(descriptor)
            try:
                await body(desk)
                await asyncio.gather(*desk.calls, return_exceptions=True)
                assert desk.leases.statistics().leases == 0
                assert desk.dispatcher.statistics().in_flight == 0
            finally:
                desk.dispatcher.close()
                desk.worker.close()

        asyncio.run(around())

    yield runner
    os.close(descriptor)


def task(number: int, *, deadline_ns: int = 0, dims: tuple[int, ...] = (1,), flow: int = 0) -> InferTask:
    return InferTask(number, 1, (TensorRef(0, 4, dims),), 0, 64, deadline_ns, flow)


@pytest.mark.parametrize(
    "bad",
    [task(2, deadline_ns=TOO_LARGE), task(2, dims=(0, TOO_LARGE)), task(2, flow=TOO_LARGE)],
    ids=["deadline", "shape", "flow"],
)
@pytest.mark.parametrize("others", [2, 9], ids=["end_of_turn", "full_group"])
def test_a_task_that_cannot_be_sent_fails_alone(
    run: Callable[[Callable[[Desk], Awaitable[None]]], None], bad: InferTask, others: int
) -> None:
    async def body(desk: Desk) -> None:
        desk.send(task(1), bad, *[task(number) for number in range(3, 2 + others)])
        await tasks_come((desk.worker, others))
        desk.worker.answer()
        await asyncio.gather(*desk.calls, return_exceptions=True)

        assert desk.outcomes() == [None, InferenceFailed, *[None] * (others - 1)]

    run(body)


def test_what_comes_after_it_is_sent(run: Callable[[Callable[[Desk], Awaitable[None]]], None]) -> None:
    async def body(desk: Desk) -> None:
        desk.send(task(1, deadline_ns=TOO_LARGE))
        await asyncio.gather(*desk.calls, return_exceptions=True)
        desk.send(task(2))
        await tasks_come((desk.worker, 1))
        desk.worker.answer()
        await asyncio.gather(*desk.calls, return_exceptions=True)

        assert desk.outcomes() == [InferenceFailed, None]

    run(body)


def test_an_answer_that_is_none_fails_its_task_alone(
    run: Callable[[Callable[[Desk], Awaitable[None]]], None],
) -> None:
    async def body(desk: Desk) -> None:
        desk.send(task(1), task(2), task(3))
        await tasks_come((desk.worker, 3))
        answers = [InferResult(1, ()), ["InferResult", 2, "no list"], InferResult(3, ())]
        desk.worker.tasks.clear()
        desk.worker.send(msgspec.msgpack.encode(answers))
        await asyncio.gather(*desk.calls, return_exceptions=True)

        assert desk.outcomes() == [None, ProtocolError, None]

    run(body)


@pytest.mark.parametrize("rubbish", [b"", b"\xc1", encode([[]]), b"\x93"])
def test_rubbish_in_between_does_no_harm(
    run: Callable[[Callable[[Desk], Awaitable[None]]], None], rubbish: bytes
) -> None:
    async def body(desk: Desk) -> None:
        desk.send(task(1))
        await tasks_come((desk.worker, 1))
        desk.worker.send(rubbish)
        desk.worker.answer()
        await asyncio.gather(*desk.calls, return_exceptions=True)

        assert desk.outcomes() == [None]

    run(body)


@pytest.mark.parametrize("deadline_ns", [99_999_999 * 3600 * 10**9, (1 << 63) - 1, 1 << 64, 10**40])
def test_deadlines_of_clients_are_bounded(
    run: Callable[[Callable[[Desk], Awaitable[None]]], None], deadline_ns: int
) -> None:
    async def body(desk: Desk) -> None:
        desk.service.replace_table(table([desk.worker], [desk.worker], inputs=INPUTS))
        call = asyncio.ensure_future(
            desk.service.predict("m", 0, decoded(GIVEN), context(deadline_ns), lambda *_: "answered")
        )
        await tasks_come((desk.worker, 1))
        assert 0 < desk.worker.tasks[0].deadline_ns < 1 << 62
        desk.worker.answer()

        assert await call == "answered"

    run(body)


def test_a_version_that_cannot_be_understood_is_the_only_one_that_is_not_served() -> None:
    def version(number: int, dtype: str) -> VersionRecord:
        inputs = (TensorSpecRecord("x", dtype, ((1, 1),)),)
        return VersionRecord(number, State.AVAILABLE, 0, "", number, ("ipc://@x",), 1, "", inputs, inputs)

    model = ModelRecord("m", 1, (version(1, "FP32"), version(2, "FP1024")))
    found = RoutingTable(RoutingSnapshot(1, False, (), (), (model,)))

    assert found.find("m", 1).endpoints == ("ipc://@x",)
    assert not found.find("m", 2).endpoints
    assert found.find("m", 2).status.error_code == 13


def test_a_periodic_step_goes_on_whether_or_not_it_raises() -> None:
    async def body() -> None:
        calls = 0

        def step() -> None:
            nonlocal calls
            calls += 1
            raise ValueError("why")

        periodic = Periodic(asyncio.get_running_loop(), "front.test", lambda: 0.0, step)
        await eventually(lambda: calls >= 3)
        periodic.cancel()

    asyncio.run(body())


def test_a_step_that_raises_is_tried_again_until_it_does_not() -> None:
    async def body() -> None:
        calls: list[str] = []

        def step(text: str) -> None:
            calls.append(text)
            if len(calls) < 3:
                raise ValueError("why")

        attempt(asyncio.get_running_loop(), "front.test", step, "a")
        await eventually(lambda: len(calls) == 3)
        assert calls == ["a", "a", "a"]

    asyncio.run(body())
