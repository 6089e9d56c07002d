# SPDX-License-Identifier: Apache-2.0
"""What all open pages are told: made once a second for all of them together, and only while somebody looks.

A stream holds no queue. It sends the newest second when its client has read the one before; a client that is too slow
for that misses seconds, and one that reads nothing is cut off as any other (``--rest_client_timeout_s``). When the keys
of the server change all streams end, and are asked for a key when they come again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from ovms_mp.errors import Draining, TooManyWatchers
from ovms_mp.front.live.state import state_steps
from ovms_mp.front.protobuf.turns import in_turns

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from ovms_mp.child.specs import PageSpec
    from ovms_mp.front.live.fleet import FleetNews
    from ovms_mp.front.live.history import History
    from ovms_mp.front.live.samples import Sampler
    from ovms_mp.wire.messages import RoutingSnapshot
    from ovms_mp.wire.records import KeyRecord

MOST_STREAMS = 64
"""Of one front."""
_RETRY = b"retry: 2000\n\n"
_INTERVAL_S = 1.0
_REST = 20
"""How many times as long as it took to make a second nothing is done for the next, where that is much."""
_LONGEST_REST_S = 4.0
"""Browsers and samples take more than five seconds of silence for an end."""


class PageFeed:
    """Belongs to the event loop."""

    def __init__(
        self,
        snapshot: Callable[[], RoutingSnapshot],
        sampler: Sampler,
        history: History,
        spec: PageSpec,
        fleet: FleetNews | None = None,
        *,
        has_metrics: bool,
    ) -> None:
        """Prepare; nothing is done before somebody looks.

        Args:
            snapshot: Gives the newest one.
            sampler: Makes what moves.
            history: What has happened.
            spec: The page's settings.
            fleet: Tells of the fleet, where the server is in one.
            has_metrics: Whether latencies are counted.
        """
        self._snapshot = snapshot
        self._sampler = sampler
        self._history = history
        self._spec = spec
        self._fleet = fleet
        self._has_metrics = has_metrics
        self._streams: set[EventStream] = set()
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Event()
        self._keys: tuple[KeyRecord, ...] = ()
        self._epoch = -1
        self._is_stopping = False
        self.second = 0
        """The number of the newest second."""
        self.change = 0
        """The number of the newest state."""
        self.state = self.sample = b""

    def hear(self, snapshot: RoutingSnapshot) -> None:
        """A snapshot has come."""
        self._history.note(snapshot)
        has_other_keys, self._keys = snapshot.keys != self._keys, snapshot.keys
        if snapshot.is_draining or has_other_keys:
            self._end()

    def stop(self) -> None:
        """This process is to stop; no page keeps it. Another front has them when they come again."""
        self._is_stopping = True
        self._end()

    def open(self) -> EventStream:
        """What tells one more page, from when it is first asked for something.

        Raises:
            TooManyWatchers: As many are told already as may be.
            Draining: The server is stopping.
        """
        if self._is_stopping or self._snapshot().is_draining:
            raise Draining("the server is stopping")
        if len(self._streams) >= MOST_STREAMS:
            raise TooManyWatchers(
                f"{MOST_STREAMS} pages are open at this front process already, the limit; close one of them"
            )
        return EventStream(self)

    def join(self, stream: EventStream) -> int:
        """Tell a page from now on, if there is room; the number of the second that it need not be told.

        Not before its transport asks: one whose client goes before that is never closed.
        """
        if self._is_stopping or len(self._streams) >= MOST_STREAMS:
            return self.second
        self._streams.add(stream)
        # What was made for others is a second old at most; when nobody has looked it may be of yesterday.
        told = 0 if self._task else self.second
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return told

    def close(self, stream: EventStream) -> None:
        """A page is told nothing any more; harmless when that is so already."""
        self._streams.discard(stream)
        if not self._streams and self._task is not None:
            self._task.cancel()
            self._task = None

    def has(self, stream: EventStream) -> bool:
        """Whether a page is still to be told."""
        return stream in self._streams

    async def wait(self) -> None:
        """Until there is another second, or an end; one comes each second as long as somebody looks."""
        await self._turn.wait()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                begun_s = loop.time()
                await self._look()
                self._wake()
                took_s = loop.time() - begun_s
                await asyncio.sleep(max(_INTERVAL_S - took_s, min(_REST * took_s, _LONGEST_REST_S)))
        finally:
            # Also where a second could not be made, which the loop logs: browsers come again after a while.
            if self._task is asyncio.current_task():
                self._end()

    async def _look(self) -> None:
        snapshot = self._snapshot()
        sample = await in_turns(self._sampler.steps(snapshot))
        if self._fleet is not None:
            sample["fleet"] = self._fleet.look()
        self.sample = _event(b"sample", sample)
        if snapshot.epoch != self._epoch:
            steps = state_steps(snapshot, self._spec, self._history.events, has_metrics=self._has_metrics)
            self.state = _RETRY + _event(b"state", await in_turns(steps))
            self._epoch = snapshot.epoch
            self.change += 1
        self.second += 1

    def _wake(self) -> None:
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()

    def _end(self) -> None:
        """Tell nobody anything any more."""
        self._streams.clear()
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        self._wake()


class EventStream:
    """What one page is told, as the octets of server-sent events."""

    def __init__(self, feed: PageFeed) -> None:
        self._feed = feed
        self._has_joined = False
        self._second = self._change = 0

    def __aiter__(self) -> Self:
        """Itself."""
        return self

    async def __anext__(self) -> bytes:
        """The newest second, when there is one that was not sent yet; a state that is new goes before it.

        Raises:
            StopAsyncIteration: The server is stopping.
        """
        feed = self._feed
        if not self._has_joined:
            self._has_joined = True
            self._second = feed.join(self)
        while feed.has(self) and feed.second == self._second:
            await feed.wait()
        if not feed.has(self):
            raise StopAsyncIteration
        if self._change != feed.change:
            self._change = feed.change
            return feed.state
        self._second = feed.second
        return feed.sample

    async def close(self) -> None:
        """The client has gone; the transport says so."""
        self._feed.close(self)


def _event(name: bytes, data: object) -> bytes:
    # JSON has no line breaks, which would end the field.
    return b"event: %s\ndata: %s\n\n" % (name, msgspec.json.encode(data))
