# SPDX-License-Identifier: Apache-2.0
"""One second is made for all who look, none for nobody, and no stream holds more than the newest one."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from ovms_mp.child.specs import PageSpec
from ovms_mp.errors import Draining, TooManyWatchers
from ovms_mp.front.live import feed as feeds
from ovms_mp.front.live.feed import MOST_STREAMS, PageFeed
from ovms_mp.front.live.history import History
from ovms_mp.wire.messages import RoutingSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from ovms_mp.front.live.samples import Sampler

WITHIN_S = 10


class PlayedSampler:
    def __init__(self) -> None:
        self.count = 0
        self.is_broken = False

    def steps(self, snapshot: RoutingSnapshot) -> Generator[None, None, dict[str, Any]]:
        self.count += 1
        if self.is_broken:
            raise ValueError("broken")
        yield
        return {"number": self.count}


class Place:
    def __init__(self) -> None:
        self.snapshot = RoutingSnapshot(1, False, (), ("a plan",), ())
        self.sampler = PlayedSampler()
        spec = PageSpec(grpc_port=9000, is_secure=False, may_change_state=True, cores=(0, 1))
        self.feed = PageFeed(
            lambda: self.snapshot,
            cast("Sampler", self.sampler),
            History(lambda: 1.0),
            spec,
            has_metrics=False,
        )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "_INTERVAL_S", 0.002)


def run(test: Callable[[Place], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(WITHIN_S):
            await test(Place())

    asyncio.run(bounded())


def events(octets: bytes) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in octets.decode().strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def test_a_page_gets_the_state_at_first_and_when_it_changes() -> None:
    async def test(place: Place) -> None:
        stream = place.feed.open()
        first = events(await anext(stream))
        second = events(await anext(stream))
        place.snapshot = RoutingSnapshot(2, False, (), ("another plan",), ())
        place.feed.hear(place.snapshot)
        later = events(await anext(stream))
        while len(later) == 1:
            later = events(await anext(stream))
        await stream.close()

        assert [name for name, _ in first] == ["state", "sample"]
        assert first[0][1]["plan"] == ["a plan"]
        assert [name for name, _ in second] == ["sample"]
        assert later[0][1]["plan"] == ["another plan"]

    run(test)


def test_fifty_pages_cost_what_one_does() -> None:
    async def test(place: Place) -> None:
        streams = [place.feed.open() for _ in range(50)]
        told = await asyncio.gather(*map(anext, streams))

        assert len({bytes(each) for each in told}) == 1
        assert place.sampler.count == 1
        for stream in streams:
            await stream.close()

    run(test)


def test_nothing_is_made_while_nobody_looks() -> None:
    async def test(place: Place) -> None:
        stream = place.feed.open()
        await anext(stream)
        await stream.close()
        await stream.close()
        count = place.sampler.count
        for _ in range(20):
            await asyncio.sleep(0.001)

        assert place.sampler.count == count
        again = place.feed.open()
        assert [name for name, _ in events(await anext(again))] == ["state", "sample"]
        await again.close()

    run(test)


def test_who_reads_slowly_misses_seconds() -> None:
    async def test(place: Place) -> None:
        slow, quick = place.feed.open(), place.feed.open()
        await anext(slow)
        for _ in range(5):
            await anext(quick)
        newest = place.sampler.count

        assert events(await anext(slow))[-1][1]["number"] >= newest

    run(test)


def test_there_are_only_so_many() -> None:
    async def test(place: Place) -> None:
        streams = [place.feed.open() for _ in range(MOST_STREAMS)]
        with pytest.raises(TooManyWatchers, match=str(MOST_STREAMS)):
            place.feed.open()
        await streams[0].close()
        place.feed.open()

    run(test)


def test_a_stop_ends_all_at_once() -> None:
    async def test(place: Place) -> None:
        stream = place.feed.open()
        await anext(stream)
        place.snapshot = RoutingSnapshot(2, True, (), (), ())
        place.feed.hear(place.snapshot)

        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        with pytest.raises(Draining):
            place.feed.open()

    run(test)


def test_a_second_that_cannot_be_made_ends_the_streams_and_no_more() -> None:
    async def test(place: Place) -> None:
        told: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context)))
        place.sampler.is_broken = True
        with pytest.raises(StopAsyncIteration):
            await anext(place.feed.open())
        place.sampler.is_broken = False
        stream = place.feed.open()

        assert events(await anext(stream))
        await stream.close()

    run(test)
