# SPDX-License-Identifier: Apache-2.0
"""Questions for a reload: who gets which answer, who is told what when there is none."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from ovms_mp.errors import (
    ConfigError,
    ConfigRejected,
    ConfigUnreadable,
    DeadlineExceeded,
    DeviceUnavailable,
    Draining,
    ModelLoadFailed,
    OvmsError,
    QueueFull,
)
from ovms_mp.front.reload import Reloads, reload_failure
from ovms_mp.wire.messages import ConfigReloaded, ReloadConfig

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Desk:
    """Reloads whose messages stay here."""

    def __init__(self, timeout_s: float = 300.0) -> None:
        self.sent: list[ReloadConfig] = []
        self.reloads = Reloads(self.sent.append, timeout_s, time.monotonic_ns)

    async def begin(self, count: int = 1) -> list[asyncio.Task[ConfigReloaded]]:
        """Begin to ask so many times."""
        tasks = [asyncio.ensure_future(self.reloads.ask()) for _ in range(count)]
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
            desk.reloads.take(ConfigReloaded(message.request_id, message is desk.sent[0], None))
        assert [answer.is_changed for answer in await asyncio.gather(*tasks)] == [True, False, False]

    run(body)


def test_an_answer_that_nobody_waits_for_changes_nothing() -> None:
    async def body() -> None:
        desk = Desk()
        (task,) = await desk.begin()
        (message,) = desk.sent
        task.cancel()
        await asyncio.wait([task])
        desk.reloads.take(ConfigReloaded(message.request_id, True, None))
        desk.reloads.take(ConfigReloaded(99, True, None))
        (second,) = await desk.begin()
        desk.reloads.take(ConfigReloaded(message.request_id, True, None))
        await asyncio.sleep(0)
        assert not second.done()
        desk.reloads.take(ConfigReloaded(desk.sent[1].request_id, False, None))
        assert not (await second).is_changed

    run(body)


def test_patience_ends_with_the_servers_limit_or_the_requests_own() -> None:
    async def body() -> None:
        with pytest.raises(DeadlineExceeded, match=r"within 0.001 s \(--request_timeout_s"):
            await Desk(timeout_s=0.001).reloads.ask()
        with pytest.raises(DeadlineExceeded):
            await Desk().reloads.ask(time.monotonic_ns() - 1)

    run(body)


def test_a_server_that_stops_tells_who_waits_and_who_comes() -> None:
    async def body() -> None:
        desk = Desk()
        tasks = await desk.begin(2)
        desk.reloads.end()
        desk.reloads.end()
        for task in tasks:
            with pytest.raises(Draining, match="the server is stopping"):
                await task
        with pytest.raises(Draining):
            await desk.reloads.ask()
        assert len(desk.sent) == 2
        desk.reloads.take(ConfigReloaded(desk.sent[0].request_id, True, None))

    run(body)


@pytest.mark.parametrize(
    ("error", "kind", "code", "status", "message"),
    [
        (
            ConfigUnreadable("/c.json: no such file"),
            ConfigUnreadable,
            "INTERNAL",
            500,
            "Config file not found or cannot open. /c.json: no such file",
        ),
        (
            ConfigError("$.model_config_list is missing"),
            ConfigRejected,
            "FAILED_PRECONDITION",
            412,
            "Reloading config file failed. Check server logs for more info. $.model_config_list is missing",
        ),
        (
            ModelLoadFailed("version 2 of 'm': no model"),
            ModelLoadFailed,
            "FAILED_PRECONDITION",
            400,
            "Reloading models versions failed. Check server logs for more info. version 2 of 'm': no model",
        ),
        (
            DeviceUnavailable("no GPU"),
            DeviceUnavailable,
            "FAILED_PRECONDITION",
            400,
            "Reloading models versions failed. Check server logs for more info. no GPU",
        ),
        (QueueFull("too many"), QueueFull, "RESOURCE_EXHAUSTED", 429, "too many"),
    ],
)
def test_what_a_client_is_told(
    error: OvmsError, kind: type[OvmsError], code: str, status: int, message: str
) -> None:
    told = reload_failure(error)

    assert type(told) is kind
    assert (told.code.name, told.http_status, told.message) == (code, status, message)
