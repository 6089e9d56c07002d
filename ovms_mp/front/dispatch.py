# SPDX-License-Identifier: Apache-2.0
"""The front's side of the data channel: leases, tasks on their way, and their answers. One event loop owns it all.

A task's lease ends with its terminal answer, or with the snapshot that says that its worker has been reaped; never with
the client's patience, as the worker may still be writing.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ovms_mp.errors import NoFreeSlot, OvmsError, TensorTooLarge, error_from_record
from ovms_mp.wire.allocator import ArenaAllocator
from ovms_mp.wire.channels import Dealer
from ovms_mp.wire.messages import CancelTask, InferResult, InferTask, decode_to_front, encode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ovms_mp.wire.arena import Arena
    from ovms_mp.wire.messages import InferFailed, TensorRef

_log = logging.getLogger(__name__)

_TRIM_SLACK_BYTES = 16 << 20
"""Arena memory above the recent high-water mark that is not worth giving back."""


class WorkerGone(Exception):
    """The task's worker was reaped before its answer; the lease is whole, so the task can be sent to a successor."""


class OutputsDidNotFit(Exception):
    """The output region was too small."""

    def __init__(self, needed_nbytes: int) -> None:
        super().__init__(needed_nbytes)
        self.needed_nbytes = needed_nbytes


@dataclass(slots=True)
class Lease:
    """A range of the arena. It is released when its holder has let go *and* no worker can touch it."""

    offset_bytes: int
    nbytes: int
    is_held: bool = True
    tasks: int = 0


@dataclass(slots=True)
class _Flight:
    """A task on its way."""

    leases: tuple[Lease, ...]
    future: asyncio.Future[tuple[TensorRef, ...]]


@dataclass(slots=True)
class _WorkerLink:
    """The channel to one worker process."""

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
        self._arena = arena
        self._allocator = ArenaAllocator(arena.size_bytes)
        self._address = address
        self._loop = loop
        self._links: dict[str, _WorkerLink] = {}
        self._next_task_id = 0
        self._finished = 0
        self._late_answers = 0
        self._touched_bytes = 0

    # --- leases ---

    def lease(self, nbytes: int) -> Lease:
        """Lease arena memory.

        Raises:
            TensorTooLarge: It would not fit an empty arena.
            NoFreeSlot: It does not fit now.
        """
        offset = self._allocator.allocate(nbytes)
        if offset is None:
            size = self._arena.size_bytes
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

    def release(self, lease: Lease) -> None:
        """Let go of a lease; its memory is free once no worker has a task with it."""
        lease.is_held = False
        if not lease.tasks:
            self._allocator.release(lease.offset_bytes)

    def trim(self) -> None:
        """Give memory that recent requests did not need back to the machine. Called now and then."""
        mark = self._allocator.take_high_water()
        if self._touched_bytes - mark > _TRIM_SLACK_BYTES:
            self._arena.discard(mark, self._touched_bytes)
            self._touched_bytes = mark
        else:
            self._touched_bytes = max(mark, self._touched_bytes)

    # --- tasks ---

    def new_task_id(self) -> int:
        """A number that no task of this front had before."""
        self._next_task_id += 1
        return self._next_task_id

    async def infer(self, endpoint: str, task: InferTask, leases: tuple[Lease, ...]) -> tuple[TensorRef, ...]:
        """Send a task and wait for its answer: the outputs' places in the arena.

        When the caller is cancelled, so is the task, as far as that is possible.

        Raises:
            WorkerGone: Reaped before its answer.
            OutputsDidNotFit: The output region is too small.
            OvmsError: What the worker answered.
        """
        link = self._links.get(endpoint) or self._connect(endpoint)
        future: asyncio.Future[tuple[TensorRef, ...]] = self._loop.create_future()
        for lease in leases:
            lease.tasks += 1
        link.flights[task.task_id] = _Flight(leases, future)
        self._send(link, task)
        try:
            return await future
        except asyncio.CancelledError:
            if task.task_id in link.flights:
                self._send(link, CancelTask(task.task_id))
            raise

    def keep_links(self, endpoints: Iterable[str]) -> None:
        """Drop the links to workers that a snapshot does not list any more: they have been reaped."""
        alive = frozenset(endpoints)
        for endpoint in [endpoint for endpoint in self._links if endpoint not in alive]:
            link = self._links.pop(endpoint)
            self._loop.remove_reader(link.descriptor)
            # Answers that left the worker before it died are as good as any.
            self._drain(link)
            link.dealer.close()
            for flight in link.flights.values():
                self._land(flight, WorkerGone())
            link.flights.clear()

    def statistics(self) -> DispatchStatistics:
        """A record of this moment."""
        arena = self._allocator.statistics()
        in_flight = sum(len(link.flights) for link in self._links.values())
        return DispatchStatistics(arena.leases, arena.leased_bytes, in_flight, self._finished, self._late_answers)

    def close(self) -> None:
        """Drop all links; whoever waits is told that the worker is gone."""
        self.keep_links(())

    def _connect(self, endpoint: str) -> _WorkerLink:
        dealer = Dealer(endpoint, self._address)
        link = _WorkerLink(dealer, dealer.fileno())
        self._links[endpoint] = link
        self._loop.add_reader(link.descriptor, self._drain, link)
        return link

    def _send(self, link: _WorkerLink, message: InferTask | CancelTask) -> None:
        link.outbox.append(message)
        if not link.is_flush_due:
            link.is_flush_due = True
            self._loop.call_soon(self._flush, link)

    def _flush(self, link: _WorkerLink) -> None:
        """Send all tasks of this loop turn as one message."""
        link.is_flush_due = False
        if not link.outbox or link.dealer.is_closed:
            return
        link.dealer.send(encode(link.outbox))
        link.outbox.clear()
        # SAFETY: the descriptor is edge-triggered and sending can consume its edge.
        self._drain(link)

    def _drain(self, link: _WorkerLink) -> None:
        while (payload := link.dealer.receive()) is not None:
            for answer in decode_to_front(payload):
                flight = link.flights.pop(answer.task_id, None)
                if flight is None:
                    self._late_answers += 1
                    _log.warning("event=late_answer task_id=%d", answer.task_id)
                else:
                    self._finished += 1
                    self._land(flight, answer)

    def _land(self, flight: _Flight, answer: InferResult | InferFailed | WorkerGone) -> None:
        """End a flight: the leases are out of the worker's reach, and whoever waits is told."""
        for lease in flight.leases:
            lease.tasks -= 1
            if not lease.is_held and not lease.tasks:
                self._allocator.release(lease.offset_bytes)
        future = flight.future
        if future.done():
            return  # The client gave up.
        if isinstance(answer, InferResult):
            future.set_result(answer.outputs)
        else:
            future.set_exception(_as_exception(answer))


def _as_exception(answer: InferFailed | WorkerGone) -> WorkerGone | OutputsDidNotFit | OvmsError:
    if isinstance(answer, WorkerGone):
        return answer
    if answer.needed_nbytes:
        return OutputsDidNotFit(answer.needed_nbytes)
    return error_from_record(answer.error_name, answer.error_message)
