# SPDX-License-Identifier: Apache-2.0
"""Which process serves which device on which cores, which of them are routed to, and the deadline of what they load.

A seat is a place for one inference worker: a device and a share of the cores. The device ``CPU`` has ``--cpu_workers``
of them, every other device one. A worker is replaced hitlessly by a second seat with the same share: once that one has
loaded everything the first is not routed to any more, and ends when it has answered what it had.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ovms_mp.defects import contain
from ovms_mp.manager.children.child import Child, ChildState
from ovms_mp.wire.messages import UnloadModel
from ovms_mp.wire.records import WorkerRecord
from ovms_mp.wire.run_page import RunPage, create_run_page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.child.specs import CpuShare, WorkerSpec
    from ovms_mp.manager.children.control import ControlChannel
    from ovms_mp.manager.timers import Timers
    from ovms_mp.wire.messages import LoadModel

_log = logging.getLogger(__name__)


_UNTRIED_PATIENCE_S = 10.0
"""What has been tried waits so long behind an untried load that was there first, and may be hanging."""


class LoadWatch(Protocol):
    """Who knows whether a load is still going on."""

    def is_pending(self, handle: int, worker: str) -> bool:
        """Whether a worker has not yet said how a load went."""

    def waits_for_untried(self, handle: int, worker: str) -> bool:
        """Whether a worker has not begun with a load, as it is still busy with an untried one."""

    def load_is_late(self, handle: int, reason: str) -> None:
        """The worker that loads it is being killed for that."""


class CounterRows(Protocol):
    """Who has rows of the counters."""

    def take_row(self) -> int:
        """A row for a worker's seat; -1 where there is none left, and what that worker counts is lost."""

    def close_row(self, row: int) -> None:
        """Its writer has been reaped: settle what it had under way."""

    def give_row_back(self, row: int) -> None:
        """Its writer has ended; the next one goes on adding."""


def _new_page() -> int:
    """A run page's descriptor; -1 where the system refuses: then nothing is known of what a worker dies of."""
    try:
        return create_run_page()
    except OSError as error:
        _log.warning("event=no_run_page error=%s", error)
        return -1


@dataclass(slots=True, eq=False)
class Seat:
    """A place for a worker.

    Attributes:
        name: Also of the role that the supervisor keeps filled for it; never used twice.
        is_leaving: Fronts are being told, or have been, to route elsewhere.
        has_outgrown: Its worker is replaced as it takes more memory than it may.
        replaces: The seat that leaves once this one has everything.
        leave_epoch: Snapshot without it, which every front must have applied before its worker is drained.
        tenant: Handle of the one deployment that it is for; 0 for all others of the device.
        counter_row: Where its workers, one after another, count; -1 for nowhere.
        page: Where its workers, one after another, mark what they run.
    """

    name: str
    device: str
    share: CpuShare
    child: Child | None = None
    endpoint: str = ""
    is_leaving: bool = False
    has_outgrown: bool = False
    replaces: Seat | None = None
    leave_epoch: int = 0
    tenant: int = 0
    counter_row: int = -1
    page_descriptor: int = field(default_factory=_new_page)
    page: RunPage = field(init=False)

    def __post_init__(self) -> None:
        """Map the page."""
        self.page = RunPage(self.page_descriptor)

    def close(self) -> None:
        """Give the page back; its worker is gone."""
        self.page.close()
        if self.page_descriptor >= 0:
            os.close(self.page_descriptor)

    @property
    def is_ready(self) -> bool:
        """Whether its worker takes loads."""
        return self.child is not None and self.child.state is ChildState.READY and not self.is_leaving


