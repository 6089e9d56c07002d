# SPDX-License-Identifier: Apache-2.0
"""Trials: each new deployment is compiled and run once in a process of its own before any worker loads it.

What crashes the compiler or hangs it ends there, as that version's status, and nothing else notices. What a trial
compiled is kept for the workers (:mod:`.compile_caches`).
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ovms_mp.defects import contain, report
from ovms_mp.errors import ModelTooLarge
from ovms_mp.manager.children.kinds import Kind
from ovms_mp.manager.children.priority import give_some_time, give_spare_time
from ovms_mp.manager.models.deployment import load_failure
from ovms_mp.wire.records import ErrorRecord

if TYPE_CHECKING:
    from ovms_mp.manager.children.child import Child
    from ovms_mp.manager.children.spec_maker import SpecMaker
    from ovms_mp.manager.children.supervisor import Supervisor
    from ovms_mp.manager.models.compile_caches import CompileCaches
    from ovms_mp.manager.models.deployment import Deployment
    from ovms_mp.manager.models.interfaces import TrialReport
    from ovms_mp.manager.models.trial_memory import TrialMemory
    from ovms_mp.manager.timers import Timers
    from ovms_mp.manager.workers.provisioner import Provisioner
    from ovms_mp.wire.messages import ProbeDone

_log = logging.getLogger(__name__)

_PATIENCE_S = 2.0
"""So long a trial has the processor only where nobody else wants it; on a full machine it would not end that way."""
_SLOW_S = 10.0
"""A trial that takes longer does not hold up others any more; it may be hanging."""
_MOST_SLOW = 4
_MEMORY_LOOK_S = 0.1
_END_S = 10.0
"""Time that a probe has to exit after it has reported its result."""


@dataclass(frozen=True, slots=True)
class _Trial:
    deployment: Deployment
    report: TrialReport


class ProbeLauncher:
    """Starts probe processes."""

    def __init__(
        self,
        supervisor: Supervisor,
        specs: SpecMaker,
        provisioner: Provisioner,
        descriptors: tuple[int, ...],
    ) -> None:
        """Prepare.

        Args:
            supervisor: Owns the processes.
            specs: Makes their command lines.
            provisioner: Tells which part of the machine a device's worker has.
            descriptors: The arenas.
        """
        self._supervisor = supervisor
        self._specs = specs
        self._provisioner = provisioner
        self._descriptors = descriptors

    def launch(self, child_id: str, deployment: Deployment) -> Child | None:
        """Spawn the trial of a deployment; None when the system refuses."""
        share = self._provisioner.share_of(deployment.settings.device)
        spec = self._specs.probe(child_id, deployment.load_message(), share)
        return self._supervisor.spawn_once(Kind.PROBE, spec, self._descriptors)


class Trials:
    """Runs probes, a few at a time."""

    def __init__(
        self,
        launcher: ProbeLauncher,
        timers: Timers,
        *,
        time_limit_s: float,
        most_at_once: int,
        caches: CompileCaches,
        memory: TrialMemory,
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            launcher: Spawns probes.
            timers: The manager's.
            time_limit_s: A probe that takes longer is killed.
            most_at_once: Further trials wait.
            caches: Where probes leave what they compiled.
            memory: Tells which trial takes too much.
        """
        self._launcher = launcher
        self._timers = timers
        self._time_limit_s = time_limit_s
        self._most_at_once = most_at_once
        self._caches = caches
        self._waiting: deque[_Trial] = deque()
        self._running: dict[str, tuple[Child, _Trial]] = {}
        self._outcomes: dict[str, tuple[ErrorRecord | None, str]] = {}
        """What probes have said that have not ended yet: a large version is not loaded beside its trial."""
        self._slow: set[str] = set()
        self._memory = memory
        self._too_large: set[str] = set()
        self._is_looking = False
        self._count = 0

    def submit(self, deployment: Deployment, report: TrialReport) -> None:
        """Try a deployment as soon as there is room.

        Args:
            deployment: What to try.
            report: Told the outcome, once; never from within this call.
        """
        self._caches.assign(deployment, is_tried=True)
        self._waiting.append(_Trial(deployment, report))
        self.run_waiting()

    def process_of(self, deployment: Deployment) -> Child | None:
        """Who is trying a deployment; None while it waits."""
        return next(
            (child for child, trial in self._running.values() if trial.deployment is deployment), None
        )

    def skip(self, deployment: Deployment) -> None:
        """It is loaded without a trial: what is compiled then is needed only where the user keeps it."""
        self._caches.assign(deployment, is_tried=False)

    def withdraw(self, deployment: Deployment) -> None:
        """Nobody wants the outcome any more."""
        self._waiting = deque(trial for trial in self._waiting if trial.deployment is not deployment)
        child = self.process_of(deployment)
        if child is not None:
            child.end("nobody wants the version any more", is_dismissed=True)

    def forget_cache(self, deployment: Deployment) -> None:
        """Remove what its trial compiled for it alone."""
        self._caches.remove(deployment)

    def run_waiting(self) -> None:
        """Start trials while there is room."""
        while self._waiting and len(self._running) < self._most_at_once + min(len(self._slow), _MOST_SLOW):
            trial = self._waiting.popleft()
            deployment = trial.deployment
            self._count += 1
            try:
                child = self._launcher.launch(f"probe.{self._count}", deployment)
            except Exception as error:
                report("manager.launch", error, deployment.title)
                child = None
            if child is None:
                # Not from within submit: who called that does not know the deployment yet.
                failure = load_failure("the process for its trial could not be spawned")
                self._timers.call_after(0.0, partial(trial.report, deployment.handle, failure, ""))
                continue
            _log.info(
                "event=trying %s handle=%d probe=%s", deployment.title, deployment.handle, child.child_id
            )
            self._running[child.child_id] = (child, trial)
            contain("manager.priority", child.child_id, give_spare_time, child.pid)
            if not self._is_looking:
                self._is_looking = True
                self._timers.call_after(_MEMORY_LOOK_S, self._look_at_memory)
            self._timers.call_after(_PATIENCE_S, partial(self._hurry, child))
            self._timers.call_after(_SLOW_S, partial(self._note_slow, child.child_id))
            self._timers.call_after(self._time_limit_s, partial(self._end_late, child.child_id))

    def done(self, child: Child, message: ProbeDone) -> None:
        """A probe says how it went."""
        self._timers.call_after(
            _END_S, lambda: child.end(f"it had done its work {_END_S:g} s ago", is_dismissed=True)
        )
        self._say(child, message.error, message.detail)

    def failed(self, child: Child, error: ErrorRecord) -> None:
        """A probe could not even begin."""
        self._say(child, error, "")

    def _say(self, child: Child, error: ErrorRecord | None, detail: str) -> None:
        if child.child_id in self._running:
            self._outcomes.setdefault(child.child_id, (error, detail))

    def exited(self, child: Child, reason: str) -> None:
        """A probe ended, and its memory is free; what it said is the outcome, or that it said nothing."""
        running = self._running.pop(child.child_id, None)
        self._slow.discard(child.child_id)
        outcome = self._outcomes.pop(child.child_id, None)
        if running is not None:
            if outcome is None:
                text = child.killed_for or f"its trial process ended without a word: {reason}"
                is_too_large = child.child_id in self._too_large
                error = ErrorRecord(ModelTooLarge.__name__, text) if is_too_large else load_failure(text)
                outcome = (error, "")
            trial = running[1]
            trial.report(trial.deployment.handle, *outcome)
        self._too_large.discard(child.child_id)
        self.run_waiting()

    def stop(self) -> None:
        """End what runs, begin nothing more, and report nothing of either."""
        self._waiting.clear()
        for child, _ in self._running.values():
            child.end("the server stops", is_dismissed=True)
        self._running.clear()
        self._outcomes.clear()

    def _look_at_memory(self) -> None:
        """End the trial that takes too much memory; again as long as there are any."""
        self._is_looking = bool(self._running)
        if not self._is_looking:
            return
        self._timers.call_after(_MEMORY_LOOK_S, self._look_at_memory)
        children = {child.pid: child for child, _ in self._running.values() if not child.killed_for}
        found = self._memory.excess(children)
        if found is not None:
            child = children[found[0]]
            self._too_large.add(child.child_id)
            child.end(found[1])

    def _hurry(self, child: Child) -> None:
        if not child.has_ended:  # Else the number may be another process's by now.
            give_some_time(child.pid)

    def _note_slow(self, child_id: str) -> None:
        if child_id in self._running:
            self._slow.add(child_id)
            self.run_waiting()

    def _end_late(self, child_id: str) -> None:
        running = self._running.get(child_id)
        if running is not None:
            running[0].end(f"its trial was not over within {self._time_limit_s:g} s (--load_timeout_s)")
