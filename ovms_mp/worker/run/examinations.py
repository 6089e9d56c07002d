# SPDX-License-Identifier: Apache-2.0
"""Examinations: whether a failed task's shapes were at fault, and a second try for those whose shapes were not.

::

    failed task of a dynamic model --> can the model take these shapes at all? (in a thread)
                                            | no: answer
                                            | yes: compiled again, a second try, answer

The second try is for the innocent. Seen with OpenVINO 2026.4 on CPU: where a run fails because of its shapes, nodes
that were prepared for them stay broken, and the next run with the shapes of the last good one fails too, as does every
further one until other shapes have passed ("GroupConvolution node ... object is not initialized"). A fresh infer
request does not help, a fresh compiled model does.

Belongs to the loop's thread, but for what is said to run in another.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.errors import ShapeMismatch
from ovms_mp.worker.engine.affinity import call_strays_back
from ovms_mp.worker.run.failures import defect_answer, failure
from ovms_mp.worker.run.served import shapes_of

if TYPE_CHECKING:
    from ovms_mp.child.specs import CpuShare
    from ovms_mp.errors import OvmsError
    from ovms_mp.wire.channels import Wakeup
    from ovms_mp.wire.run_page import RunPage
    from ovms_mp.wire.tasks import InferFailed
    from ovms_mp.worker.load.compiled import CompiledVersion
    from ovms_mp.worker.load.maker import VariantMaker
    from ovms_mp.worker.run.answers import Answers
    from ovms_mp.worker.run.pool import FinishedRun
    from ovms_mp.worker.run.served import ServedVersion

_log = logging.getLogger(__name__)

_CURE_AGAIN_AFTER_S = 30.0
"""A model that fails on shapes that fit it, even freshly compiled, is not compiled for each such request."""


@dataclass(frozen=True, slots=True)
class _Examined:
    """What the examining thread hands back to the loop."""

    run: FinishedRun[ServedVersion]
    answer: InferFailed
    """What it says if its shapes were not at fault."""
    error: OvmsError | None
    """Why the model cannot take these shapes."""
    cure: CompiledVersion | None
    """The model compiled again."""


class Examinations:
    """One after another, in a thread."""

    def __init__(self, answers: Answers, wakeup: Wakeup, cpu: CpuShare, page: RunPage) -> None:
        """Prepare; no thread runs before there is work for it.

        Args:
            answers: Takes tasks' terminal answers.
            wakeup: Wakes the loop when the thread has something for :meth:`take_outcomes`.
            cpu: This worker's part of the machine.
            page: Where a task is marked while the engine works on its shapes.
        """
        self._answers = answers
        self._wakeup = wakeup
        self._cpu = cpu
        self._page = page
        self._examined: deque[_Examined] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="examiner")

    def examine(self, run: FinishedRun[ServedVersion], answer: InferFailed, examiner: VariantMaker) -> None:
        """Find out whether a failed task's shapes were at fault, and answer it then."""
        shapes = shapes_of(run.queued.task)
        refusals = run.owner.refusals
        error = refusals.find(shapes, time.monotonic()) if refusals else None
        if error is not None:
            self._answers.give(run.queued.peer, failure(run.queued.task, error))
        else:
            self._thread.submit(self._run, run, answer, examiner)
            run.owner.running += 1

    def _run(self, run: FinishedRun[ServedVersion], answer: InferFailed, examiner: VariantMaker) -> None:
        """Runs in the examining thread."""
        error: OvmsError | None = None
        cure: CompiledVersion | None = None
        version, queued = run.owner, run.queued
        mark = self._page.begin(queued.peer.arena_key, queued.task.task_id, queued.task.handle)
        try:
            error = examiner.refusal(shapes_of(run.queued.task))
            may_cure = not run.queued.is_second_try and time.monotonic() >= version.cure_after_s
            if error is None and may_cure and version.pool is run.pool:
                cure = examiner.make_dynamic()
                call_strays_back(self._cpu)
        except Exception:
            # What the run said stands; exactly one answer must follow.
            _log.exception("event=examination_raised model=%r", version.title)
        finally:
            self._page.end(mark)
        self._examined.append(_Examined(run, answer, error, cure))
        self._wakeup.set()

    def take_outcomes(self) -> None:
        """Answer the tasks that have been examined, or try them again."""
        while self._examined:
            examined = self._examined.popleft()
            queued = examined.run.queued
            examined.run.owner.running -= 1
            if not contain("worker.judge", f"task {queued.task.task_id}", self._judge, examined):
                self._answers.give(queued.peer, defect_answer(queued.task))

    def _judge(self, examined: _Examined) -> None:
        version, queued = examined.run.owner, examined.run.queued
        if examined.error is None:
            self._try_again_or_fail(examined)
            return
        refusal = ShapeMismatch(examined.error.message)
        if version.refusals is not None:
            version.refusals.add(shapes_of(queued.task), refusal, time.monotonic())
        self._answers.give(queued.peer, failure(queued.task, refusal))

    def _try_again_or_fail(self, examined: _Examined) -> None:
        version, queued, text = examined.run.owner, examined.run.queued, examined.answer.error_message
        if examined.cure is not None and version.pool is examined.run.pool:
            _log.warning("event=compiled_again model=%r reason=%s", version.title, text)
            version.replace(examined.cure)
        if version.pool is not examined.run.pool and not queued.is_second_try:
            queued.is_second_try = True
            version.queue.put_back(queued)
            return
        version.cure_after_s = time.monotonic() + _CURE_AGAIN_AFTER_S
        _log.error("event=inference_failed model=%r error=%s", version.title, text)
        self._answers.give(queued.peer, examined.answer)
