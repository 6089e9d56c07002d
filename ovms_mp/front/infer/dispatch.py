# SPDX-License-Identifier: Apache-2.0
"""Tasks to workers: which of those that serve a version gets the next one, and what becomes of a dead one's tasks.

Where several workers serve a version, a task goes to the one that has the fewest unanswered tasks of this front, of
whichever version: they share its cores. What other fronts have there is not known; each of them spreads its own.

Runs that take less than it takes to wake a worker are not spread: one that is awake does them in company. Each front
has a worker of its own for these.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.errors import DeadlineExceeded
from ovms_mp.front.infer.links import AnswerCounts, WorkerLink
from ovms_mp.front.infer.outcomes import WorkerEnd, WorkerGone
from ovms_mp.front.steps import Periodic

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ovms_mp.front.clock import Clock
    from ovms_mp.front.infer.leases import Lease, Leases
    from ovms_mp.front.infer.links import Judge
    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.wire.records import DeathRecord
    from ovms_mp.wire.tasks import InferResult, InferTask

_log = logging.getLogger(__name__)

_EXPIRY_INTERVAL_S = 0.05
_QUICK_RUN_NS = 100_000
_MOST_IN_COMPANY = 32
"""Unanswered tasks of the worker that gets a front's quick ones; more are spread."""
_MOST_KNOWN = 4096
_SMOOTHING = 8


@dataclass(frozen=True, slots=True)
class DispatchStatistics:
    """What the dispatcher has under way at one moment, and what has ended."""

    in_flight: int
    finished: int
    late_answers: int


