# SPDX-License-Identifier: Apache-2.0
"""A front's talk with the manager, whom the test plays: reloads, snapshots and the drain, over a real socket."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from ovms_mp.child.control import ControlLink
from ovms_mp.child.specs import CommonSpec, FrontLimits, FrontSpec
from ovms_mp.errors import Draining
from ovms_mp.front.session import FrontSession
from ovms_mp.log_levels import LogLevels
from ovms_mp.wire.arena import create_arena_file
from ovms_mp.wire.changes import ReloadConfig
from ovms_mp.wire.channels import Router, new_endpoint
from ovms_mp.wire.codec import decode_to_manager, encode
from ovms_mp.wire.messages import ChangeState, Drain, Heartbeat, Hello, RoutingSnapshot, StateChanged, Welcome
from ovms_mp.wire.records import ArenaHandle
from tests.unit.front.workers import context

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from ovms_mp.wire.messages import ToChild, ToManager

WITHIN_S = 10.0
MIB = 1 << 20


class PlayedManager:
    """The other end of the control channel."""

    def __init__(self, endpoint: str) -> None:
        self._router = Router(endpoint)
        self.received: list[ToManager] = []
        self.was_left = False

    def welcome(self) -> None:
        """Answer a front's hello, from a thread, as the front waits for it without its loop."""
        give_up_at = time.monotonic() + WITHIN_S
        pace = threading.Event()
        while not any(isinstance(message, Hello) for message in self.look()):
            assert time.monotonic() < give_up_at
            pace.wait(0.001)
        self.send(Welcome(0, 1))
        self.send(RoutingSnapshot(1, False, (), (), ()))

    def send(self, message: ToChild) -> None:
        """Say something to the front."""
        self._router.send(b"grpc-1", encode(message))

    def look(self) -> list[ToManager]:
        """All that the front has said, without its signs of life."""
        while (received := self._router.receive()) is not None:
            message = decode_to_manager(received[1])
            if not isinstance(message, Heartbeat):
                self.received.append(message)
        return self.received

    async def questions(self, count: int) -> list[ChangeState]:
        """Wait for so many questions for a reload."""
        give_up_at = time.monotonic() + WITHIN_S
        while len(found := [m for m in self.look() if isinstance(m, ChangeState)]) < count:
            assert time.monotonic() < give_up_at, found
            await asyncio.sleep(0.001)
        return found

    def close(self) -> None:
        """Hang up."""
        self._router.close()


@pytest.fixture
def run() -> Iterator[Callable[[Callable[[FrontSession, PlayedManager], Awaitable[None]]], None]]:
    """Runs a test's coroutine with a session that has started, and finishes it."""
    descriptor = create_arena_file(0, MIB)
    endpoint = new_endpoint()
    common = CommonSpec(
        parent_pid=os.getpid(),
        run_id="test",
        control_endpoint=endpoint,
        log_levels=LogLevels(),
        log_path="",
        log_format="EVENTS",
        heartbeat_interval_s=0.01,
        heartbeat_timeout_s=10.0,
        boot_timeout_s=WITHIN_S,
        arenas=(ArenaHandle(descriptor, MIB),),
    )
    limits = FrontLimits(
        request_timeout_s=WITHIN_S,
        retry_window_s=1.0,
        max_message_bytes=MIB,
        max_unpacked_bytes=0,
        max_image_megapixels=32,
        max_body_memory_bytes=64 * MIB,
    )
    spec = FrontSpec(child_id="grpc-1", kind="grpc", common=common, limits=limits)

    def runner(body: Callable[[FrontSession, PlayedManager], Awaitable[None]]) -> None:
        async def around() -> None:
            manager = PlayedManager(endpoint)
            thread = threading.Thread(target=manager.welcome)
            thread.start()
            session = await FrontSession.open(spec, ControlLink(spec, "grpc-1"))
            try:
                thread.join()
                await body(session, manager)
            finally:
                if not manager.was_left:
                    await session.finish()
                manager.close()

        asyncio.run(around())

    yield runner
    os.close(descriptor)


def test_a_reload_is_answered_after_the_snapshot_that_shows_it(run: Callable[..., None]) -> None:
    async def body(session: FrontSession, manager: PlayedManager) -> None:
        call = asyncio.ensure_future(session.service.reload(context()))
        (question,) = await manager.questions(1)
        manager.send(RoutingSnapshot(2, False, (), ("a new plan",), ()))
        manager.send(StateChanged(question.request_id, True, None))
        assert await call is True
        assert session.service.table.snapshot.plan == ("a new plan",)

    run(body)


def test_several_reloads_at_once(run: Callable[..., None]) -> None:
    async def body(session: FrontSession, manager: PlayedManager) -> None:
        calls = [asyncio.ensure_future(session.service.change(ReloadConfig(), context())) for _ in range(3)]
        questions = await manager.questions(3)
        for question in reversed(questions):
            manager.send(StateChanged(question.request_id, question is questions[0], None))
        assert await asyncio.gather(*calls) == [True, False, False]

    run(body)


@pytest.mark.parametrize(
    "farewell", [Drain(time.monotonic_ns()), RoutingSnapshot(2, True, (), (), ())], ids=["drain", "snapshot"]
)
def test_a_server_that_stops_reloads_no_more(run: Callable[..., None], farewell: ToChild) -> None:
    async def body(session: FrontSession, manager: PlayedManager) -> None:
        call = asyncio.ensure_future(session.service.change(ReloadConfig(), context()))
        await manager.questions(1)
        manager.send(farewell)
        with pytest.raises(Draining, match="the server is stopping"):
            await call
        with pytest.raises(Draining):
            await session.service.change(ReloadConfig(), context())

    run(body)


def test_a_session_that_has_finished_reloads_no_more(run: Callable[..., None]) -> None:
    async def body(session: FrontSession, manager: PlayedManager) -> None:
        call = asyncio.ensure_future(session.service.change(ReloadConfig(), context()))
        await manager.questions(1)
        await session.finish()
        manager.was_left = True
        with pytest.raises(Draining):
            await call

    run(body)
