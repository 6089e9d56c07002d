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
from ovms_mp.front.live.feed import MOST_STREAMS, EventStream, PageFeed
from ovms_mp.front.live.history import History
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import KeyRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from ovms_mp.front.live.fleet import FleetNews
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


class PlayedNews:
    def __init__(self) -> None:
        self.count = 0

    def look(self) -> dict[str, Any]:
        self.count += 1
        return {"status": None}


class Place:
    def __init__(self) -> None:
        self.snapshot = RoutingSnapshot(1, False, (), ("a plan",), ())
        self.sampler = PlayedSampler()
        self.news = PlayedNews()
        spec = PageSpec(grpc_port=9000, is_secure=False, may_change_state=True, cores=(0, 1))
        self.feed = PageFeed(
            lambda: self.snapshot,
            cast("Sampler", self.sampler),
            History(lambda: 1.0),
            spec,
            cast("FleetNews", self.news),
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


async def told(stream: EventStream) -> list[tuple[str, dict[str, Any]]]:
    """Events up to the next sample."""
    found = events(await anext(stream))
    while found[-1][0] != "sample":
        found += events(await anext(stream))
    return found


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
        first = await told(stream)
        second = await told(stream)
        place.snapshot = RoutingSnapshot(2, False, (), ("another plan",), ())
        place.feed.hear(place.snapshot)
        later = await told(stream)
        while len(later) == 1:
            later = await told(stream)
        await stream.close()

        assert [name for name, _ in first] == ["state", "sample"]
        assert first[0][1]["plan"] == ["a plan"]
        assert [name for name, _ in second] == ["sample"]
        assert later[0][1]["plan"] == ["another plan"]

    run(test)


def test_fifty_pages_cost_what_one_does() -> None:
    async def test(place: Place) -> None:
        streams = [place.feed.open() for _ in range(50)]
        heard = await asyncio.gather(*map(told, streams))

        assert all(each == heard[0] for each in heard)
        assert (place.sampler.count, place.news.count) == (1, 1)
        assert heard[0][-1][1]["fleet"] == {"status": None}
        for stream in streams:
            await stream.close()

    run(test)


def test_nothing_is_made_while_nobody_looks() -> None:
    async def test(place: Place) -> None:
        stream = place.feed.open()
        await told(stream)
        await stream.close()
        await stream.close()
        count = place.sampler.count
        for _ in range(20):
            await asyncio.sleep(0.001)

        assert place.sampler.count == count
        place.snapshot = RoutingSnapshot(2, False, (), ("another plan",), ())
        again = place.feed.open()
        found = await told(again)
        assert [name for name, _ in found] == ["state", "sample"]
        assert found[0][1]["plan"] == ["another plan"], "not what was so when somebody looked last"
        assert found[1][1]["number"] > count
        await again.close()

    run(test)


def test_who_reads_slowly_misses_seconds() -> None:
    async def test(place: Place) -> None:
        slow, quick = place.feed.open(), place.feed.open()
        await told(slow)
        for _ in range(5):
            await told(quick)
        newest = place.sampler.count

        assert (await told(slow))[-1][1]["number"] >= newest

    run(test)


def test_there_are_only_so_many() -> None:
    async def test(place: Place) -> None:
        streams = [place.feed.open() for _ in range(MOST_STREAMS + 1)]
        late = streams.pop()
        for stream in streams:
            await told(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(late)
        with pytest.raises(TooManyWatchers, match=str(MOST_STREAMS)):
            place.feed.open()
        await streams[0].close()
        assert await told(place.feed.open())

    run(test)


def test_who_goes_before_the_first_event_has_held_no_place() -> None:
    """Transports close what they have asked for something."""

    async def test(place: Place) -> None:
        for _ in range(MOST_STREAMS + 1):
            place.feed.open()
        await asyncio.sleep(0.01)

        assert place.sampler.count == 0
        assert await told(place.feed.open())

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


def test_no_page_keeps_a_front_that_is_to_stop() -> None:
    async def test(place: Place) -> None:
        stream = place.feed.open()
        await told(stream)
        place.feed.stop()

        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        with pytest.raises(Draining):
            place.feed.open()

    run(test)


def test_other_keys_end_all_streams_which_may_come_again_with_them() -> None:
    async def test(place: Place) -> None:
        place.feed.hear(place.snapshot)
        stream = place.feed.open()
        await told(stream)
        key = KeyRecord("a", b"digest", is_admin=False)
        place.snapshot = RoutingSnapshot(2, False, (), (), (), keys=(key,))
        place.feed.hear(place.snapshot)

        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        again = place.feed.open()
        assert await told(again)
        place.snapshot = RoutingSnapshot(3, False, (), (), (), keys=(key,))
        place.feed.hear(place.snapshot)
        assert await told(again)
        await again.close()

    run(test)


def test_a_second_that_cannot_be_made_ends_the_streams_and_no_more() -> None:
    async def test(place: Place) -> None:
        logged: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(str(context)))
        place.sampler.is_broken = True
        with pytest.raises(StopAsyncIteration):
            await anext(place.feed.open())
        place.sampler.is_broken = False
        stream = place.feed.open()

        assert events(await anext(stream))
        await stream.close()

    run(test)
