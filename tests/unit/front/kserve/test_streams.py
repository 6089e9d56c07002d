# SPDX-License-Identifier: Apache-2.0
"""``InferStream``: order, bounds, failures and ends of a stream, with a client and answers that wait for the test."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ovms_mp.errors import Draining, ModelNotFound
from ovms_mp.front.gathered import Gathered
from ovms_mp.front.kserve import streams
from ovms_mp.front.kserve.streams import InferStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from ovms_mp.front.methods import Reply

WITHIN_S = 10.0


class PlayedClient:
    """Sends what the test gives it, and keeps what it gets."""

    def __init__(self, *messages: bytes, is_over: bool = True) -> None:
        self._messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        for message in messages:
            self._messages.put_nowait(message)
        if is_over:
            self.end()
        self.taken = 0
        self.replies: list[bytes] = []
        self.reads = asyncio.Event()
        self.reads.set()

    def end(self) -> None:
        self._messages.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self._messages.get()) is not None:
            self.taken += 1
            yield message

    async def send(self, reply: Reply) -> None:
        await self.reads.wait()
        if isinstance(reply, Gathered):
            self.replies.append(b"".join(reply.pieces))
            reply.release()
        else:
            self.replies.append(reply)


class Answers:
    """Answers that are given when the test says so; a message is its own answer."""

    def __init__(self) -> None:
        self.waiting: dict[bytes, asyncio.Future[Reply]] = {}
        self.cancelled: list[bytes] = []

    async def answer(self, message: bytes) -> Reply:
        self.waiting[message] = asyncio.get_running_loop().create_future()
        try:
            return await self.waiting[message]
        except asyncio.CancelledError:
            self.cancelled.append(message)
            raise

    def give(self, *messages: bytes) -> None:
        for message in messages:
            self.waiting[message].set_result(message)


async def never() -> None:
    await asyncio.Event().wait()


def played(around: Callable[[], Coroutine[None, None, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(WITHIN_S):
            await around()

    asyncio.run(bounded())


async def settled() -> None:
    """Let everything go as far as it can."""
    for _ in range(50):
        await asyncio.sleep(0)


def test_answers_keep_the_order_of_requests() -> None:
    async def around() -> None:
        client, answers = PlayedClient(b"1", b"2", b"3"), Answers()
        serving = asyncio.create_task(InferStream(client, answers.answer, never).serve())
        await settled()
        assert list(answers.waiting) == [b"1", b"2", b"3"], "they run at once"
        answers.give(b"3", b"2")
        await settled()
        assert client.replies == []
        answers.give(b"1")
        await serving
        assert client.replies == [b"1", b"2", b"3"]

    played(around)


def test_so_many_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_MOST_AT_ONCE", 2)

    async def around() -> None:
        messages = [bytes([number]) for number in range(5)]
        client, answers = PlayedClient(*messages), Answers()
        serving = asyncio.create_task(InferStream(client, answers.answer, never).serve())
        for number, message in enumerate(messages):
            await settled()
            assert len(answers.waiting) == min(number + 2, 5)
            answers.give(message)
        await serving
        assert client.replies == messages

    played(around)


def test_so_many_bytes_are_held_and_a_message_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_MOST_BYTES_AT_ONCE", 10)

    async def around() -> None:
        client, answers = PlayedClient(b"a" * 10, b"b" * 100, b"c"), Answers()
        serving = asyncio.create_task(InferStream(client, answers.answer, never).serve())
        await settled()
        assert client.taken == 2
        answers.give(b"a" * 10)
        await settled()
        assert client.taken == 2
        answers.give(b"b" * 100)
        await settled()
        answers.give(b"c")
        await serving
        assert client.taken == 3

    played(around)


def test_a_client_that_reads_nothing_is_sent_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_MOST_AT_ONCE", 2)

    async def around() -> None:
        client, answers = PlayedClient(b"1", b"2", b"3", b"4", b"5"), Answers()
        client.reads.clear()
        serving = asyncio.create_task(InferStream(client, answers.answer, never).serve())
        await settled()
        answers.give(b"1", b"2")
        await settled()
        assert client.taken == 3
        client.reads.set()
        for message in (b"3", b"4", b"5"):
            await settled()
            answers.give(message)
        await serving
        assert client.replies == [b"1", b"2", b"3", b"4", b"5"]

    played(around)


def test_a_failure_that_is_raised_ends_the_stream_behind_what_came_before() -> None:
    async def around() -> None:
        client, answers = PlayedClient(b"1", b"2", b"3", is_over=False), Answers()
        serving = asyncio.create_task(InferStream(client, answers.answer, never).serve())
        await settled()
        answers.waiting[b"2"].set_exception(ModelNotFound("no"))
        await settled()
        assert not serving.done()
        answers.give(b"1")
        with pytest.raises(ModelNotFound):
            await serving
        await settled()
        assert (client.replies, answers.cancelled) == ([b"1"], [b"3"])

    played(around)


def test_a_cancelled_stream_cancels_its_requests_and_releases_their_answers() -> None:
    async def around() -> None:
        released: list[str] = []
        client, answers = PlayedClient(b"1", b"2", is_over=False), Answers()
        serving = asyncio.create_task(InferStream(client, answers.answer, never).serve())
        await settled()
        answers.waiting[b"2"].set_result(Gathered([b"2"], lambda: released.append("2")))
        await settled()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        await settled()
        assert (answers.cancelled, released, client.replies) == ([b"1"], ["2"], [])

    played(around)


def test_a_stream_ends_when_the_server_stops_and_what_was_read_is_answered() -> None:
    async def around() -> None:
        client, answers, drain = PlayedClient(b"1", is_over=False), Answers(), asyncio.Event()

        async def drain_begins() -> None:
            await drain.wait()

        serving = asyncio.create_task(InferStream(client, answers.answer, drain_begins).serve())
        await settled()
        drain.set()
        await settled()
        assert not serving.done()
        answers.give(b"1")
        with pytest.raises(Draining):
            await serving
        assert client.replies == [b"1"]

    played(around)


def test_nothing_of_a_stream_is_left_running() -> None:
    async def around() -> None:
        client, answers = PlayedClient(b"1"), Answers()
        serving = asyncio.create_task(InferStream(client, answers.answer, never).serve())
        await settled()
        answers.give(b"1")
        await serving
        await settled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    played(around)
