# SPDX-License-Identifier: Apache-2.0
"""Outputs whose size a request chooses: what is leased for them, and what is refused before that."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, TypeAlias

import pytest

from ovms_mp.errors import AnswerTooLarge
from ovms_mp.front.tensors import RawTensor
from ovms_mp.model.dtypes import DType
from ovms_mp.wire.arena import create_arena_file
from ovms_mp.wire.records import TensorSpecRecord
from tests.unit.front.core import MIB, Core
from tests.unit.front.workers import PlayedWorker, context, decoded, table, tasks_come

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.tensors import ResultTensor

INPUTS = (TensorSpecRecord("x", "FP32", ((1, -1), (0, 4))),)
OUTPUTS = (TensorSpecRecord("y", "FP32", ((0, -1), (1000, 1000))),)


class Office:
    """A service whose arena has 8 MiB, and the one worker."""

    def __init__(self, descriptor: int, max_message_bytes: int) -> None:
        core = Core(descriptor, 8 * MIB, retry_window_s=0.0, max_message_bytes=max_message_bytes)
        self.leases, self.dispatcher, self.service = core.leases, core.dispatcher, core.service
        self.worker = PlayedWorker()
        self.service.replace_table(table([self.worker], [self.worker], inputs=INPUTS, outputs=OUTPUTS))

    def predict(self, *shape: int) -> asyncio.Future[str]:
        size = 4 * shape[0] * shape[1]

        def encode(_: VersionRoute, outputs: Sequence[ResultTensor]) -> str:
            return "answered"

        given = {"x": RawTensor(DType.FP32, shape, memoryview(bytes(size)))}
        return asyncio.ensure_future(self.service.predict("m", 0, decoded(given), context(), encode))


Body: TypeAlias = "Callable[[Office], Awaitable[None]]"


@pytest.fixture
def run() -> Iterator[Callable[..., None]]:
    """Runs a test's coroutine in an office."""
    descriptor = create_arena_file(0, 8 * MIB)

    def runner(body: Body, max_message_bytes: int = 3 * MIB) -> None:
        async def around() -> None:
            office = Office(descriptor, max_message_bytes)
            try:
                await body(office)
                assert office.leases.statistics().leases == 0
            finally:
                office.worker.close()
                office.dispatcher.close()

        asyncio.run(around())

    yield runner
    os.close(descriptor)


@pytest.mark.parametrize(
    ("max_message_bytes", "limit"),
    [(3 * MIB, 3 * MIB), (64 * MIB, 4 * MIB)],
    ids=["message", "half the arena"],
)
def test_more_than_the_limit_is_refused_and_the_limit_is_not(
    run: Callable[..., None], max_message_bytes: int, limit: int
) -> None:
    async def body(office: Office) -> None:
        request = office.predict(1, 4)
        await tasks_come((office.worker, 1))
        office.worker.answer(needed_nbytes=limit + 64)
        with pytest.raises(AnswerTooLarge) as caught:
            await request
        assert f"{limit + 64} bytes, the limit is {limit}," in caught.value.message
        assert "--max_message_mb" in caught.value.message
        assert "--arena_size_mb" in caught.value.message

        request = office.predict(1, 4)
        await tasks_come((office.worker, 1))
        office.worker.answer(needed_nbytes=limit)
        await tasks_come((office.worker, 1))
        assert office.worker.tasks[0].output_nbytes == limit
        assert office.leases.statistics().leased_bytes < limit + 8192
        office.worker.answer()
        with pytest.raises(ValueError, match="zip"):  # The played worker answers without outputs.
            await request

    run(body, max_message_bytes)


def test_what_was_refused_is_not_leased_the_next_time(run: Callable[..., None]) -> None:
    async def body(office: Office) -> None:
        for _ in range(2):
            request = office.predict(1, 4)
            await tasks_come((office.worker, 1))
            assert office.worker.tasks[0].output_nbytes < MIB
            office.worker.answer(needed_nbytes=1 << 40)
            with pytest.raises(AnswerTooLarge):
                await request

    run(body)


def test_a_batch_of_nothing_leases_no_more_than_another_request(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovms_mp.front.infer.output_room._MOST_GUESSED_BYTES", MIB)

    async def body(office: Office) -> None:
        request = office.predict(2 * MIB, 0)
        await tasks_come((office.worker, 1))
        assert office.worker.tasks[0].output_nbytes == MIB
        office.worker.answer(error_name="InferenceFailed", error_message="no")
        await asyncio.gather(request, return_exceptions=True)

    run(body)
