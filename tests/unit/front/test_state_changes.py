# SPDX-License-Identifier: Apache-2.0
"""Questions for changes of the state: who gets which answer, who is told what when there is none."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from ovms_mp.errors import DeadlineExceeded, Draining
from ovms_mp.front.state_changes import StateChanges
from ovms_mp.wire.changes import ReloadConfig
from ovms_mp.wire.messages import ChangeState, StateChanged

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Desk:
    """Changes whose messages stay here."""

    def __init__(self, timeout_s: float = 300.0) -> None:
        self.sent: list[ChangeState] = []
        self.changes = StateChanges(self.sent.append, timeout_s, time.monotonic_ns)

    async def begin(self, count: int = 1) -> list[asyncio.Task[StateChanged]]:
        """Begin to ask so many times."""
        tasks = [asyncio.ensure_future(self.changes.ask(ReloadConfig())) for _ in range(count)]
        await asyncio.sleep(0)
        return tasks


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def around() -> None:
        await body()

    asyncio.run(around())


def test_each_gets_the_answer_to_its_own_question() -> None:
    async def body() -> None:
        desk = Desk()
        tasks = await desk.begin(3)
        assert len({message.request_id for message in desk.sent}) == 3
        for message in reversed(desk.sent):
            desk.changes.take(StateChanged(message.request_id, message is desk.sent[0], None))
        assert [answer.is_changed for answer in await asyncio.gather(*tasks)] == [True, False, False]

    run(body)


def test_an_answer_that_nobody_waits_for_changes_nothing() -> None:
    async def body() -> None:
        desk = Desk()
        (task,) = await desk.begin()
        (message,) = desk.sent
        task.cancel()
        await asyncio.wait([task])
        desk.changes.take(StateChanged(message.request_id, True, None))
        desk.changes.take(StateChanged(99, True, None))
        (second,) = await desk.begin()
        desk.changes.take(StateChanged(message.request_id, True, None))
        await asyncio.sleep(0)
        assert not second.done()
        desk.changes.take(StateChanged(desk.sent[1].request_id, False, None))
        assert not (await second).is_changed

    run(body)


def test_patience_ends_with_the_servers_limit_or_the_requests_own() -> None:
    async def body() -> None:
        with pytest.raises(
            DeadlineExceeded, match=r"the reload was not done within 0.001 s \(--request_timeout_s"
        ):
            await Desk(timeout_s=0.001).changes.ask(ReloadConfig())
        with pytest.raises(DeadlineExceeded):
            await Desk().changes.ask(ReloadConfig(), time.monotonic_ns() - 1)

    run(body)


def test_a_server_that_stops_tells_who_waits_and_who_comes() -> None:
    async def body() -> None:
        desk = Desk()
        tasks = await desk.begin(2)
        desk.changes.end()
        desk.changes.end()
        for task in tasks:
            with pytest.raises(Draining, match="the server is stopping"):
                await task
        with pytest.raises(Draining):
            await desk.changes.ask(ReloadConfig())
        assert len(desk.sent) == 2
        desk.changes.take(StateChanged(desk.sent[0].request_id, True, None))

    run(body)
