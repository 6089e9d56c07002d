# SPDX-License-Identifier: Apache-2.0
"""The front's side of the data channel: leases, tasks on their way, and their answers.

One event loop owns it all.

A task's lease ends with its terminal answer, or with the snapshot that says that its worker has been reaped;
never with the client's patience, as the worker may still be writing.

Wake-ups are what costs, so tasks travel in company: all of one loop turn together, but in groups, so that the worker
runs the first ones while this process decodes the next.

Where several workers serve a version, a task goes to the one that has the fewest unanswered tasks of this front, of
whichever version: they share its cores. What other fronts have there is not known; each of them spreads its own.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ovms_mp.defects import contain, report
from ovms_mp.errors import (
    INTERNAL_ERROR_TEXT,
    DeadlineExceeded,
    InferenceFailed,
    NoFreeSlot,
    OvmsError,
    TensorTooLarge,
    VersionNotFound,
    error_from_record,
)
from ovms_mp.front.steps import Periodic, attempt
from ovms_mp.wire.allocator import ArenaAllocator
from ovms_mp.wire.channels import Dealer
from ovms_mp.wire.codec import decode_to_front, encode, salvage_to_front
from ovms_mp.wire.messages import (
    CancelTask,
    InferFailed,
    InferResult,
    InferTask,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.wire.arena import Arena
    from ovms_mp.wire.records import DeathRecord, TensorRef

_log = logging.getLogger(__name__)

_GROUP_TASKS = 8
"""Tasks that leave at once. PERF: tiny model, 16 in flight: 11,200/s without, 13,800 with 4, 14,400 with 6, 15,200 with
8 tasks (a worker that flushes every 0.2 ms included)."""
_MOST_DRAINED = 4
"""Messages that are taken at once: each has the answers of 0.2 ms, and what they set off keeps sockets waiting."""
_EXPIRY_INTERVAL_S = 0.05
_TRIM_SLACK_BYTES = 16 << 20
"""Arena memory above the recent high-water mark that is not worth giving back."""


class WorkerGone(Exception):
    """The task's worker was reaped before its answer; the lease is whole, so the task can be sent to a successor."""

    def __init__(self, end: WorkerEnd | None = None) -> None:
        super().__init__()
        self.end = end
        """What the worker had to do with the task; None where it is not known to have run it."""


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """How a worker ended that was running a task.

    Attributes:
        reason: For people.
        has_crashed: By a signal that a process brings on itself.
        was_alone: It ran nothing else.
    """

    reason: str
    has_crashed: bool
    was_alone: bool


class RouteWasStale(Exception):
    """The version was unloaded while the task was on its way; it has not run, so another route may be tried."""


class OutputsDidNotFit(Exception):
    """The output region was too small."""

    def __init__(self, needed_nbytes: int) -> None:
        super().__init__(needed_nbytes)
        self.needed_nbytes = needed_nbytes


@dataclass(slots=True)
class Lease:
    """A range of the arena. It is free when all its holders have let go *and* no worker can touch it."""

    offset_bytes: int
    nbytes: int
    holders: int = 1
    tasks: int = 0


@dataclass(slots=True)
class _Flight:
    """A task on its way."""

    task: InferTask
    leases: tuple[Lease, ...]
    future: asyncio.Future[tuple[TensorRef, ...]]


@dataclass(slots=True)
class _WorkerLink:
    """The channel to one worker process."""

    endpoint: str
    dealer: Dealer
    descriptor: int
    outbox: list[InferTask | CancelTask] = field(default_factory=list)
    flights: dict[int, _Flight] = field(default_factory=dict)
    is_flush_due: bool = False


@dataclass(frozen=True, slots=True)
class DispatchStatistics:
    """What the dispatcher holds at one moment."""

    leases: int
    leased_bytes: int
    in_flight: int
    finished: int
    late_answers: int


