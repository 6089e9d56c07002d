# SPDX-License-Identifier: Apache-2.0
"""A version as the worker's loop sees it, and how one task of it runs."""

from __future__ import annotations

import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ovms_mp.errors import INTERNAL_ERROR_TEXT, InferenceFailed, OvmsError, ProtocolError
from ovms_mp.wire.messages import InferFailed, InferResult
from ovms_mp.worker.compiled import OutputsTooLarge
from ovms_mp.worker.variants import Refusals, VariantTable

if TYPE_CHECKING:
    from ovms_mp.wire.messages import InferTask, TensorRef
    from ovms_mp.worker.compiled import CompiledVersion, InferSlot
    from ovms_mp.worker.loaded import VariantMaker
    from ovms_mp.worker.queues import QueuedTask, SharedBounds, VersionQueue
    from ovms_mp.worker.variants import Shapes

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class ServedVersion:
    """A version, or one variant of it.

    Attributes:
        handle: The manager's; a variant has a negative one that no other process knows.
        title: For the log.
        queue: Tasks that wait.
        run_time_s: Smoothed; decides where tasks run.
        compiled: None while a variant is not compiled, and for a version whose variants are.
        idle: Infer requests that are free.
        threads: One for each infer request; idle while tasks run in the loop.
        running: Tasks in threads or being examined; and a variant's compilation.
        is_retiring: It ends when it has nothing left.
        examiner: Tells whether a failed task's shapes were at fault; None where the specs say that.
        cure_after_s: Not compiled again before this moment, as that has just been in vain.
        refusals: What the examiner or a compilation said.
        family: Its variants, if it has some.
        parent: The version that a variant belongs to.
        shapes: What a variant is compiled for.
    """

    handle: int
    title: str
    queue: VersionQueue
    run_time_s: float = 0.0
    compiled: CompiledVersion | None = None
    idle: deque[InferSlot] = field(default_factory=deque)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    running: int = 0
    is_retiring: bool = False
    examiner: VariantMaker | None = None
    cure_after_s: float = 0.0
    refusals: Refusals | None = None
    family: Family | None = None
    parent: ServedVersion | None = None
    shapes: Shapes = ()

    def equip(self, compiled: CompiledVersion, run_time_s: float) -> None:
        """Give it what runs its tasks."""
        self.compiled = compiled
        self.run_time_s = run_time_s
        self.idle = deque(compiled.slots)
        # Its operating system threads appear with the first task that runs in one.
        self.threads = ThreadPoolExecutor(compiled.nireq, thread_name_prefix=f"infer-{self.handle}")

    def replace(self, compiled: CompiledVersion) -> None:
        """Go on with another compiled model of it; runs that are under way end on the old one."""
        for slot in self.compiled.slots if self.compiled is not None else ():
            slot.is_retired = True
        self.threads.shutdown(wait=False)
        self.equip(compiled, self.run_time_s)

    def has_nothing_left(self) -> bool:
        """Whether no task of it waits or runs, nor one of its variants exists."""
        return not self.running and not self.queue.tasks and not (self.family and self.family.living)


@dataclass(slots=True)
class Family:
    """What the variants of one version share.

    Attributes:
        maker: Compiles them.
        bounds: Of all their queues together.
        table: Those that take new tasks.
        living: How many exist, with those that only finish what they have.
    """

    maker: VariantMaker
    bounds: SharedBounds
    table: VariantTable[ServedVersion]
    living: int = 0


@dataclass(slots=True)
class FinishedRun:
    """A task that has run, and the infer request that is free again."""

    version: ServedVersion
    slot: InferSlot
    queued: QueuedTask
    answer: InferResult | InferFailed
    run_time_s: float


def run_task(version: ServedVersion, slot: InferSlot, queued: QueuedTask) -> FinishedRun:
    """Run one task; never raises, as exactly one answer must follow. Runs in the loop or in an inference thread."""
    peer, task = queued.peer, queued.task
    start = time.perf_counter()
    answer: InferResult | InferFailed
    try:
        compiled = version.compiled
        if compiled is None:
            raise ProtocolError("a task was started before its variant was compiled")
        outputs: tuple[TensorRef, ...] = compiled.run(slot, task, peer.arena, peer.arena_index)
        answer = InferResult(task.task_id, outputs)
    except OutputsTooLarge as error:
        answer = InferFailed(task.task_id, "", "", error.needed_nbytes)
    except OvmsError as error:
        # Where there is an examiner, it finds out first whose fault it was.
        if version.examiner is None or not isinstance(error, InferenceFailed):
            _log.error("event=inference_failed model=%r error=%s", version.title, error)
        answer = failure(task, error)
    except Exception:
        _log.exception("event=inference_raised model=%r", version.title)
        answer = failure(task, InferenceFailed(INTERNAL_ERROR_TEXT))
    return FinishedRun(version, slot, queued, answer, time.perf_counter() - start)


def failure(task: InferTask, error: OvmsError) -> InferFailed:
    """The terminal answer of a task that failed."""
    return InferFailed(task.task_id, type(error).__name__, error.message)


def shapes_of(task: InferTask) -> Shapes:
    """The shape of each input."""
    return tuple([ref.shape for ref in task.inputs])
