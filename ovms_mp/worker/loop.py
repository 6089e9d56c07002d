# SPDX-License-Identifier: Apache-2.0
"""The worker's main loop: tasks in, inference, answers out.

::

    fronts --ROUTER--> queue of the version --> infer slot, here or in a thread --> outbox --ROUTER--> fronts
    manager -DEALER--> load, unload, retire, drain

Quick models run inside the loop: handing a 30 us inference to a thread and back would cost more than it. A
model whose run takes longer than a millisecond runs on one thread per infer request
(:mod:`ovms_mp.worker.pool`), so that the loop stays free for the other models, for cancellations and for the
manager. Which of the two holds follows the measured time.

A version whose shapes are compiled one by one has *variants*, each a served version with its own queue, reached through
the version's table (:mod:`ovms_mp.worker.variants`); new shapes are compiled in a thread while the others serve.

Every task gets exactly one terminal answer. Answers of one turn go out as one message per front: wake-ups are
what costs. Where tasks wait in a queue, answers wait for company, too (:meth:`ServedVersion.patience_s`).
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.errors import ModelLoadFailed, OvmsError, ProtocolError, VersionNotFound
from ovms_mp.model.status import State
from ovms_mp.wire.arena import Arena
from ovms_mp.wire.channels import Poller, Wakeup
from ovms_mp.wire.messages import (
    ArenaReleased,
    ArenaRetired,
    CancelTask,
    Drain,
    Drained,
    ErrorRecord,
    InferFailed,
    InferResult,
    InferTask,
    LoadModel,
    ModelStateChanged,
    TensorSpecRecord,
    UnloadModel,
    decode_to_worker,
    encode,
)
from ovms_mp.worker.loader import Loader
from ovms_mp.worker.pool import Runs, failure
from ovms_mp.worker.queues import Peer, QueuedTask, VersionQueue
from ovms_mp.worker.served import UNKNOWN_RUN_TIME_S, ServedVersion
from ovms_mp.worker.shaping import Shaping

if TYPE_CHECKING:
    import openvino as ov

    from ovms_mp.model.tensors import TensorSpec
    from ovms_mp.wire.channels import Router
    from ovms_mp.wire.control import ControlLink
    from ovms_mp.wire.specs import ArenaHandle, CpuShare
    from ovms_mp.worker.pool import FinishedRun, InferPool

_log = logging.getLogger(__name__)

_TURN_LIMIT_S = 0.0002
"""After so long in inline runs the loop sends what it has and looks at its sockets: the front encodes these answers
while the next tasks run. PERF: tiny model, 16 in flight: 11,200/s with 2 ms, 12,800 with 0.2, 11,900 with 0.1."""
_SMOOTHING = 0.2
"""Weight of the newest run in the smoothed run time."""
_OUTLIER_SLACK_S = 0.0001


@dataclass(slots=True)
class _Counters:
    """Read by the heartbeat thread; each is written by the loop only, and reading an int is atomic."""

    accepted: int = 0
    answered: int = 0


@dataclass(slots=True)
class _Retirement:
    """An arena epoch that the manager wants back."""

    arena: int
    epoch: int


class WorkerLoop:
    """Owns the worker's sockets, loaded versions and queues."""

    def __init__(
        self,
        core: ov.Core,
        control: ControlLink,
        data: Router,
        arenas: tuple[ArenaHandle, ...],
        cpu: CpuShare,
    ) -> None:
        self._control = control
        self._data = data
        self._arena_handles = arenas
        self._arenas: dict[int, Arena] = {}
        self._peers: dict[bytes, Peer] = {}
        self._retired_epochs: dict[int, int] = {}
        self._retirements: list[_Retirement] = []
        self._running_by_arena: dict[tuple[int, int], int] = {}
        self._versions: dict[int, ServedVersion] = {}
        self._outbox: dict[bytes, list[InferResult | InferFailed]] = {}
        self._flush_at_s = 0.0
        """When what is in the outbox leaves; 0.0 for at the end of this turn."""
        self._wakeup = Wakeup()
        self._runs = Runs(self._wakeup)
        self._loader = Loader(core, cpu, self._wakeup)
        self._shaping = Shaping(self._versions, self._answer, self._wakeup, cpu)
        self._counters = _Counters()
        self._drain_deadline_ns = 0

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
        control, data = self._control.dealer.fileno(), self._data.fileno()
        while True:
            ready = poller.wait(self._longest_wait_s())
            if control in ready:
                self._take_control()
            if data in ready:
                self._take_tasks()
            if self._wakeup.fileno() in ready:
                self._wakeup.clear()
                self._take_finished()
                self._take_outcomes()
                self._shaping.take_outcomes()
            self._shaping.advance(self._dismiss)
            self._start_tasks()
            self._flush()
            self._retire_versions()
            self._release_arenas()
            if self._drain_deadline_ns and self._is_drained():
                self._control.send(Drained())
                return

    def _longest_wait_s(self) -> float | None:
        """How long the loop may wait for something to happen; None for ever."""
        if any(version.queue.tasks and version.free_pool() for version in self._versions.values()):
            return 0.0
        longest_s = self._shaping.longest_wait_s()
        if not self._outbox:
            return longest_s
        until_flush_s = max(0.0, self._flush_at_s - time.monotonic())
        return until_flush_s if longest_s is None else min(longest_s, until_flush_s)

    def _take_control(self) -> None:
        while (message := self._control.receive()) is not None:
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
                    self._retired_epochs[arena] = max(epoch, self._retired_epochs.get(arena, 0))
                    self._retirements.append(_Retirement(arena, epoch))
                    self._forget_tasks_ahead(arena, epoch)
                case Drain(deadline_ns=deadline_ns):
                    self._drain_deadline_ns = deadline_ns
                case _:
                    _log.warning("event=unexpected_message type=%s", type(message).__name__)

    def _take_outcomes(self) -> None:
        while self._loader.outcomes:
            outcome = self._loader.outcomes.popleft()
            request, loaded = outcome.request, outcome.loaded
            if loaded is None:
                record = ErrorRecord.of(outcome.error or ModelLoadFailed("unknown reason"))
                self._control.send(ModelStateChanged(request.handle, State.LOADING, record, (), (), 0, ""))
                continue
            settings = request.settings
            version = ServedVersion(
                handle=request.handle,
                title=f"{request.name} version {request.version}",
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
                    _spec_records(loaded.inputs),
                    _spec_records(loaded.outputs),
                    loaded.compiled.nireq,
                    "\n".join(
                        (
                            f"{loaded.detail} load_s={outcome.seconds:.3f} run_ms={run_time_s * 1000:.3f}",
                            *loaded.notices,
                        )
                    ),
                )
            )

    def _retire_versions(self) -> None:
        # From the end: a version's variants are behind it in the table, and it ends after the last of them.
        for version in [entry for entry in self._versions.values() if entry.is_retiring][::-1]:
            if not version.has_nothing_left():
                continue
            del self._versions[version.handle]
            self._shaping.forget(version)
            if version.pool is not None:
                version.pool.close()
                self._loader.release(version.pool.compiled)
            if version.parent is None:
                self._control.send(ModelStateChanged(version.handle, State.END, None, (), (), 0, ""))

    def _release_arenas(self) -> None:
        waiting: list[_Retirement] = []
        for retirement in self._retirements:
            if self._running_by_arena.get((retirement.arena, retirement.epoch)):
                waiting.append(retirement)
            else:
                for identity in [
                    identity
                    for identity, peer in self._peers.items()
                    if peer.arena_index == retirement.arena and peer.arena_epoch <= retirement.epoch
                ]:
                    del self._peers[identity]
                self._control.send(ArenaReleased(retirement.arena, retirement.epoch))
        self._retirements = waiting

    def _is_drained(self) -> bool:
        return (
            self._counters.accepted == self._counters.answered
            or time.monotonic_ns() >= self._drain_deadline_ns
        )

    def _take_tasks(self) -> None:
        while (received := self._data.receive()) is not None:
            identity, payload = received
            try:
                peer = self._peers.get(identity) or self._meet(identity)
                batch = decode_to_worker(payload)
            except ProtocolError as error:
                # Whoever sent this is no front of ours, or its memory is corrupt; there is no task id to
                # answer.
                _log.error("event=bad_message peer=%r error=%s", identity, error)
                continue
            if peer.arena_epoch <= self._retired_epochs.get(peer.arena_index, 0):
                continue  # The front is dead; nobody waits.
            for item in batch:
                if isinstance(item, InferTask):
                    self._accept(peer, item)
                else:
                    self._cancel(peer, item)

    def _meet(self, identity: bytes) -> Peer:
        """Learn a front from its address, ``b"<arena>:<epoch>"``."""
        index_text, _, epoch_text = identity.partition(b":")
        try:
            index, epoch = int(index_text), int(epoch_text)
            arena = self._arenas.get(index) or Arena(self._arena_handles[index])
        except (ValueError, IndexError):
            raise ProtocolError(f"peer {identity!r} is no front") from None
        self._arenas[index] = arena
        peer = Peer(identity, index, epoch, arena)
        self._peers[identity] = peer
        return peer

    def _accept(self, peer: Peer, task: InferTask) -> None:
        self._counters.accepted += 1
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
        turn_ends = time.perf_counter() + _TURN_LIMIT_S
        is_busy = True
        while is_busy:
            is_busy = False
            for version in self._versions.values():
                pool = version.free_pool()
                if pool is None or (queued := self._next_task(version)) is None:
                    continue
                is_busy = True
                if version.runs_in_threads or not pool.has_idle:
                    self._hand_over(version, pool, queued)
                else:
                    self._note_run(pool.run_now(version, queued))
            if time.perf_counter() > turn_ends:
                return

    def _next_task(self, version: ServedVersion) -> QueuedTask | None:
        """The next task that is still wanted."""
        while (queued := version.queue.pop()) is not None:
            if not self._dismiss(queued):
                return queued
        return None

    def _dismiss(self, queued: QueuedTask) -> bool:
        """Answer a task that nobody wants any more; whether it was one."""
        peer, task = queued.peer, queued.task
        if peer.arena_epoch <= self._retired_epochs.get(peer.arena_index, 0):
            self._counters.answered += 1  # To nobody: its front is dead.
        elif (error := queued.refusal()) is not None:
            self._answer(peer, failure(task, error))
        else:
            return False
        return True

    def _hand_over(self, version: ServedVersion, pool: InferPool, queued: QueuedTask) -> None:
        version.running += 1
        self._running_by_arena[queued.peer.arena_key] = (
            self._running_by_arena.get(queued.peer.arena_key, 0) + 1
        )
        pool.hand_over(version, queued, self._runs)

    def _take_finished(self) -> None:
        while self._runs.ended:
            run = self._runs.ended.popleft()
            arena_key = run.queued.peer.arena_key
            run.pool.handed_over -= 1
            run.version.running -= 1
            self._running_by_arena[arena_key] -= 1
            if not self._running_by_arena[arena_key]:
                del self._running_by_arena[arena_key]
            self._note_run(run, time.monotonic() + run.version.patience_s())

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
        self._flush_at_s = min(self._flush_at_s, leaves_at_s) if self._outbox else leaves_at_s
        self._outbox.setdefault(peer.identity, []).append(answer)

    def _flush(self) -> None:
        if not self._outbox:
            return
        if self._flush_at_s and time.monotonic() < self._flush_at_s and not self._drain_deadline_ns:
            return
        for identity, answers in self._outbox.items():
            self._data.send(identity, encode(answers))
        self._outbox.clear()


def _spec_records(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpecRecord, ...]:
    return tuple(TensorSpecRecord(spec.name, spec.dtype.name, spec.bounds, spec.exact) for spec in specs)
