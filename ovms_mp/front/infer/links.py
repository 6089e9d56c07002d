# SPDX-License-Identifier: Apache-2.0
"""The channel to one worker: tasks on their way there, and their answers.

Wake-ups are what costs, so tasks travel in company: all of one loop turn together, but in groups, so that the worker
runs the first ones while this process decodes the next.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.defects import contain, report
from ovms_mp.errors import INTERNAL_ERROR_TEXT, DeadlineExceeded, InferenceFailed
from ovms_mp.front.infer.outcomes import WorkerGone, failure_of
from ovms_mp.front.steps import attempt
from ovms_mp.wire.channels import Dealer
from ovms_mp.wire.codec import decode_to_front, encode, salvage_to_front
from ovms_mp.wire.tasks import CancelTask, DetachRegion, InferFailed, InferResult, InferTask

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    from ovms_mp.front.infer.leases import Lease, Leases
    from ovms_mp.front.infer.outcomes import WorkerEnd
    from ovms_mp.wire.tasks import FromFront

    Judge: TypeAlias = Callable[[InferTask, WorkerEnd], None]
    """Told of each task that a worker was running when it ended, also when its client has given up."""

_log = logging.getLogger(__name__)

_GROUP_TASKS = 8
"""Tasks that leave at once. PERF: tiny model, 16 in flight: 11,200/s without, 13,800 with 4, 14,400 with 6, 15,200 with
8 tasks (a worker that flushes every 0.2 ms included)."""
_LONGEST_SHOWN = 200
_MOST_DRAINED = 4
"""Messages that are taken at once: each has the answers of 0.2 ms, and what they set off keeps sockets waiting."""


@dataclass(slots=True)
class _Flight:
    """A task on its way."""

    task: InferTask
    leases: tuple[Lease, ...]
    future: asyncio.Future[InferResult]


@dataclass(slots=True)
class AnswerCounts:
    """Answers of all workers that this front ever had."""

    finished: int = 0
    late: int = 0


class WorkerLink:
    """Tasks to one worker process. All calls come from one event loop."""

    def __init__(
        self,
        endpoint: str,
        address: bytes,
        loop: asyncio.AbstractEventLoop,
        leases: Leases,
        counts: AnswerCounts,
        landed: Callable[[], None],
    ) -> None:
        """Connect, which blocks nobody.

        Args:
            endpoint: Where the worker takes tasks.
            address: By which workers know this front.
            loop: The event loop.
            leases: What tasks hold is let go of there.
            counts: Has answers added.
            landed: Called when some tasks have ended.
        """
        self.endpoint = endpoint
        self._loop = loop
        self._leases = leases
        self._counts = counts
        self._landed = landed
        self._outbox: list[FromFront] = []
        self._attached: set[int] = set()
        """Numbers of clients' regions that the worker knows."""
        self.flights: dict[int, _Flight] = {}
        """By task id: those without an answer, also if they have not left this process or their client has given up."""
        self._is_flush_due = False
        self._dealer = Dealer(endpoint, address)
        self._descriptor = self._dealer.fileno()
        loop.add_reader(self._descriptor, self._drain_soon)

    def begin(self, task: InferTask, leases: tuple[Lease, ...]) -> asyncio.Future[InferResult]:
        """Send a task in a moment; the future of its result, or of one of the failures of ``infer``."""
        future: asyncio.Future[InferResult] = self._loop.create_future()
        for lease in leases:
            lease.tasks += 1
            if lease.region is not None and lease.region.number not in self._attached:
                self._attached.add(lease.region.number)
                self._outbox.append(lease.region.attachment())
        self.flights[task.task_id] = _Flight(task, leases, future)
        self._outbox.append(task)
        if len(self._outbox) >= _GROUP_TASKS:
            self.flush()
        else:
            self._flush_soon()
        return future

    def cancel(self, task_id: int) -> None:
        """Nobody waits for a task any more; the worker may skip it, if it has not answered yet."""
        if task_id in self.flights:
            self._outbox.append(CancelTask(task_id))
            self._flush_soon()

    def detach(self, number: int) -> None:
        """No task names a client's region any more."""
        if number in self._attached:
            self._attached.discard(number)
            self._outbox.append(DetachRegion(number))
            self._flush_soon()

    def expire(self, now_ns: int) -> None:
        """Tell those whose deadline has passed. PERF: one look at all flights now and then, no timer for each."""
        for flight in self.flights.values():
            if 0 < flight.task.deadline_ns < now_ns and not flight.future.done():
                contain("front.expire", f"task {flight.task.task_id}", _give_up, flight)

    def flush(self) -> None:
        """Send what waits."""
        attempt(self._loop, "front.flush", self._flush)

    def close(self, ends: Mapping[int, WorkerEnd], judge: Judge) -> None:
        """The worker has been reaped: whoever waits is told, after what it had still answered.

        Args:
            ends: How it ended, by the id of each task of this front that it was running then.
            judge: Told of each of these tasks.
        """
        self._loop.remove_reader(self._descriptor)
        # Answers that left the worker before it died are as good as any.
        contain("front.drain", f"what {self.endpoint} said last", self._drain, sys.maxsize)
        self._dealer.close()
        for flight in self.flights.values():
            end = ends.get(flight.task.task_id)
            if end is not None:
                contain("front.judge", f"task {flight.task.task_id}", judge, flight.task, end)
            self._land_or_fail(flight, WorkerGone(end))
        self.flights.clear()

    def _flush_soon(self) -> None:
        """Send at the end of this loop turn, together with what else comes up until then."""
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self.flush)

    def _flush(self) -> None:
        """Send what waits as one message."""
        self._is_flush_due = False
        if self._outbox and not self._dealer.is_closed:
            outbox, self._outbox = self._outbox, []
            try:
                self._dealer.send(encode(outbox))
            except Exception as error:
                self._send_each(outbox, error)
            # SAFETY: the descriptor is edge-triggered and sending can consume its edge.
            self._drain_soon()

    def _send_each(self, items: list[FromFront], why: Exception) -> None:
        """Send one by one what could not be sent together; a task that cannot be sent fails, and no other."""
        failed = 0
        for item in items:
            try:
                self._dealer.send(encode([item]))
            except Exception as error:
                failed += 1
                report("front.send", error, repr(item)[:_LONGEST_SHOWN])
                flight = self.flights.pop(item.task_id, None) if isinstance(item, InferTask) else None
                if flight is not None:
                    failure = InferFailed(flight.task.task_id, InferenceFailed.__name__, INTERNAL_ERROR_TEXT)
                    self._land_or_fail(flight, failure)
        if not failed:
            report("front.send", why, "nobody; sent one by one")
        self._landed()

    def _drain_soon(self) -> None:
        """Take what has come, now or in a moment."""
        attempt(self._loop, "front.drain", self._drain)

    def _drain(self, most: int = _MOST_DRAINED) -> None:
        """Take what has come, but no more messages than so many; those behind them wait for the next turn."""
        has_landed = False
        for _ in range(most):
            payload = None if self._dealer.is_closed else self._dealer.receive()
            if payload is None:
                break
            has_landed = True
            try:
                answers = decode_to_front(payload)
            except Exception as error:
                report("front.decode", error, f"answers of {self.endpoint} that are none")
                answers = salvage_to_front(payload)
            for answer in answers:
                flight = self.flights.pop(answer.task_id, None)
                if flight is None:
                    self._counts.late += 1
                    _log.warning("event=late_answer task_id=%d", answer.task_id)
                else:
                    self._counts.finished += 1
                    self._land_or_fail(flight, answer)
        else:
            self._loop.call_soon(self._drain_soon)
        if has_landed:
            self._landed()

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
        self._leases.task_ended(flight.leases)
        future = flight.future
        if future.done():
            return  # The client gave up.
        if isinstance(answer, InferResult):
            future.set_result(answer)
        else:
            future.set_exception(answer if isinstance(answer, WorkerGone) else failure_of(answer))


def _give_up(flight: _Flight) -> None:
    flight.future.set_exception(
        DeadlineExceeded("no answer before the request's deadline (--request_timeout_s if it had none)")
    )
