# SPDX-License-Identifier: Apache-2.0
"""One loading of one model version, from its trial to its end, over all workers of its device.

::

    TRYING --trial ran--> LOADING --on every READY worker--> SERVING --> RETIRING --> gone
       |  ^                  |                                              ^
       |  +- worker died ----+  (only the untried)                          |
       +-------- failed -----+----- dropped: nobody wants it any more ------+

A version has one deployment at a time that serves, and beside it at most one on its way to replace that one. The
trial runs in a process of its own: what crashes or hangs there ends only there. A retiring deployment is unloaded
only after every front has said that it routes elsewhere.

What comes alone to a device whose first worker is still starting is *untried*: that worker, which serves nothing,
loads it at once, so that a large model is not loaded twice before it is served. If the worker dies of it, it is tried
like all others, and nothing of that device goes untried again. In company, or beside what is served, every version is
tried.
"""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.errors import WorkerLost
from ovms_mp.manager.models.deployment import Deployment, DeploymentState, first_line, load_failure
from ovms_mp.model.status import State
from ovms_mp.wire.records import ErrorRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.manager.models.interfaces import DeploymentListener, TrialGate, WorkerGate
    from ovms_mp.storage.local import VersionFiles
    from ovms_mp.wire.messages import ModelStateChanged, PlanChanged
    from ovms_mp.wire.records import ModelSettings

_log = logging.getLogger(__name__)

_MAX_DEATHS_IN_LOAD = 2
"""A deployment whose load has killed so many workers in a row has failed; its trial may have been lucky."""
_MAX_DEATHS_IN_RELOAD = 5
"""The same for one that has been served before, whose worker rather died of something else."""