class Dispatcher:
    """Leases arena memory and carries tasks to workers."""

    def __init__(self, arena: Arena, address: bytes, loop: asyncio.AbstractEventLoop) -> None:
        """Prepare; nothing connects before the first task.

        Args:
            arena: The arena that this front owns.
            address: ``b"<arena>:<epoch>"``, by which workers know it.
            loop: The event loop that all calls come from.
        """
        self.memory = arena.memory
        self.make_room: Callable[[], bool] = lambda: False
        """Called when a lease does not fit: releases some other one, or is false."""
        self.judge: Callable[[InferTask, WorkerEnd], None] = _acquit
        """Called for each task that a worker was running when it ended, also when its client has given up."""
        self.is_closed = False
        """No task will be sent any more."""
        self._arena = arena
        self._allocator = ArenaAllocator(arena.size_bytes)
        self._address = address
        self._loop = loop
        self._links: dict[str, _WorkerLink] = {}
        self._alive: frozenset[str] = frozenset()
        self._next_task_id = 0
        self._turn = 0
        self._finished = 0
        self._late_answers = 0
        self._touched_bytes = 0
        self._idle = asyncio.Event()
        self._expiry = Periodic(loop, "front.expire", lambda: _EXPIRY_INTERVAL_S, self._expire)

    def lease(self, nbytes: int) -> Lease:
        """Lease arena memory.

        Raises:
            TensorTooLarge: It would not fit an empty arena.
            NoFreeSlot: It does not fit now.
        """
        offset = self._allocator.allocate(nbytes)
        size = self._arena.size_bytes
        while offset is None and nbytes <= size and self.make_room():
            offset = self._allocator.allocate(nbytes)
        if offset is None:
            if nbytes > size:
                raise TensorTooLarge(
                    f"the request's tensors need {nbytes} bytes of shared memory, the arena of this front has {size}; "
                    f"raise --arena_size_mb"
                )
            raise NoFreeSlot(
                f"the request's tensors need {nbytes} bytes of shared memory and the arena of {size} bytes is in use; "
                f"try again later or raise --arena_size_mb"
            )
        return Lease(offset, nbytes)

    def hold(self, lease: Lease) -> None:
        """Hold a lease once more, beyond whoever holds it now; ends with a :meth:`release` of its own."""
        lease.holders += 1

    def release(self, lease: Lease) -> None:
        """Let go of a lease; its memory is free once nobody else holds it and no worker has a task with it."""
        lease.holders -= 1
        if not lease.holders and not lease.tasks:
            self._allocator.release(lease.offset_bytes)

    def free_bytes(self) -> int:
        """Arena memory that is not leased, though not in one piece."""
        return self._allocator.free_bytes()

    def trim(self) -> None:
        """Give memory that recent requests did not need back to the machine. Called now and then."""
        mark = self._allocator.take_high_water()
        if self._touched_bytes - mark > _TRIM_SLACK_BYTES:
            self._arena.discard(mark, self._touched_bytes)
            self._touched_bytes = mark
        else:
            self._touched_bytes = max(mark, self._touched_bytes)

    def new_task_id(self) -> int:
        """A number that no task of this front had before."""
        self._next_task_id += 1
        return self._next_task_id

    async def infer(
        self, route: VersionRoute, task: InferTask, leases: tuple[Lease, ...]
    ) -> tuple[TensorRef, ...]:
        """Send a task and wait for its answer: the outputs' places in the arena.

        When the caller is cancelled, so is the task, as far as that is possible.

        Raises:
            WorkerGone: Reaped before its answer, or no worker of the route lives any more.
            RouteWasStale: Unloaded before it ran.
            OutputsDidNotFit: The output region is too small.
            DeadlineExceeded: The task's deadline passed, whatever the worker does.
            OvmsError: What the worker answered.
        """
        endpoints = route.endpoints
        link = self._links.get(endpoints[0]) if len(endpoints) == 1 else None
        if link is None:
            link = self._least_busy(endpoints)
        future: asyncio.Future[tuple[TensorRef, ...]] = self._loop.create_future()
        for lease in leases:
            lease.tasks += 1
        link.flights[task.task_id] = _Flight(task, leases, future)
        link.outbox.append(task)
        if len(link.outbox) >= _GROUP_TASKS:
            attempt(self._loop, "front.flush", self._flush, link)
        else:
            self._flush_soon(link)
        try:
            return await future
        except (asyncio.CancelledError, DeadlineExceeded):
            if task.task_id in link.flights:
                link.outbox.append(CancelTask(task.task_id))
                self._flush_soon(link)
            raise

    def keep_links(self, endpoints: Iterable[str], deaths: Sequence[DeathRecord] = ()) -> None:
        """Drop the links to workers that a snapshot does not list any more: they have been reaped.

        Args:
            endpoints: Where those that live take tasks.
            deaths: What is known of those that do not.
        """
        self._alive = frozenset(endpoints)
        for endpoint in [endpoint for endpoint in self._links if endpoint not in self._alive]:
            link = self._links.pop(endpoint)
            self._loop.remove_reader(link.descriptor)
            # Answers that left the worker before it died are as good as any.
            contain("front.drain", f"what {endpoint} said last", self._drain, link, sys.maxsize)
            link.dealer.close()
            ends = self._ends_of(next((death for death in deaths if death.endpoint == endpoint), None))
            for flight in link.flights.values():
                end = ends.get(flight.task.task_id)
                if end is not None:
                    contain("front.judge", f"task {flight.task.task_id}", self.judge, flight.task, end)
                self._land_or_fail(flight, WorkerGone(end))
            link.flights.clear()
        for link in self._links.values():
            # What waits for the turn's end leaves before the manager hears that the new snapshot is applied.
            attempt(self._loop, "front.flush", self._flush, link)
        if self._is_idle():
            self._idle.set()

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
        if self._is_idle():
            return
        try:
            async with asyncio.timeout(max(0.0, within_s)):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("event=not_idle in_flight=%d", self.statistics().in_flight)

    def _is_idle(self) -> bool:
        return not any(link.flights for link in self._links.values())

    def statistics(self) -> DispatchStatistics:
        """A record of this moment."""
        arena = self._allocator.statistics()
        in_flight = sum(len(link.flights) for link in self._links.values())
        return DispatchStatistics(
            arena.leases, arena.leased_bytes, in_flight, self._finished, self._late_answers
        )

    def close(self) -> None:
        """Drop all links; whoever waits is told that the worker is gone."""
        self.is_closed = True
        self._expiry.cancel()
        self.keep_links(())

    def _least_busy(self, endpoints: tuple[str, ...]) -> _WorkerLink:
        """The link to the living worker that has the fewest tasks of this front; equal ones take turns.

        A task counts until its answer, also before it has left this process and when its client has given up.
        PERF: two workers cost 0.7 us a task, four 1.2; one does not come here.

        Raises:
            WorkerGone: None of them lives.
        """
        self._turn += 1
        count = len(endpoints)
        chosen: _WorkerLink | None = None
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

    def _connect(self, endpoint: str) -> _WorkerLink:
        dealer = Dealer(endpoint, self._address)
        link = _WorkerLink(endpoint, dealer, dealer.fileno())
        self._links[endpoint] = link
        self._loop.add_reader(link.descriptor, self._drain_soon, link)
        return link

    def _flush_soon(self, link: _WorkerLink) -> None:
        """Send at the end of this loop turn, together with what else comes up until then."""
        if not link.is_flush_due:
            link.is_flush_due = True
            self._loop.call_soon(attempt, self._loop, "front.flush", self._flush, link)

    def _flush(self, link: _WorkerLink) -> None:
        """Send what waits as one message."""
        link.is_flush_due = False
        if link.outbox and not link.dealer.is_closed:
            outbox, link.outbox = link.outbox, []
            try:
                link.dealer.send(encode(outbox))
            except Exception as error:
                self._send_each(link, outbox, error)
            # SAFETY: the descriptor is edge-triggered and sending can consume its edge.
            self._drain_soon(link)

    def _send_each(self, link: _WorkerLink, items: list[InferTask | CancelTask], why: Exception) -> None:
        """Send one by one what could not be sent together; a task that cannot be sent fails, and no other."""
        failed = 0
        for item in items:
            try:
                link.dealer.send(encode([item]))
            except Exception as error:
                failed += 1
                report("front.send", error, f"task {item.task_id}")
                flight = link.flights.pop(item.task_id, None) if isinstance(item, InferTask) else None
                if flight is not None:
                    failure = InferFailed(item.task_id, InferenceFailed.__name__, INTERNAL_ERROR_TEXT)
                    self._land_or_fail(flight, failure)
        if not failed:
            report("front.send", why, "nobody; sent one by one")
        if self._is_idle():
            self._idle.set()

    def _drain_soon(self, link: _WorkerLink) -> None:
        """Take what has come, now or in a moment."""
        attempt(self._loop, "front.drain", self._drain, link)

    def _drain(self, link: _WorkerLink, most: int = _MOST_DRAINED) -> None:
        """Take what has come, but no more messages than so many; those behind them wait for the next turn."""
        has_landed = False
        for _ in range(most):
            payload = None if link.dealer.is_closed else link.dealer.receive()
            if payload is None:
                break
            has_landed = True
            try:
                answers = decode_to_front(payload)
            except Exception as error:
                report("front.decode", error, f"answers of {link.endpoint} that are none")
                answers = salvage_to_front(payload)
            for answer in answers:
                flight = link.flights.pop(answer.task_id, None)
                if flight is None:
                    self._late_answers += 1
                    _log.warning("event=late_answer task_id=%d", answer.task_id)
                else:
                    self._finished += 1
                    self._land_or_fail(flight, answer)
        else:
            self._loop.call_soon(self._drain_soon, link)
        if has_landed and self._is_idle():
            self._idle.set()

    def _expire(self) -> None:
        """Tell those whose deadline has passed. PERF: one look at all flights now and then, no timer for each."""
        now_ns = time.monotonic_ns()
        for link in self._links.values():
            for flight in link.flights.values():
                if 0 < flight.task.deadline_ns < now_ns and not flight.future.done():
                    contain("front.expire", f"task {flight.task.task_id}", _give_up, flight)

    def _land_or_fail(self, flight: _Flight, answer: InferResult | InferFailed | WorkerGone) -> None:
        """The same as :meth:`_land`, and where that raises, its request alone fails."""
        try:
            self._land(flight, answer)
        except Exception as error:
            report("front.land", error, f"task {flight.task.task_id}")
            if not flight.future.done():
                flight.future.set_exception(InferenceFailed(INTERNAL_ERROR_TEXT))

    def _land(self, flight: _Flight, answer: InferResult | InferFailed | WorkerGone) -> None:
        """End a flight: the leases are out of the worker's reach, and whoever waits is told."""
        for lease in flight.leases:
            lease.tasks -= 1
            if not lease.holders and not lease.tasks:
                self._allocator.release(lease.offset_bytes)
        future = flight.future
        if future.done():
            return  # The client gave up.
        if isinstance(answer, InferResult):
            future.set_result(answer.outputs)
        else:
            future.set_exception(_as_exception(answer))


def _acquit(_task: InferTask, _end: WorkerEnd) -> None:
    """Until the service sets its own."""


def _give_up(flight: _Flight) -> None:
    flight.future.set_exception(
        DeadlineExceeded("no answer before the request's deadline (--request_timeout_s if it had none)")
    )


def _as_exception(
    answer: InferFailed | WorkerGone,
) -> WorkerGone | RouteWasStale | OutputsDidNotFit | OvmsError:
    if isinstance(answer, WorkerGone):
        return answer
    if answer.error_name == VersionNotFound.__name__:
        return RouteWasStale()
    if answer.needed_nbytes:
        return OutputsDidNotFit(answer.needed_nbytes)
    return error_from_record(answer.error_name, answer.error_message)
