# SPDX-License-Identifier: Apache-2.0
"""The worker's main loop: tasks in, inference, answers out.

::

    fronts --ROUTER--> intake --> queue of the version --> scheduler: in the loop or in a thread --> outbox --> fronts
    manager -DEALER--> orders: load, unload, retire, drain

A version whose shapes are compiled one by one has *variants*, each a served version with its own queue, reached through
the version's table (:mod:`ovms_mp.worker.load.variants`); new shapes are compiled in a thread while the others serve.

Every task gets exactly one terminal answer. Answers of one turn go out as one message per front: wake-ups are
what costs. Where tasks wait in a queue, answers wait for company, too
(:meth:`ovms_mp.worker.run.served.ServedVersion.patience_s`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ovms_mp.defects import Steps
from ovms_mp.wire.channels import Poller, Wakeup
from ovms_mp.wire.messages import Drained
from ovms_mp.worker.batching.loading import load_with_batches
from ovms_mp.worker.load.loader import Loader
from ovms_mp.worker.orders import Orders
from ovms_mp.worker.run.answers import Answers
from ovms_mp.worker.run.examinations import Examinations
from ovms_mp.worker.run.forms import FormKeeper
from ovms_mp.worker.run.intake import Intake
from ovms_mp.worker.run.outbox import Outbox
from ovms_mp.worker.run.peers import Peers
from ovms_mp.worker.run.pool import Runs
from ovms_mp.worker.run.queues import FirstTasks
from ovms_mp.worker.run.scheduler import SWEEP_INTERVAL_S, Scheduler
from ovms_mp.worker.run.shaping import Shaping
from ovms_mp.worker.run.shares import Shares

if TYPE_CHECKING:
    import openvino as ov

    from ovms_mp.child.control import ControlLink
    from ovms_mp.child.specs import CpuShare
    from ovms_mp.wire.channels import Router
    from ovms_mp.wire.counters import CounterRow
    from ovms_mp.wire.records import ArenaHandle
    from ovms_mp.wire.run_page import RunPage
    from ovms_mp.worker.run.served import ServedVersion

_AGAIN_S = 0.05
"""After this time at the latest steps that raised are done again."""
_MOST_FAILURES = 100
"""Turns in a row in which one step may raise; then the process ends, as its successor may fare better."""


class WorkerLoop:
    """Owns the worker's sockets, and does what there is to do in turns."""

    def __init__(
        self,
        core: ov.Core,
        control: ControlLink,
        data: Router,
        arenas: tuple[ArenaHandle, ...],
        cpu: CpuShare,
        page: RunPage,
        row: CounterRow,
        *,
        has_metrics: bool = False,
    ) -> None:
        versions: dict[int, ServedVersion] = {}
        all_first = FirstTasks()
        peers = Peers(arenas)
        self._control = control
        self._data = data
        self._wakeup = Wakeup()
        self._outbox = Outbox(data)
        self._answers = Answers(self._outbox, peers)
        self._runs: Runs[ServedVersion] = Runs(self._wakeup, page)
        self._shaping = Shaping(versions, self._answers, self._wakeup, cpu, page, all_first)
        self._examinations = Examinations(self._answers, self._wakeup, cpu, page)
        shares = Shares()
        self._scheduler = Scheduler(
            versions, peers, self._answers, self._runs, self._examinations, all_first, shares
        )
        self._intake = Intake(data, peers, versions, self._shaping, self._answers, self._outbox)
        loader = Loader(core, cpu, self._wakeup, page, load_with_batches)
        self._forms = FormKeeper(control, loader, self._wakeup, cpu, page)
        self._orders = Orders(
            control,
            loader,
            versions,
            self._shaping,
            self._forms,
            peers,
            self._intake,
            row,
            all_first,
            shares,
            has_metrics=has_metrics,
        )
        self._steps = Steps("worker", _MOST_FAILURES)

    def measure(self) -> tuple[int, int, float]:
        """(progress, in_flight, oldest_run_s) for the heartbeat; called from its thread."""
        # Loads are not in flight: reading a large model may take minutes, and its deadline is the manager's
        # business. Nor are tasks that wait for a variant to be compiled.
        in_flight = self._answers.owed - self._shaping.parked()
        return self._answers.answered, max(0, in_flight), self._runs.oldest_s()

    def run(self) -> None:
        """Serve until the manager has us drained."""
        poller = Poller()
        poller.register(self._data)
        poller.register(self._control.dealer)
        poller.register(self._wakeup.fileno())
        wakeup = self._wakeup.fileno()
        orders, scheduler = self._orders, self._scheduler
        on_input = (
            (self._control.dealer.fileno(), orders.take_control),
            (self._data.fileno(), self._intake.take_tasks),
        )
        on_wakeup = (
            scheduler.take_finished,
            orders.take_stages,
            orders.take_outcomes,
            self._shaping.take_outcomes,
            self._forms.take_outcomes,
            self._examinations.take_outcomes,
        )
        always = (
            self._shaping.advance,
            scheduler.start_tasks,
            self._forms.advance,
            scheduler.sweep,
            self._flush,
            orders.retire_versions,
            orders.release_arenas,
        )
        while True:
            ready = poller.wait(self._longest_wait_s())
            if wakeup in ready:
                self._wakeup.clear()
            has_failed = self._steps.have_failed or orders.have_failed
            self._steps.do([step for descriptor, step in on_input if has_failed or descriptor in ready])
            if has_failed or wakeup in ready:
                self._steps.do(on_wakeup)
            self._steps.do(always)
            if orders.drain_deadline_ns and self._is_drained():
                self._control.send(Drained())
                return

    def _longest_wait_s(self) -> float | None:
        """How long the loop may wait for something to happen; None for ever."""
        if self._scheduler.can_start():
            return 0.0
        longest_s = SWEEP_INTERVAL_S if self._scheduler.has_waiting else self._shaping.longest_wait_s()
        for until_s in (self._outbox.longest_wait_s(), self._forms.longest_wait_s()):
            if until_s is not None:
                longest_s = until_s if longest_s is None else min(longest_s, until_s)
        if self._steps.have_failed or self._orders.have_failed:
            longest_s = _AGAIN_S if longest_s is None else min(longest_s, _AGAIN_S)
        return longest_s

    def _is_drained(self) -> bool:
        return not self._answers.owed or time.monotonic_ns() >= self._orders.drain_deadline_ns

    def _flush(self) -> None:
        self._outbox.flush(is_all=self._orders.drain_deadline_ns > 0)