class Deployments:
    """All deployments. Owned by the manager's loop."""

    def __init__(self, workers: WorkerGate, trials: TrialGate, listener: DeploymentListener) -> None:
        self._workers = workers
        self._trials = trials
        self._listener = listener
        self._by_handle: dict[int, Deployment] = {}
        self._next_handle = 1
        self._orders = itertools.count()
        self._evictions: list[tuple[int, str, int]] = []
        """(epoch, worker, handle): what is unloaded at a worker once fronts have applied that snapshot."""
        self._cautious: set[str] = set()
        """Devices a worker of which has died of a load."""

    def __iter__(self) -> Iterator[Deployment]:
        """All of them, also retiring ones."""
        return iter(list(self._by_handle.values()))

    def find(self, handle: int) -> Deployment | None:
        """By its handle."""
        return self._by_handle.get(handle)

    def is_pending(self, handle: int, worker: str) -> bool:
        """Whether a worker has not yet said how a load went."""
        deployment = self._by_handle.get(handle)
        return deployment is not None and worker in deployment.pending

    def begin(
        self, model_name: str, version: int, settings: ModelSettings, files: VersionFiles, counters: int = 0
    ) -> Deployment:
        """Start with the trial, or with the load of what may go untried."""
        others = [entry for entry in self if entry.settings.device == settings.device]
        deployment = Deployment(self._next_handle, model_name, version, settings, files, counters=counters)
        self._next_handle += 1
        self._by_handle[deployment.handle] = deployment
        if others or settings.device in self._cautious or self._workers.ready(settings.device):
            # In company, the first one is no exception, unless its load has begun.
            for entry in (*others, deployment):
                if entry is deployment or (entry.is_untried and not entry.pending):
                    self._try(entry)
        else:
            deployment.state, deployment.is_untried = DeploymentState.LOADING, True
            self._trials.skip(deployment)
        return deployment

    def _try(self, deployment: Deployment) -> None:
        deployment.state, deployment.is_untried = DeploymentState.TRYING, False
        self._trials.submit(deployment, self.trial_ended)

    def waits_for_untried(self, handle: int, worker: str) -> bool:
        """Whether a worker has not begun with a load, as it is still busy with an untried one."""
        waiting = self._by_handle.get(handle)
        return (
            waiting is not None
            and worker in waiting.pending
            and any(
                entry.is_untried
                and entry.pending.get(worker, waiting.pending[worker]) < waiting.pending[worker]
                for entry in self
            )
        )

    def load_is_late(self, handle: int, reason: str) -> None:
        """The worker that loads it is being killed for that."""
        deployment = self._by_handle.get(handle)
        if deployment is not None:
            deployment.late_failure = load_failure(reason)

    def trial_ended(self, handle: int, error: ErrorRecord | None, detail: str) -> None:
        """The trial's outcome; no error means that it went well."""
        deployment = self._by_handle.get(handle)
        if deployment is None or deployment.state is not DeploymentState.TRYING:
            return
        if error is not None:
            self._fail(deployment, error)
            return
        deployment.state = DeploymentState.LOADING
        _log.info("event=tried %s handle=%d %s", deployment.title, handle, detail)
        self._send_loads(deployment)

    def retire(self, deployment: Deployment, unload_epoch: int) -> None:
        """Route nothing to it from that snapshot on, then unload it."""
        if deployment.state is DeploymentState.TRYING:
            self._trials.withdraw(deployment)
        deployment.state = DeploymentState.RETIRING
        deployment.unload_epoch = unload_epoch

    def give_up(self, deployment: Deployment, error: ErrorRecord) -> None:
        """Fail it for a reason that is not a trial's or a load's."""
        self._fail(deployment, error)

    def fronts_applied(self, epoch: int) -> None:
        """Every front routes by a snapshot of at least this epoch."""
        for unload_epoch, worker, handle in self._evictions:
            if unload_epoch <= epoch:
                self._workers.unload(worker, handle)
        self._evictions = [eviction for eviction in self._evictions if eviction[0] > epoch]
        for deployment in self:
            if deployment.state is DeploymentState.RETIRING and 0 < deployment.unload_epoch <= epoch:
                contain("manager.unload", deployment.title, self._unload, deployment)

    def _unload(self, deployment: Deployment) -> None:
        for worker in deployment.loaded:
            self._workers.unload(worker, deployment.handle)
        deployment.unload_epoch = 0
        self._end_if_empty(deployment)

    def isolate(self, deployment: Deployment, unload_epoch: int) -> bool:
        """Have it loaded at a worker of its own and nowhere else; whether that makes sense.

        Args:
            deployment: One that serves.
            unload_epoch: Snapshot that does not route to the shared workers any more.
        """
        if deployment.state is not DeploymentState.SERVING or deployment.is_isolated:
            return False
        deployment.is_isolated = True
        self._evictions += [(unload_epoch, worker, deployment.handle) for worker in deployment.loaded]
        deployment.loaded.clear()
        deployment.pending.clear()  # What comes of these is unloaded.
        self._listener.workers_changed(deployment)
        return True

    def release(self, deployment: Deployment) -> None:
        """Have it loaded where its device's others are; its own worker serves until then."""
        deployment.is_isolated, deployment.isolation, deployment.paused_until = False, "", 0.0
        self._send_loads(deployment)

    def needs_own_worker(self, handle: int) -> bool:
        """Whether a deployment's own worker must stay."""
        deployment = self._by_handle.get(handle)
        if deployment is None:
            return False
        if deployment.is_isolated or deployment.state is DeploymentState.RETIRING:
            return True
        shared = self._workers.ready(deployment.settings.device)
        return not any(worker in deployment.loaded for worker in shared)

    def worker_ready(self, worker: str, device: str, tenant: int = 0) -> None:
        """A worker takes loads: give it everything it should have, what is being served first.

        Args:
            worker: By its child id.
            device: What it serves.
            tenant: The only deployment that it is for, or 0.
        """
        waiting = [
            deployment
            for deployment in self
            if deployment.settings.device == device
            and deployment.tenant == tenant
            and deployment.state in (DeploymentState.LOADING, DeploymentState.SERVING)
        ]
        for deployment in sorted(waiting, key=lambda entry: entry.state is not DeploymentState.SERVING):
            self._send_load(deployment, worker)

    def worker_lost(self, worker: str, reason: str) -> None:
        """A worker was reaped: it has nothing any more. No reason means that it was asked to end."""
        # Loads are done one after another in the order in which they were sent; only the first was being done.
        pending = [entry for entry in self if worker in entry.pending]
        suspect = min(pending, key=lambda entry: entry.pending[worker], default=None)
        for deployment in self:
            contain("manager.worker_lost", deployment.title, self._lose, deployment, worker, reason, suspect)

    def _lose(self, deployment: Deployment, worker: str, reason: str, suspect: Deployment | None) -> None:
        if worker in deployment.loaded:
            deployment.loaded.discard(worker)
            if deployment.state is DeploymentState.SERVING:
                self._listener.workers_changed(deployment)
        elif worker in deployment.pending:
            del deployment.pending[worker]
            if deployment.is_untried and deployment.state is DeploymentState.LOADING and reason:
                self._died_untried(deployment, reason)
                return
            if reason and deployment is suspect:
                deployment.deaths_in_load += 1
                self._cautious.add(deployment.settings.device)
            limit = _MAX_DEATHS_IN_RELOAD if deployment.has_served else _MAX_DEATHS_IN_LOAD
            # What another worker serves is not taken away for it.
            is_served = deployment.state is DeploymentState.SERVING and bool(deployment.loaded)
            if deployment.deaths_in_load >= limit and not is_served:
                text = f"the inference worker died while loading it: {reason}"
                is_hopeless = not deployment.has_served
                self._fail(
                    deployment, ErrorRecord(WorkerLost.__name__, text) if is_hopeless else load_failure(text)
                )
                return
            self._serve_if_loaded(deployment)
            if (
                deployment.is_untried and deployment.state is DeploymentState.LOADING
            ):  # That worker was asked to end.
                self._send_loads(deployment)
        if deployment.state is DeploymentState.RETIRING:
            self._end_if_empty(deployment)

    def _died_untried(self, deployment: Deployment, reason: str) -> None:
        """Its first worker died while it loaded it, which harmed nobody; the trial is to say why."""
        self._cautious.add(deployment.settings.device)
        if deployment.late_failure is not None:
            self._fail(deployment, deployment.late_failure)
            return
        _log.warning("event=died_untried %s handle=%d %s", deployment.title, deployment.handle, reason)
        self._try(deployment)

    def is_complete_on(self, worker: str, device: str, tenant: int = 0) -> bool:
        """Whether a worker has everything that its device serves, or the one deployment that it is for."""
        return all(
            worker in deployment.loaded
            for deployment in self
            if deployment.state is DeploymentState.SERVING
            and deployment.settings.device == device
            and deployment.tenant == tenant
        )

    def state_changed(self, worker: str, message: ModelStateChanged) -> None:
        """A worker reports the outcome of a load or an unload."""
        deployment = self._by_handle.get(message.handle)
        if deployment is None:
            if message.state == State.AVAILABLE:
                # It was given up while this worker was still loading it.
                self._workers.unload(worker, message.handle)
            return
        match message.state:
            case State.AVAILABLE:
                self._loaded_at(deployment, worker, message)
            case State.END:
                deployment.loaded.discard(worker)
                self._end_if_empty(deployment)
            case _:
                self._load_failed_at(deployment, worker, message.error)

    def plan_changed(self, worker: str, message: PlanChanged) -> None:
        """A worker runs a version by another form from now on."""
        deployment = self._by_handle.get(message.handle)
        if deployment is None or worker not in deployment.loaded:
            return
        deployment.nireq, deployment.detail = message.nireq, message.detail
        deployment.streams[worker] = message.streams
        if deployment.state is DeploymentState.SERVING:
            self._listener.workers_changed(deployment)

    def _send_loads(self, deployment: Deployment) -> None:
        for worker in self._workers.ready(deployment.settings.device):
            if worker not in deployment.loaded:
                self._send_load(deployment, worker)

    def _send_load(self, deployment: Deployment, worker: str) -> None:
        if deployment.is_untried and deployment.pending:
            return  # One worker is enough to try it.
        deployment.pending[worker] = next(self._orders)
        _log.info(
            "event=load %s handle=%d worker=%s device=%s file=%s",
            deployment.title,
            deployment.handle,
            worker,
            deployment.settings.device,
            deployment.files.model_file,
        )
        is_urgent = not any(entry.state is DeploymentState.SERVING and entry.loaded for entry in self)
        self._workers.load(worker, deployment.load_message(is_urgent=is_urgent), self)

    def _loaded_at(self, deployment: Deployment, worker: str, message: ModelStateChanged) -> None:
        is_expected = deployment.pending.pop(worker, None) is not None
        if deployment.is_isolated and not is_expected:
            # It was isolated while this worker, which others share, was loading it.
            self._workers.unload(worker, deployment.handle)
            return
        deployment.loaded.add(worker)
        deployment.deaths_in_load = 0
        deployment.inputs, deployment.outputs = message.inputs, message.outputs
        deployment.nireq, deployment.detail = message.nireq, message.detail
        deployment.rt_info = message.rt_info
        deployment.streams[worker] = message.streams
        _log.info("event=loaded %s worker=%s %s", deployment.title, worker, first_line(message.detail))
        if deployment.state is DeploymentState.RETIRING:
            if not deployment.unload_epoch:
                self._workers.unload(worker, deployment.handle)
        elif deployment.state is DeploymentState.SERVING:
            self._listener.workers_changed(deployment)
        else:
            self._load_at_the_rest(deployment)
            self._serve_if_loaded(deployment)

    def _load_at_the_rest(self, deployment: Deployment) -> None:
        """What was untried is loaded at the device's other workers, too."""
        if deployment.is_untried:
            deployment.is_untried = False
            self._send_loads(deployment)

    def _serve_if_loaded(self, deployment: Deployment) -> None:
        if deployment.state is DeploymentState.LOADING and deployment.loaded and not deployment.pending:
            deployment.state = DeploymentState.SERVING
            deployment.has_served = True
            self._trials.forget_cache(deployment)
            if not deployment.is_cache_kept:
                deployment.cache_directory = ""
            self._listener.now_serving(deployment)

    def _load_failed_at(self, deployment: Deployment, worker: str, error: ErrorRecord | None) -> None:
        deployment.pending.pop(worker, None)
        error = error or load_failure("no reason given")
        if deployment.state is DeploymentState.RETIRING:
            self._end_if_empty(deployment)
        elif deployment.state is DeploymentState.SERVING and (deployment.loaded or deployment.pending):
            _log.error("event=load_failed_at %s worker=%s reason=%s", deployment.title, worker, error.message)
        else:
            self._fail(deployment, error)

    def _fail(self, deployment: Deployment, error: ErrorRecord) -> None:
        """Remove it; workers that have loaded it unload it. No front routes to it."""
        del self._by_handle[deployment.handle]
        self._trials.withdraw(deployment)
        self._trials.forget_cache(deployment)
        for worker in deployment.loaded:
            self._workers.unload(worker, deployment.handle)
        self._listener.has_failed(deployment, error)

    def _end_if_empty(self, deployment: Deployment) -> None:
        if deployment.state is DeploymentState.RETIRING and not (
            deployment.loaded or deployment.pending or deployment.unload_epoch
        ):
            del self._by_handle[deployment.handle]
            self._trials.forget_cache(deployment)
            self._listener.has_gone(deployment)
