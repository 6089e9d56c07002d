# SPDX-License-Identifier: Apache-2.0
"""Tells every five seconds about each version that is still loading: what is being done, by whom, and for how long yet.

Looks once a second at what is loading; only what processes say of their stages is sent here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.child.memory import own_memory_bytes
from ovms_mp.config.server import MEBIBYTE
from ovms_mp.log import tell_people
from ovms_mp.manager.models.deployment import DeploymentState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.config.server import ServerConfig
    from ovms_mp.manager.children.child import Child
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.models.catalogue import Catalogue
    from ovms_mp.manager.models.deployment import Deployment
    from ovms_mp.manager.models.trials import Trials
    from ovms_mp.manager.timers import Timers
    from ovms_mp.manager.workers.workers import Workers

_log = logging.getLogger(__name__)

_LOOK_S = 1.0
_REPORT_S = 5.0


@dataclass(frozen=True, slots=True)
class _Load:
    """A step of a load, as it is now.

    Attributes:
        version: Which one, e.g. ``lin/1``.
        step: Names it as long as it goes on.
        what: For people.
        child: Who does it; None while it waits.
        limit_mb: Most memory that the process may have; 0 for no limit.
        limit_flag: The setting of that.
        has_time_out: Whether ``--load_timeout_s`` counts from the step's begin.
    """

    version: str
    step: str
    what: str
    child: Child | None = None
    limit_mb: int = 0
    limit_flag: str = ""
    has_time_out: bool = False


class LoadReports:
    """Owned by the manager's loop."""

    def __init__(
        self,
        config: ServerConfig,
        catalogue: Catalogue,
        trials: Trials,
        workers: Workers,
        timers: Timers,
        clock: Clock,
    ) -> None:
        """Prepare; nothing is told before :meth:`open`."""
        self._config = config
        self._catalogue = catalogue
        self._trials = trials
        self._workers = workers
        self._timers = timers
        self._clock = clock
        self._stages: dict[tuple[str, int], str] = {}
        self._begun: dict[str, float] = {}
        self._steps: dict[tuple[str, str], float] = {}
        self._told: dict[str, int] = {}
        self._is_open = False

    def open(self) -> None:
        """Look from now on."""
        self._is_open = True
        self._timers.call_every(_LOOK_S, self.look)

    def close(self) -> None:
        """The server stops: what is loading is not awaited any more."""
        self._is_open = False

    def take_stage(self, child: Child, handle: int, stage: str) -> None:
        """A process says what it is doing with a deployment."""
        self._stages[(child.child_id, handle)] = stage

    def look(self) -> None:
        """Tell what is due."""
        if not self._is_open:
            return
        now = self._clock.monotonic()
        loads = list(self._loads())
        self._begun = {load.version: self._begun.get(load.version, now) for load in loads}
        steps = {(load.version, load.step) for load in loads}
        self._steps = {key: self._steps.get(key, now) for key in steps}
        self._told = {name: count for name, count in self._told.items() if name in self._begun}
        alive = {load.child.child_id for load in loads if load.child is not None}
        self._stages = {key: stage for key, stage in self._stages.items() if key[0] in alive}
        reports = {version: int((now - begun) // _REPORT_S) for version, begun in self._begun.items()}
        for load in loads:
            if reports[load.version] > self._told.get(load.version, 0):
                step_s = now - self._steps[(load.version, load.step)]
                self._tell(load, now - self._begun[load.version], step_s)
        self._told |= reports

    def _loads(self) -> Iterator[_Load]:
        for name, number in self._catalogue.arriving():
            settle_s = self._config.repository.settle_s
            what = f"waiting until its files have been left alone for {settle_s:g} s (--settle_s)"
            yield _Load(f"{name}/{number}", "files", what)
        for deployment in self._catalogue.deployments:
            version = f"{deployment.model_name}/{deployment.version}"
            if deployment.state is DeploymentState.TRYING:
                yield self._trial(deployment, version)
            elif deployment.state is not DeploymentState.RETIRING:
                yield from self._loads_at_workers(deployment, version)

    def _trial(self, deployment: Deployment, version: str) -> _Load:
        child = self._trials.process_of(deployment)
        if child is None:
            return _Load(version, "trial", "waiting for other trials")
        stage = self._stages.get((child.child_id, deployment.handle), "starting")
        limit_mb = self._config.engine.trial_memory_limit_mb
        return _Load(
            version,
            child.child_id,
            f"trial, {stage}",
            child,
            limit_mb,
            "--trial_memory_limit_mb",
            has_time_out=True,
        )

    def _loads_at_workers(self, deployment: Deployment, version: str) -> Iterator[_Load]:
        limit_mb = self._config.engine.worker_memory_limit_mb
        if deployment.state is DeploymentState.LOADING and not deployment.pending:
            yield _Load(version, "worker", "waiting for an inference worker")
        for worker in deployment.pending:
            child = self._workers.find(worker)
            stage = self._stages.get((worker, deployment.handle), "waiting for other loads")
            what = f"{worker}, {stage}"
            yield _Load(version, worker, what, child, limit_mb, "--worker_memory_limit_mb", has_time_out=True)

    def _tell(self, load: _Load, seconds: float, step_s: float) -> None:
        people = f"Loading {load.version} for {seconds:.0f} s: {load.what}"
        event = f"version={load.version} seconds={seconds:.0f} doing={load.what!r}"
        if load.child is not None:
            used_mb = own_memory_bytes(load.child.pid) // MEBIBYTE
            limit = f" of {load.limit_mb} MiB ({load.limit_flag})" if load.limit_mb else " MiB"
            people += f"; {used_mb}{limit}"
            event += f" pid={load.child.pid} memory_mb={used_mb} memory_limit_mb={load.limit_mb or 'none'}"
        if load.has_time_out:
            timeout_s = self._config.supervision.load_timeout_s
            left_s = max(0.0, timeout_s - step_s)
            people += f"; time-out in {left_s:.0f} s (--load_timeout_s)"
            event += f" timeout_s={timeout_s:g} timeout_in_s={left_s:.0f}"
        tell_people(_log, "%s", people)
        _log.info("event=loading %s", event)