class Workers:
    """All seats; the deployments' gate to their workers."""

    def __init__(
        self, control: ControlChannel, timers: Timers, load_timeout_s: float, rows: CounterRows
    ) -> None:
        """Prepare without any seat.

        Args:
            control: The way to the workers.
            timers: The manager's.
            load_timeout_s: A worker that takes longer to load a version is killed.
            rows: Of the counters, one for each seat.
        """
        self._control = control
        self._timers = timers
        self._load_timeout_s = load_timeout_s
        self._rows = rows
        self._seats: dict[str, Seat] = {}
        self._count = 0

    def add(self, device: str, share: CpuShare, replaces: Seat | None = None, tenant: int = 0) -> Seat:
        """A new seat, still empty."""
        if replaces is not None:
            tenant = replaces.tenant
        row = self._rows.take_row()
        name = f"worker-{self._count}"
        seat = Seat(name, device, share, replaces=replaces, tenant=tenant, counter_row=row)
        self._count += 1
        self._seats[seat.name] = seat
        return seat

    def remove(self, seat: Seat) -> None:
        """Forget a seat whose worker is gone."""
        if self._seats.pop(seat.name, None) is not None:
            self._rows.give_row_back(seat.counter_row)
            seat.close()

    def close(self) -> None:
        """Forget all seats; no worker lives."""
        for seat in self:
            self.remove(seat)

    def __iter__(self) -> Iterator[Seat]:
        return iter(list(self._seats.values()))

    def seat_of(self, child: Child) -> Seat | None:
        """The seat that a worker fills, or filled."""
        return self._seats.get(child.role)

    def find(self, worker: str) -> Child | None:
        """A worker by its child id."""
        return next((seat.child for seat in self if seat.child and seat.child.child_id == worker), None)

    def devices(self) -> set[str]:
        """Devices with a seat that stays, and that is not for one deployment only."""
        return {seat.device for seat in self if not seat.is_leaving and not seat.tenant}

    def seated(self, seat: Seat, spec: WorkerSpec) -> WorkerSpec:
        """Remember where the seat's new worker will take tasks; gives the spec back."""
        seat.endpoint = spec.data_endpoint
        return spec

    def became_ready(self, child: Child) -> Seat | None:
        """From now on this process serves its device; None when the seat is not wanted any more."""
        seat = self.seat_of(child)
        if seat is None or seat.is_leaving:
            return None
        seat.child = child
        return seat

    def exited(self, child: Child) -> Seat | None:
        """The process is gone; its seat."""
        seat = self.seat_of(child)
        if seat is not None and seat.child is child:
            seat.child = None
            seat.endpoint = ""
            contain("manager.counters", seat.name, self._rows.close_row, seat.counter_row)
        return seat

    def are_all_ready(self) -> bool:
        """Whether every seat has its worker."""
        return all(seat.is_ready for seat in self if not seat.is_leaving)

    def ready(self, device: str, tenant: int = 0) -> tuple[str, ...]:
        """READY workers of a device, by child id: those of one deployment, or those that all others share."""
        return tuple(
            seat.child.child_id
            for seat in self
            if seat.device == device and seat.tenant == tenant and seat.is_ready and seat.child
        )

    def routes(self, device: str) -> Iterator[tuple[str, str]]:
        """(worker, endpoint) of a device's workers that tasks may be sent to."""
        for seat in self:
            if seat.device == device and seat.is_ready and seat.child is not None:
                yield seat.child.child_id, seat.endpoint

    def records(self) -> tuple[WorkerRecord, ...]:
        """All workers that live, also those that are leaving: their answers still count."""
        return tuple(
            WorkerRecord(seat.name, seat.device, seat.child.pid, seat.share.cores, seat.endpoint)
            for seat in self
            if seat.child is not None
        )

    def load(self, worker: str, message: LoadModel, watch: LoadWatch) -> None:
        """Have a worker load a version, within the time limit; one that is gone has nothing to load.

        Args:
            worker: By its child id.
            message: What it is told.
            watch: Asked later whether the load is still going on.
        """
        child = self.find(worker)
        if child is not None:
            self._control.send(child, message)
            self._timers.call_after(self._load_timeout_s, partial(self._check_load, child, message, watch))
            self._timers.call_after(_UNTRIED_PATIENCE_S, partial(self._check_wait, child, message, watch))

    def unload(self, worker: str, handle: int) -> None:
        """Have a worker unload a deployment; one that is gone has nothing to unload."""
        child = self.find(worker)
        if child is not None:
            self._control.send(child, UnloadModel(handle))

    def _check_wait(self, child: Child, message: LoadModel, watch: LoadWatch) -> None:
        """Have what was tried loaded by another process; what was not is tried meanwhile."""
        if child.state is ChildState.READY and watch.waits_for_untried(message.handle, child.child_id):
            _log.warning(
                "event=load_held_up model=%s version=%d %s is busy with one that was not tried; killing it",
                message.name,
                message.version,
                child.child_id,
            )
            child.end("a load that was not tried held up others")

    def _check_load(self, child: Child, message: LoadModel, watch: LoadWatch) -> None:
        if child.state is ChildState.READY and watch.is_pending(message.handle, child.child_id):
            limit = f"{self._load_timeout_s:g} s (--load_timeout_s)"
            watch.load_is_late(message.handle, f"it was not loaded within {limit}")
            _log.error(
                "event=load_hangs model=%s version=%d not loaded within %s; killing %s",
                message.name,
                message.version,
                limit,
                child.child_id,
            )
            child.end(f"it did not load {message.name}/{message.version} in time (--load_timeout_s)")
