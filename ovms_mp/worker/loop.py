# SPDX-License-Identifier: Apache-2.0
"""The worker's main loop: tasks in, inference, answers out.

::

    fronts --ROUTER--> queue of the version --> infer slot, here or in a thread --> outbox --ROUTER--> fronts
    manager -DEALER--> load, unload, retire, drain

Quick models run inside the loop: handing a 30 us inference to a thread and back would cost more than it. A
model whose run takes longer than a millisecond runs on one thread per infer request
(:mod:`ovms_mp.worker.run.pool`), so that the loop stays free for the other models, for cancellations and for the
manager. Which of the two holds follows the measured time.

A version whose shapes are compiled one by one has *variants*, each a served version with its own queue, reached through
the version's table (:mod:`ovms_mp.worker.load.variants`); new shapes are compiled in a thread while the others serve.

Every task gets exactly one terminal answer. Answers of one turn go out as one message per front: wake-ups are
what costs. Where tasks wait in a queue, answers wait for company, too (:meth:`ServedVersion.patience_s`).
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.defects import Steps, contain, report
from ovms_mp.errors import ModelLoadFailed, OvmsError, VersionNotFound
from ovms_mp.model.status import State
from ovms_mp.wire.channels import Poller, Wakeup
from ovms_mp.wire.codec import decode_to_child, decode_to_worker, salvage_to_worker
from ovms_mp.wire.messages import (
    ArenaReleased,
    ArenaRetired,
    CancelTask,
    Drain,
    Drained,
    InferFailed,
    InferResult,
    InferTask,
    LoadModel,
    ModelStateChanged,
    UnloadModel,
)
from ovms_mp.wire.records import ErrorRecord, bounded_text
from ovms_mp.worker.load.loader import Loader
from ovms_mp.worker.load.spec_records import spec_records
from ovms_mp.worker.run.outbox import Outbox
from ovms_mp.worker.run.peers import Peers
from ovms_mp.worker.run.pool import Runs, defect_answer, failure
from ovms_mp.worker.run.queues import QueuedTask, VersionQueue
from ovms_mp.worker.run.served import UNKNOWN_RUN_TIME_S, ServedVersion
from ovms_mp.worker.run.shaping import Shaping

if TYPE_CHECKING:
    import openvino as ov

    from ovms_mp.child.control import ControlLink
    from ovms_mp.child.specs import CpuShare
    from ovms_mp.wire.channels import Router
    from ovms_mp.wire.messages import ToChild, ToWorker
    from ovms_mp.wire.records import ArenaHandle
    from ovms_mp.wire.run_page import RunPage
    from ovms_mp.worker.load.loader import LoadOutcome
    from ovms_mp.worker.run.pool import FinishedRun, InferPool
    from ovms_mp.worker.run.queues import Peer

_log = logging.getLogger(__name__)

_TURN_LIMIT_S = 0.0002
"""After so long in inline runs the loop sends what it has and looks at its sockets: the front encodes these answers
while the next tasks run. PERF: tiny model, 16 in flight: 11,200/s with 2 ms, 12,800 with 0.2, 11,900 with 0.1."""
_AGAIN_S = 0.05
"""After this time at the latest steps that raised are done again."""
_MOST_FAILURES = 100
"""Turns in a row in which one step may raise; then the process ends, as its successor may fare better."""
_SMOOTHING = 0.2
"""Weight of the newest run in the smoothed run time."""
_OUTLIER_SLACK_S = 0.0001


@dataclass(slots=True)
class _Counters:
    """Read by the heartbeat thread; each is written by the loop only, and reading an int is atomic."""

    accepted: int = 0
    answered: int = 0


@dataclass(slots=True)
class _Lone:
    """A task under suspicion: what it is handed over to runs nothing else, so that it is convicted or cleared."""

    version: ServedVersion
    queued: QueuedTask
    has_begun: bool = False


class WorkerLoop:
    """Owns the worker's sockets, loaded versions and queues."""

    def __init__(
        self,
        core: ov.Core,
        control: ControlLink,
        data: Router,
        arenas: tuple[ArenaHandle, ...],
        cpu: CpuShare,
        page: RunPage,
    ) -> None:
        self._control = control
        self._data = data
        self._peers = Peers(arenas)
        self._versions: dict[int, ServedVersion] = {}
        self._outbox = Outbox(data)
        self._wakeup = Wakeup()
        self._runs = Runs(self._wakeup, page)
        self._loader = Loader(core, cpu, self._wakeup, page)
        self._shaping = Shaping(self._versions, self._answer, self._wakeup, cpu, page)
        self._lone: _Lone | None = None
        self._counters = _Counters()
        self._drain_deadline_ns = 0
        self._again: list[ToChild] = []
        """Messages of the manager that could not be followed."""
        self._steps = Steps("worker", _MOST_FAILURES)

    def measure(self) -> tuple[int, int, float]:
        """(progress, in_flight, oldest_run_s) for the heartbeat; called from its thread."""
        counters = self._counters
        # Loads are not in flight: reading a large model may take minutes, and its deadline is the manager's
        # business. Nor are tasks that wait for a variant to be compiled.
        in_flight = counters.accepted - counters.answered - self._shaping.parked()
        return counters.answered, max(0, in_flight), self._runs.oldest_s()

    def run(self) -> None:
        """Serve until the manager has us drained."""
        poller = Poller()
        poller.register(self._data)
        poller.register(self._control.dealer)
        poller.register(self._wakeup.fileno())
        wakeup = self._wakeup.fileno()
        on_input = (
            (self._control.dealer.fileno(), self._take_control),
            (self._data.fileno(), self._take_tasks),
        )
        on_wakeup = (self._take_finished, self._take_stages, self._take_outcomes, self._shaping.take_outcomes)
        always = (
            self._advance_shaping,
            self._start_tasks,
            self._flush,
            self._retire_versions,
            self._release_arenas,
        )
        while True:
            ready = poller.wait(self._longest_wait_s())
            if wakeup in ready:
                self._wakeup.clear()
            has_failed = self._steps.have_failed or bool(self._again)
            self._steps.do([step for descriptor, step in on_input if has_failed or descriptor in ready])
            if has_failed or wakeup in ready:
                self._steps.do(on_wakeup)
            self._steps.do(always)
            if self._drain_deadline_ns and self._is_drained():
                self._control.send(Drained())
                return

    def _advance_shaping(self) -> None:
        self._shaping.advance(self._dismiss)

    def _longest_wait_s(self) -> float | None:
        """How long the loop may wait for something to happen; None for ever."""
        can_start = self._lone is None
        if can_start and any(entry.queue.tasks and entry.free_pool() for entry in self._versions.values()):
            return 0.0
        longest_s = self._shaping.longest_wait_s()
        until_flush_s = self._outbox.longest_wait_s()
        if until_flush_s is not None:
            longest_s = until_flush_s if longest_s is None else min(longest_s, until_flush_s)
        if self._steps.have_failed or self._again:
            longest_s = _AGAIN_S if longest_s is None else min(longest_s, _AGAIN_S)
        return longest_s

    def _take_control(self) -> None:
        messages, self._again = self._again, []
        messages += iter(self._receive, None)
        for message in messages:
            if contain("worker.message", type(message).__name__, self._follow, message):
                continue
            if isinstance(message, LoadModel):
                self._report_failure(message, ModelLoadFailed("the order to load it could not be followed"))
            else:
                self._again.append(message)

    def _receive(self) -> ToChild | None:
        """The next message that can be read, or None."""
        while (payload := self._control.dealer.receive()) is not None:
            try:
                return decode_to_child(payload)
            except Exception as error:
                report("worker.message", error, "a message of the manager")
        return None

    def _follow(self, message: ToChild) -> None:
        """Do what the manager says; may be done twice."""
        match message:
            case LoadModel():
                self._loader.load(message)
            case UnloadModel(handle=handle):
                if handle in self._versions:
                    self._shaping.retire(self._versions[handle])
                else:
                    self._control.send(
                        ModelStateChanged(handle, State.END, None, (), (), 0, "was not loaded")
                    )
            case ArenaRetired(arena=arena, epoch=epoch):
                self._forget_tasks_ahead(arena, epoch)
                self._peers.retire(arena, epoch)
            case Drain(deadline_ns=deadline_ns):
                self._drain_deadline_ns = deadline_ns
            case _:
                _log.warning("event=unexpected_message type=%s", type(message).__name__)

    def _take_stages(self) -> None:
        while self._loader.stages:
            self._control.send(self._loader.stages.popleft())

    def _take_outcomes(self) -> None:
        while self._loader.outcomes:
            outcome = self._loader.outcomes.popleft()
            request = outcome.request
            title = f"{request.name} version {request.version}"
            if not contain("worker.take_outcome", title, self._take_outcome, outcome, title):
                self._versions.pop(request.handle, None)
                self._report_failure(
                    request, ModelLoadFailed("it was loaded and could not be taken into service")
                )

    def _take_outcome(self, outcome: LoadOutcome, title: str) -> None:
        request, loaded = outcome.request, outcome.loaded
        if loaded is None:
            self._report_failure(request, outcome.error or ModelLoadFailed("unknown reason"))
            return
        settings = request.settings
        version = ServedVersion(
            handle=request.handle,
            title=title,
            queue=VersionQueue(settings.max_queue_tasks, settings.max_queue_bytes),
        )
        run_time_s = UNKNOWN_RUN_TIME_S if loaded.run_time_s is None else loaded.run_time_s
        if loaded.shapes is None:
            version.equip(loaded.compiled, run_time_s)
        self._versions[request.handle] = version
        self._shaping.admit(version, loaded, run_time_s)
        self._control.send(
            ModelStateChanged(
                request.handle,
                State.AVAILABLE,
                None,
                spec_records(loaded.inputs),
                spec_records(loaded.outputs),
                loaded.compiled.nireq,
                bounded_text(
                    "\n".join(
                        (
                            f"load_s={outcome.seconds:.3f} run_ms={run_time_s * 1000:.3f} {loaded.detail}",
                            *loaded.notices,
                        )
                    )
                ),
            )
        )

    def _report_failure(self, request: LoadModel, error: OvmsError) -> None:
        record = ErrorRecord.of(error)
        self._control.send(ModelStateChanged(request.handle, State.LOADING, record, (), (), 0, ""))

    def _retire_versions(self) -> None:
        # From the end: a version's variants are behind it in the table, and it ends after the last of them.
        for version in [entry for entry in self._versions.values() if entry.is_retiring][::-1]:
            if not version.has_nothing_left():
                continue
            del self._versions[version.handle]
            contain("worker.retire", version.title, self._let_go, version)
            if version.parent is None:
                self._control.send(ModelStateChanged(version.handle, State.END, None, (), (), 0, ""))

    def _let_go(self, version: ServedVersion) -> None:
        self._shaping.forget(version)
        if version.pool is not None:
            version.pool.close()
            self._loader.release(version.pool.compiled)

    def _release_arenas(self) -> None:
        for arena, epoch in self._peers.released():
            self._control.send(ArenaReleased(arena, epoch))

    def _is_drained(self) -> bool:
        return (
            self._counters.accepted == self._counters.answered
            or time.monotonic_ns() >= self._drain_deadline_ns
        )

    def _take_tasks(self) -> None:
        while (received := self._data.receive()) is not None:
            identity, payload = received
            batch = self._decode(identity, payload)
            try:
                peer = self._peers.get(identity)
            except Exception as error:
                # No front of ours, or there is no memory to map its arena.
                report("worker.meet", error, f"{len(batch)} tasks of {identity!r}")
                for item in batch:
                    if isinstance(item, InferTask):
                        self._outbox.add(identity, defect_answer(item))
                continue
            if self._peers.is_dead(peer):
                continue  # The front is dead; nobody waits.
            for item in batch:
                if isinstance(item, CancelTask):
                    contain("worker.cancel", f"the end of task {item.task_id}", self._cancel, peer, item)
                    continue
                self._counters.accepted += 1
                try:
                    self._accept(peer, item)
                except Exception as error:
                    self._fail("worker.accept", error, peer, item)

    def _decode(self, identity: bytes, payload: bytes) -> ToWorker:
        """The tasks that can be read; what is none is answered."""
        try:
            return decode_to_worker(payload)
        except Exception as error:
            report("worker.decode", error, f"tasks of {identity!r} that are none")
        batch, failures = salvage_to_worker(payload)
        for failed in failures:
            self._outbox.add(identity, failed)
        return batch

    def _accept(self, peer: Peer, task: InferTask) -> None:
        version = self._versions.get(task.handle)
        try:
            if version is None:
                raise VersionNotFound("the version was unloaded while the request was on its way")
            peer.arena.check_range(task.output_offset_bytes, task.output_nbytes)
            queued = QueuedTask(peer, task, sum(ref.nbytes for ref in task.inputs))
            if version.family is None:
                version.queue.push(queued)
            else:
                self._shaping.push(version, version.family, queued)
        except OvmsError as error:
            self._answer(peer, failure(task, error))

    def _fail(self, step: str, error: Exception, peer: Peer, task: InferTask) -> None:
        """Answer the one task for which a step raised."""
        report(step, error, f"task {task.task_id}")
        self._answer(peer, defect_answer(task))

    def _forget_tasks_ahead(self, arena: int, epoch: int) -> None:
        """Let what a dead front has handed over not begin: nobody waits, and its arena is wanted back."""
        for version in self._versions.values():
            for queued in version.pool.ahead() if version.pool is not None else ():
                if queued.peer.arena_index == arena and queued.peer.arena_epoch <= epoch:
                    queued.is_cancelled = True

    def _cancel(self, peer: Peer, cancel: CancelTask) -> None:
        # Best effort and rare; a task that runs already is answered when it ends.
        for version in self._versions.values():
            ahead = version.pool.ahead() if version.pool is not None else ()
            for queued in (*version.queue.tasks, *ahead):
                if queued.task.task_id == cancel.task_id and queued.peer.identity == peer.identity:
                    queued.is_cancelled = True
                    return

    def _start_tasks(self) -> None:
        """Start what can start, one task of each version in turn, so that no model waits behind another's queue."""
        if self._lone is not None and not self._run_lone(self._lone):
            return
        turn_ends = time.perf_counter() + _TURN_LIMIT_S
        is_busy = True
        while is_busy:
            is_busy = False
            for version in self._versions.values():
                pool = version.free_pool()
                if pool is None or (queued := self._next_task(version)) is None:
                    continue
                is_busy = True
                try:
                    if queued.task.is_suspect:
                        self._lone = _Lone(version, queued)
                        version.running += 1  # It is not done with before this one is.
                        if not self._run_lone(self._lone):
                            return
                    elif version.runs_in_threads or not pool.has_idle:
                        self._hand_over(version, pool, queued)
                    else:
                        self._note_run(pool.run_now(version, queued, self._runs))
                except Exception as error:
                    self._fail("worker.start", error, queued.peer, queued.task)
            if time.perf_counter() > turn_ends:
                return

    def _run_lone(self, lone: _Lone) -> bool:
        """Carry on with a task under suspicion; whether it is done with, so that others may start."""
        if lone.has_begun or self._peers.are_running:
            return False
        lone.has_begun = True
        version, queued = lone.version, lone.queued
        version.running -= 1
        try:
            if not self._dismiss(queued):
                if version.pool is None:
                    raise VersionNotFound("the version was unloaded before the request could run alone")
                self._hand_over(version, version.pool, queued)
                return False
        except OvmsError as error:
            self._answer(queued.peer, failure(queued.task, error))
        except Exception as error:
            self._fail("worker.start", error, queued.peer, queued.task)
        self._lone = None
        return True

    def _next_task(self, version: ServedVersion) -> QueuedTask | None:
        """The next task that is still wanted."""
        while (queued := version.queue.pop()) is not None:
            try:
                if not self._dismiss(queued):
                    return queued
            except Exception as error:
                self._fail("worker.dismiss", error, queued.peer, queued.task)
        return None

    def _dismiss(self, queued: QueuedTask) -> bool:
        """Answer a task that nobody wants any more; whether it was one."""
        peer, task = queued.peer, queued.task
        if self._peers.is_dead(peer):
            self._counters.answered += 1  # To nobody: its front is dead.
        elif (error := queued.refusal()) is not None:
            self._answer(peer, failure(task, error))
        else:
            return False
        return True

    def _hand_over(self, version: ServedVersion, pool: InferPool, queued: QueuedTask) -> None:
        # The loop alone takes note of ends, so it is early enough to count when the hand-over has gone well.
        pool.hand_over(version, queued, self._runs)
        version.running += 1
        self._peers.begun(queued.peer)

    def _take_finished(self) -> None:
        while self._runs.ended:
            run = self._runs.ended.popleft()
            if self._lone is not None and run.queued is self._lone.queued:
                self._lone = None
            run.pool.handed_over -= 1
            run.version.running -= 1
            self._peers.ended(run.queued.peer)
            try:
                self._note_run(run, time.monotonic() + run.version.patience_s())
            except Exception as error:
                self._fail("worker.note_run", error, run.queued.peer, run.queued.task)

    def _note_run(self, run: FinishedRun, leaves_at_s: float = 0.0) -> None:
        version = run.version
        # A quick run that the scheduler interrupted measures milliseconds; believing it would move the model to
        # threads, where it costs several times as much. A run time that really grew is followed within some runs.
        if run.did_run:
            measured_s = min(run.run_time_s, 2.0 * version.run_time_s + _OUTLIER_SLACK_S)
            version.run_time_s += _SMOOTHING * (measured_s - version.run_time_s)
        answer, examiner = run.answer, version.examiner if run.did_run else None
        if examiner is not None and isinstance(answer, InferFailed) and not answer.needed_nbytes:
            self._shaping.examine(run, answer, examiner)
        else:
            self._answer(run.queued.peer, answer, leaves_at_s)

    def _answer(self, peer: Peer, answer: InferResult | InferFailed, leaves_at_s: float = 0.0) -> None:
        self._counters.answered += 1
        self._outbox.add(peer.identity, answer, leaves_at_s)

    def _flush(self) -> None:
        self._outbox.flush(is_all=self._drain_deadline_ns > 0)