class Dispatcher:
    """Carries tasks to workers. All calls come from one event loop."""

    def __init__(
        self,
        leases: Leases,
        address: bytes,
        loop: asyncio.AbstractEventLoop,
        judge: Judge,
        clock_ns: Clock,
    ) -> None:
        """Prepare; nothing connects before the first task.

        Args:
            leases: Tasks' leases end there.
            address: ``b"<arena>:<epoch>"``, by which workers know this front.
            loop: The event loop that all calls come from.
            judge: Told of each task that a worker was running when it ended.
            clock_ns: Monotonic time.
        """
        self.is_closed = False
        """No task will be sent any more."""
        self._leases = leases
        self._address = address
        self._loop = loop
        self._judge = judge
        self._clock_ns = clock_ns
        self._links: dict[str, WorkerLink] = {}
        self._alive: frozenset[str] = frozenset()
        self._counts = AnswerCounts()
        self._next_task_id = 0
        self._turn = 0
        self._home = int(address.partition(b":")[0])
        self._run_ns: dict[int, int] = {}
        """What a run takes lately, by handle; of versions that several workers serve."""
        self._idle = asyncio.Event()
        self._expiry = Periodic(loop, "front.expire", lambda: _EXPIRY_INTERVAL_S, self._expire)

    def new_task_id(self) -> int:
        """A number that no task of this front had before."""
        self._next_task_id += 1
        return self._next_task_id

    async def infer(self, route: VersionRoute, task: InferTask, leases: tuple[Lease, ...]) -> InferResult:
        """Send a task and wait for its answer: the outputs' places in the arena, and how long it took.

        When the caller is cancelled, so is the task, as far as that is possible.

        Raises:
            WorkerGone: Reaped before its answer, or no worker of the route lives any more.
            RouteWasStale: Unloaded before it ran.
            OutputsDidNotFit: The output region is too small.
            DeadlineExceeded: The task's deadline passed, whatever the worker does.
            OvmsError: What the worker answered.
        """
        endpoints = route.endpoints
        if len(endpoints) == 1:
            link = self._links.get(endpoints[0])
        else:
            link = (
                self._home_of(endpoints)
                if self._run_ns.get(task.handle, _QUICK_RUN_NS) < _QUICK_RUN_NS
                else None
            )
        if link is None:
            link = self._least_busy(endpoints)
        try:
            result = await link.begin(task, leases)
        except (asyncio.CancelledError, DeadlineExceeded):
            link.cancel(task.task_id)
            raise
        if len(endpoints) > 1 and result.infer_ns:
            self._learn(task.handle, result.infer_ns)
        return result

    def keep_links(self, endpoints: Iterable[str], deaths: Sequence[DeathRecord] = ()) -> None:
        """Drop the links to workers that a snapshot does not list any more: they have been reaped.

        Args:
            endpoints: Where those that live take tasks.
            deaths: What is known of those that do not.
        """
        self._alive = frozenset(endpoints)
        for endpoint in [endpoint for endpoint in self._links if endpoint not in self._alive]:
            death = next((death for death in deaths if death.endpoint == endpoint), None)
            self._links.pop(endpoint).close(self._ends_of(death), self._judge)
        for link in self._links.values():
            # What waits for the turn's end leaves before the manager hears that the new snapshot is applied.
            link.flush()
        self._note_idle()

    def detach_region(self, number: int) -> None:
        """Nobody uses a client's region any more: workers give its memory back."""
        for link in self._links.values():
            link.detach(number)

    def _ends_of(self, death: DeathRecord | None) -> dict[int, WorkerEnd]:
        """By the id of each task of this front that a worker was running when it ended."""
        if death is None:
            return {}
        end = WorkerEnd(death.reason, death.has_crashed, len(death.running) == 1)
        return {
            mark.task_id: end
            for mark in death.running
            if f"{mark.arena}:{mark.epoch}".encode() == self._address
        }

    async def wait_idle(self, within_s: float) -> None:
        """Wait until no task is unanswered, but not longer than ``within_s``."""
        self._idle.clear()
        self._note_idle()
        try:
            async with asyncio.timeout(max(0.0, within_s)):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("event=not_idle in_flight=%d", self.statistics().in_flight)

    def _note_idle(self) -> None:
        """Wake who waits for the last answer, if that has come."""
        if not any(link.flights for link in self._links.values()):
            self._idle.set()

    def statistics(self) -> DispatchStatistics:
        """A record of this moment."""
        in_flight = sum(len(link.flights) for link in self._links.values())
        return DispatchStatistics(in_flight, self._counts.finished, self._counts.late)

    def close(self) -> None:
        """Drop all links; whoever waits is told that the worker is gone."""
        self.is_closed = True
        self._expiry.cancel()
        self.keep_links(())

    def _least_busy(self, endpoints: tuple[str, ...]) -> WorkerLink:
        """The link to the living worker that has the fewest tasks of this front; equal ones take turns.

        A task counts until its answer, also before it has left this process and when its client has given up.
        PERF: two workers cost 0.7 us a task, four 1.2; one does not come here.

        Raises:
            WorkerGone: None of them lives.
        """
        self._turn += 1
        count = len(endpoints)
        chosen: WorkerLink | None = None
        for step in range(count):
            endpoint = endpoints[(self._turn + step) % count]
            link = self._links.get(endpoint)
            if link is None:
                if endpoint not in self._alive:
                    continue
                link = self._connect(endpoint)
            if chosen is None or len(link.flights) < len(chosen.flights):
                chosen = link
        if chosen is None:
            raise WorkerGone
        return chosen

    def _home_of(self, endpoints: tuple[str, ...]) -> WorkerLink | None:
        """The link to the worker that gets this front's quick tasks; None where that is not there, or has many.

        PERF: two workers, a tiny model, 16 in flight: 15,300/s instead of 10,900; one worker: 15,400.
        """
        link = self._links.get(endpoints[self._home % len(endpoints)])
        return None if link is None or len(link.flights) >= _MOST_IN_COMPANY else link

    def _learn(self, handle: int, run_ns: int) -> None:
        """Smooth a version's time of a run; one that was kept from its core counts for double at most."""
        known_ns = self._run_ns.get(handle)
        if known_ns is None and len(self._run_ns) >= _MOST_KNOWN:
            self._run_ns.clear()
        self._run_ns[handle] = (
            run_ns if known_ns is None else known_ns + (min(run_ns, 2 * known_ns) - known_ns) // _SMOOTHING
        )

    def _connect(self, endpoint: str) -> WorkerLink:
        link = WorkerLink(endpoint, self._address, self._loop, self._leases, self._counts, self._note_idle)
        self._links[endpoint] = link
        return link

    def _expire(self) -> None:
        now_ns = self._clock_ns()
        for link in self._links.values():
            link.expire(now_ns)
