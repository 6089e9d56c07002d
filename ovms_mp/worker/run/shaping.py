# SPDX-License-Identifier: Apache-2.0
"""Variants: what the worker's loop does about shapes that are compiled one by one.

::

    task of a version with variants --> variant of its shapes --> its queue --> infer slot (as any version's)
                                            | new shapes: compiled in a thread, one after another

Belongs to the loop's thread, but for what is said to run in others.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ovms_mp.defects import contain, report
from ovms_mp.errors import ModelLoadFailed, OvmsError, ShapeMismatch, VersionNotFound
from ovms_mp.worker.engine.affinity import call_strays_back
from ovms_mp.worker.load.variants import Refusals, VariantTable
from ovms_mp.worker.run.failures import failure
from ovms_mp.worker.run.queues import SharedBounds, VariantQueue
from ovms_mp.worker.run.served import UNKNOWN_RUN_TIME_S, Family, ServedVersion, shapes_of

if TYPE_CHECKING:
    from ovms_mp.child.specs import CpuShare
    from ovms_mp.wire.channels import Wakeup
    from ovms_mp.wire.run_page import RunPage
    from ovms_mp.wire.version_counters import VersionCounters
    from ovms_mp.worker.load.compiled import CompiledVersion
    from ovms_mp.worker.load.loaded import LoadedVersion
    from ovms_mp.worker.load.maker import VariantMaker
    from ovms_mp.worker.load.variants import Shapes
    from ovms_mp.worker.run.answers import Answers
    from ovms_mp.worker.run.queues import FirstTasks, QueuedTask, VersionQueue
    from ovms_mp.worker.run.served import Evicted
    from ovms_mp.worker.run.shares import Share

_log = logging.getLogger(__name__)

_SWEEP_INTERVAL_S = 0.05
"""How exactly a deadline is kept while a task waits for its variant; the fronts look as often."""


@dataclass(frozen=True, slots=True)
class _Made:
    """What the compiling thread hands back to the loop."""

    variant: ServedVersion
    compiled: CompiledVersion | None
    error: OvmsError | None
    seconds: float


class Shaping:
    """The variants of all versions of one worker."""

    def __init__(
        self,
        versions: dict[int, ServedVersion],
        answers: Answers,
        wakeup: Wakeup,
        cpu: CpuShare,
        page: RunPage,
        all_first: FirstTasks,
    ) -> None:
        """Prepare; no thread runs before there is work for it.

        Args:
            versions: The loop's table; variants appear in it and leave it.
            answers: Takes tasks' terminal answers.
            wakeup: Wakes the loop when a thread has something for :meth:`take_outcomes`.
            cpu: This worker's part of the machine.
            page: Where a task is marked while the engine works on its shapes.
            all_first: Counts tasks that go first, in all queues.
        """
        self._all_first = all_first
        self._versions = versions
        self._page = page
        self._answers = answers
        self._wakeup = wakeup
        self._cpu = cpu
        self._next_handle = -1
        self._families: deque[ServedVersion] = deque()
        self._cold: dict[int, ServedVersion] = {}
        """Variants that are not compiled yet, by their handle."""
        self._is_compiling = False
        self._next_sweep_s = 0.0
        self._made: deque[_Made] = deque()
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="shapes")

    def admit(
        self,
        handle: int,
        title: str,
        queue: VersionQueue,
        loaded: LoadedVersion,
        run_time_s: float,
        counters: VersionCounters,
        share: Share,
    ) -> None:
        """Take a version that has just been loaded into service.

        Args:
            handle: The manager's.
            title: For the log.
            queue: For its tasks; of a version with variants its bounds only.
            loaded: What the load brought.
            run_time_s: What to believe of its run time until it has run.
            counters: Where its executions are counted.
            share: Its model's.
        """
        maker = loaded.maker
        if maker is None or loaded.shapes is None:
            refusals = None if maker is None else Refusals()
            version = ServedVersion(handle, title, queue, share, counters, examiner=maker, refusals=refusals)
            version.equip(loaded.compiled, run_time_s)
            self._versions[handle] = version
            return
        family = Family(maker, SharedBounds(queue.max_tasks, queue.max_bytes), VariantTable())
        parent = ServedVersion(handle, title, queue, share, counters, refusals=Refusals(), family=family)
        self._versions[handle] = parent
        self._families.append(parent)
        variant = self._new_variant(parent, family, loaded.shapes)
        variant.equip(loaded.compiled, run_time_s)
        family.table.hold(loaded.shapes, variant)
        self._adopt(variant, family)

    def push(self, parent: ServedVersion, family: Family, queued: QueuedTask) -> Evicted | None:
        """Queue a task at the variant of its shapes, which is made if need be; see :meth:`ServedVersion.take`.

        Raises:
            OvmsError: The version does not take these shapes, its queues are full, or it is going.
        """
        shapes = shapes_of(queued.task)
        variant = family.table.find(shapes)
        if variant is not None:
            return variant.take(queued)
        if all(0 in shape for shape in shapes):
            raise ShapeMismatch(
                f"no model is compiled for shapes without elements: {list(map(list, shapes))}"
            )
        now_s = time.monotonic()
        refusal = parent.refusals.find(shapes, now_s) if parent.refusals else None
        if refusal is not None:
            raise refusal
        if parent.is_retiring:
            raise VersionNotFound("the version was unloaded while the request was on its way")
        variant = self._new_variant(parent, family, shapes)
        variant.take(queued)  # Raises before anything is made.
        family.table.queue(shapes, variant, now_s)
        self._adopt(variant, family)
        self._cold[variant.handle] = variant
        return None

    def forget(self, version: ServedVersion) -> None:
        """A version or variant ends; it is in the loop's table no more."""
        if version.family is not None:
            self._families.remove(version)
        parent = version.parent
        if parent is not None and parent.family is not None:
            parent.family.living -= 1
            if parent.family.table.find(version.shapes) is version:
                parent.family.table.drop(version.shapes)
            self._cold.pop(version.handle, None)

    def retire(self, parent: ServedVersion) -> None:
        """Let a version go, with its variants, when they have nothing left."""
        parent.is_retiring = True
        if parent.family is not None:
            for version in self._versions.values():
                if version.parent is parent:
                    version.is_retiring = True

    def parked(self) -> int:
        """Tasks that wait for a compilation, which is no sign of a stuck worker. Callable from any thread."""
        # SAFETY: list() of a dict's values is one step of the interpreter; the loop cannot change it meanwhile.
        return sum(len(variant.queue.tasks) for variant in list(self._cold.values()))

    def longest_wait_s(self) -> float | None:
        """How long the loop may wait before :meth:`advance` has something to do; None for ever."""
        return _SWEEP_INTERVAL_S if self._cold else None

    def advance(self) -> None:
        """Begin the next compilation, and answer tasks that have waited too long for theirs."""
        if not self._cold:
            return
        now_s = time.monotonic()
        if now_s >= self._next_sweep_s:
            self._next_sweep_s = now_s + _SWEEP_INTERVAL_S
            for variant in list(self._cold.values()):
                contain("worker.sweep", variant.title, self._sweep, variant)
        if not self._is_compiling:
            self._begin_compilation(now_s)

    def _sweep(self, variant: ServedVersion) -> None:
        variant.queue.take_out(partial(self._answers.dismiss, counters=variant.counters))
        if not variant.queue.tasks and not variant.running:
            self._end(variant)

    def take_outcomes(self) -> None:
        """Take what has been compiled into service."""
        while self._made:
            made = self._made.popleft()
            self._is_compiling = False
            made.variant.running -= 1
            self._cold.pop(made.variant.handle, None)
            if made.compiled is None:
                self._give_up(made.variant, made.error or ModelLoadFailed("unknown reason"))
            elif not contain("worker.equip", made.variant.title, self._equip, made, made.compiled):
                self._give_up(
                    made.variant, ModelLoadFailed("it was compiled and could not be taken into service")
                )

    def _equip(self, made: _Made, compiled: CompiledVersion) -> None:
        _log.info("event=variant_compiled model=%r seconds=%.3f", made.variant.title, made.seconds)
        made.variant.equip(compiled, UNKNOWN_RUN_TIME_S)

    def _new_variant(self, parent: ServedVersion, family: Family, shapes: Shapes) -> ServedVersion:
        text = " ".join(str(list(shape)) for shape in shapes)
        return ServedVersion(
            handle=self._next_handle,
            title=f"{parent.title} shapes {text}",
            queue=VariantQueue(family.bounds, self._all_first),
            share=parent.share,
            counters=parent.counters,
            parent=parent,
            shapes=shapes,
        )

    def _adopt(self, variant: ServedVersion, family: Family) -> None:
        self._next_handle -= 1
        self._versions[variant.handle] = variant
        family.living += 1

    def _end(self, variant: ServedVersion) -> None:
        """A variant that was never compiled ends."""
        del self._versions[variant.handle]
        self.forget(variant)

    def _begin_compilation(self, now_s: float) -> None:
        for _ in range(len(self._families)):
            parent = self._families[0]
            self._families.rotate(-1)  # The next one has the next turn.
            family = parent.family
            turn = None if family is None else family.table.next_turn(ServedVersion.has_nothing_left, now_s)
            if family is None or turn is None:
                continue
            if turn.let_go is not None:
                turn.let_go.is_retiring = True
            turn.variant.running += 1
            self._is_compiling = True
            first = next(iter(turn.variant.queue.tasks), None)
            try:
                self._compiler.submit(self._compile, family.maker, turn.variant, first)
            except Exception as error:
                report("worker.compile", error, turn.variant.title)
                failed = ModelLoadFailed("no thread could be started to compile it")
                self._made.append(_Made(turn.variant, None, failed, 0.0))
                self._wakeup.set()
            return

    def _compile(self, maker: VariantMaker, variant: ServedVersion, first: QueuedTask | None) -> None:
        """Runs in the compiling thread, at normal priority: requests wait for it."""
        start = time.monotonic()
        compiled: CompiledVersion | None = None
        error: OvmsError | None = None
        mark = -1
        if first is not None:
            mark = self._page.begin(first.peer.arena_key, first.task.task_id, first.task.handle)
        try:
            compiled = maker.make(variant.shapes)
            call_strays_back(self._cpu)
        except OvmsError as refusal:
            error = refusal
        except Exception as raised:
            # A defect, or an engine failure of a kind we have not met: these shapes' answer, not the worker's end.
            _log.exception("event=variant_raised model=%r", variant.title)
            error = ModelLoadFailed(f"{type(raised).__name__}: {raised}")
        finally:
            self._page.end(mark)
        self._made.append(_Made(variant, compiled, error, time.monotonic() - start))
        self._wakeup.set()

    def _give_up(self, variant: ServedVersion, error: OvmsError) -> None:
        _log.warning("event=variant_failed model=%r error=%s", variant.title, error)
        if variant.parent is not None and variant.parent.refusals is not None:
            variant.parent.refusals.add(variant.shapes, error, time.monotonic())
        while (queued := variant.queue.pop()) is not None:
            self._answers.give(queued.peer, failure(queued.task, error))
        self._end(variant)
