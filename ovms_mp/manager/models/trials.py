# SPDX-License-Identifier: Apache-2.0
"""Trials: each new deployment is compiled and run once in a process of its own before any worker loads it.

What crashes the compiler or hangs it ends there, as that version's status, and nothing else notices. A trial
leaves what it compiled in a cache directory, so that the workers need not compile the same again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ovms_mp.defects import contain, report
from ovms_mp.errors import ModelTooLarge
from ovms_mp.manager.children.child import ChildState
from ovms_mp.manager.children.owned_directory import OwnedDirectory, sweep
from ovms_mp.manager.children.priority import give_some_time, give_spare_time
from ovms_mp.manager.models.deployment import load_failure
from ovms_mp.wire.records import ErrorRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.config.server import EngineConfig
    from ovms_mp.manager.children.child import Child
    from ovms_mp.manager.models.deployment import Deployment
    from ovms_mp.manager.models.trial_memory import TrialMemory
    from ovms_mp.manager.timers import Timers
    from ovms_mp.wire.messages import ProbeDone

_log = logging.getLogger(__name__)

_PATIENCE_S = 2.0
"""So long a trial has the processor only where nobody else wants it; on a full machine it would not end that way."""
_SLOW_S = 10.0
"""A trial that takes longer does not hold up others any more; it may be hanging."""
_MOST_SLOW = 4
_MEMORY_LOOK_S = 0.1
_END_S = 10.0
"""A probe that has said its word has so long to end."""


def cache_directory_of(engine: EngineConfig) -> str:
    """The user's directory for compiled models, or the part of it that is for the libraries which OpenVINO is given.

    What is compiled depends on them, and what is kept is found by the model and its settings only.
    """
    files = [path for path in (engine.cpu_extension, engine.plugins_xml) if path]
    if not engine.cache_dir or not files:
        return engine.cache_dir
    facts: list[object] = []
    for path in files:
        try:
            state = os.stat(path)
        except OSError:
            return ""  # The workers will say what is wrong with it.
        facts.append((path, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino))
    return os.path.join(engine.cache_dir, "with-" + hashlib.sha256(repr(facts).encode()).hexdigest()[:16])


class ProbeLauncher(Protocol):
    """How a probe process comes to life."""

    def __call__(self, child_id: str, deployment: Deployment) -> Child | None:
        """Spawn it; None when the system refuses."""


class Trials:
    """Runs probes, a few at a time; owns the cache directories that they fill."""

    def __init__(
        self,
        launch: ProbeLauncher,
        report: Callable[[int, ErrorRecord | None, str], None],
        timers: Timers,
        *,
        time_limit_s: float,
        most_at_once: int,
        cache_dir: str,
        memory: TrialMemory,
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            launch: Spawns a probe.
            report: Takes (handle, error, detail); no error means success.
            timers: The manager's.
            time_limit_s: A probe that takes longer is killed.
            most_at_once: Further trials wait.
            cache_dir: The user's directory for compiled models; empty for private ones that end with the load.
            memory: Tells which trial takes too much.
        """
        self._launch = launch
        self._report = report
        self._timers = timers
        self._time_limit_s = time_limit_s
        self._most_at_once = most_at_once
        self._cache_dir = cache_dir
        self._private: OwnedDirectory | None = None
        self._has_told = False
        self._waiting: deque[Deployment] = deque()
        self._running: dict[str, tuple[Child, Deployment]] = {}
        self._outcomes: dict[str, tuple[ErrorRecord | None, str]] = {}
        """What probes have said that have not ended yet: a large version is not loaded beside its trial."""
        self._slow: set[str] = set()
        self._memory = memory
        self._too_large: set[str] = set()
        self._is_looking = False
        self._count = 0

    def open(self) -> None:
        """Remove what killed servers of this user left in the temporary directory."""
        sweep()

    def submit(self, deployment: Deployment) -> None:
        """Try a deployment as soon as there is room; the outcome is never reported from within this call."""
        self.skip(deployment)
        if not self._cache_dir:
            deployment.cache_directory = self._private_directory(deployment.handle)
        self._waiting.append(deployment)
        self.run_waiting()

    def process_of(self, deployment: Deployment) -> Child | None:
        """Who is trying a deployment; None while it waits."""
        return next((child for child, running in self._running.values() if running is deployment), None)

    def skip(self, deployment: Deployment) -> None:
        """It is loaded without a trial: what is compiled then is needed only where the user keeps it."""
        deployment.cache_directory = self._cache_dir
        deployment.is_cache_kept = bool(self._cache_dir)

    def withdraw(self, deployment: Deployment) -> None:
        """Nobody wants the outcome any more."""
        if deployment in self._waiting:
            self._waiting.remove(deployment)
        for child, running in self._running.values():
            if running is deployment:
                child.end("nobody wants the version any more", is_dismissed=True)

    def forget_cache(self, deployment: Deployment) -> None:
        """Remove a private cache directory."""
        if self._private is not None and not self._cache_dir:
            shutil.rmtree(self._private.path / str(deployment.handle), ignore_errors=True)
            if self._private.close_if_empty():
                self._private = None

    def run_waiting(self) -> None:
        """Start trials while there is room."""
        while self._waiting and len(self._running) < self._most_at_once + min(len(self._slow), _MOST_SLOW):
            deployment = self._waiting.popleft()
            self._count += 1
            try:
                child = self._launch(f"probe.{self._count}", deployment)
            except Exception as error:
                report("manager.launch", error, deployment.title)
                child = None
            if child is None:
                # Not from within submit: who called that does not know the deployment yet.
                failure = load_failure("the process for its trial could not be spawned")
                self._timers.call_after(0.0, partial(self._report, deployment.handle, failure, ""))
                continue
            _log.info(
                "event=trying %s handle=%d probe=%s", deployment.title, deployment.handle, child.child_id
            )
            self._running[child.child_id] = (child, deployment)
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
            self._report(running[1].handle, *outcome)
        self._too_large.discard(child.child_id)
        self.run_waiting()

    def stop(self) -> None:
        """End what runs, begin nothing more, and report nothing of either."""
        self._waiting.clear()
        for child, _ in self._running.values():
            child.end("the server stops", is_dismissed=True)
        self._running.clear()
        self._outcomes.clear()

    def close(self) -> None:
        """Remove the private directories; the supervisor has ended the processes."""
        self._waiting.clear()
        if self._private is not None:
            self._private.close()
            self._private = None

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
        if child.state is not ChildState.EXITED:  # Else the number may be another process's by now.
            give_some_time(child.pid)

    def _note_slow(self, child_id: str) -> None:
        if child_id in self._running:
            self._slow.add(child_id)
            self.run_waiting()

    def _end_late(self, child_id: str) -> None:
        running = self._running.get(child_id)
        if running is not None:
            running[0].end(f"its trial was not over within {self._time_limit_s:g} s (--load_timeout_s)")

    def _private_directory(self, handle: int) -> str:
        """A fresh directory, or none where the temporary directory takes none: compiling twice is slower, not wrong."""
        try:
            if self._private is None:
                self._private = OwnedDirectory()
            directory = self._private.path / str(handle)
            directory.mkdir()
        except OSError as error:
            if not self._has_told:
                _log.warning(
                    "event=no_cache models are compiled twice, for their trial and to be served, as there is no "
                    "directory for what was compiled: %s; set TMPDIR or --cache_dir to one that can be written to",
                    error,
                )
            self._has_told = True
            return ""
        return str(directory)
