# SPDX-License-Identifier: Apache-2.0
"""The authoritative state of all models: what is configured, loading, serving and published.

Keeps every version's status. :mod:`.reconciler` begins and ends versions, :mod:`.outcomes` notes what becomes of them.
A version is published AVAILABLE only when fronts can route to it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ovms_mp.errors import DeviceUnavailable
from ovms_mp.manager.models.deployment import DeploymentState, settings_of
from ovms_mp.manager.models.deployments import Deployments
from ovms_mp.manager.models.known import KnownModel, KnownVersion
from ovms_mp.manager.models.model_records import model_record
from ovms_mp.manager.models.outcomes import Outcomes
from ovms_mp.manager.models.refusals import Refusals
from ovms_mp.model.status import State, VersionStatus
from ovms_mp.wire.records import ErrorRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ovms_mp.config.model import ModelConfig, RefusedModel
    from ovms_mp.config.server import LimitsConfig
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.models.counter_pages import CounterPages
    from ovms_mp.manager.models.deployment import Deployment
    from ovms_mp.manager.models.interfaces import TrialGate
    from ovms_mp.manager.workers.workers import Workers
    from ovms_mp.storage.local import VersionFiles
    from ovms_mp.wire.records import ModelRecord, ModelSettings

_log = logging.getLogger(__name__)


class Catalogue:
    """All models and their versions. Owned by the manager's loop."""

    def __init__(
        self,
        models: Sequence[ModelConfig],
        limits: LimitsConfig,
        workers: Workers,
        trials: TrialGate,
        clock: Clock,
        counters: CounterPages,
        *,
        on_outdated: Callable[[], None],
        on_loaded: Callable[[str, str], None],
    ) -> None:
        """Prepare; nothing is loaded yet.

        Args:
            models: What to serve.
            limits: Of every model's queue.
            workers: What loads versions.
            trials: What tries them before.
            clock: The manager's.
            counters: Pages for what is counted of versions.
            on_outdated: Called when another look at the repositories would do something.
            on_loaded: Called with a version that begins to be served, and how it runs.
        """
        self._models = {config.name: KnownModel(config, counters.take_for_model()) for config in models}
        self._refusals = Refusals()
        self._limits = limits
        self._workers = workers
        self._counters = counters
        self.deployments = Deployments(
            workers, trials, Outcomes(self, workers, clock, on_outdated, on_loaded)
        )
        self._epoch = 0
        self._arriving: set[str] = set()
        self.is_changed = True
        """Whether the newest snapshot does not show the models as they are."""
        self.changes = 0
        """Grows with whatever clients could notice."""
        self.last_failure: ErrorRecord | None = None
        self.failures = 0
        """How many there have been."""

    @property
    def configs(self) -> list[ModelConfig]:
        """The configured models."""
        return [model.config for model in self._models.values() if model.is_configured]

    def find(self, name: str) -> KnownModel | None:
        """A model that is configured."""
        model = self._models.get(name)
        return model if model is not None and model.is_configured else None

    def refusal_of(self, name: str) -> str:
        """Why a model's entry in the configuration file is not followed; empty where it is, or where there is none."""
        return self._refusals.added_to("", name)

    def load(self, model: KnownModel) -> None:
        """Serve it, with its files as they are now; the next :meth:`.Reconciler.reconcile` carries it out."""
        model.is_unloaded, model.is_asked, model.is_certain = False, True, True
        for entry in model.versions.values():
            entry.is_asked, entry.retry_at = True, 0.0
        self.note_news()

    def unload(self, model: KnownModel) -> None:
        """Serve nothing of it from now on; the next :meth:`.Reconciler.reconcile` carries it out."""
        if not model.is_unloaded:
            model.is_unloaded = True
            self.note_change()

    def served_of(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Versions of a model that serve, and those whose last load failed."""
        model = self._models.get(name)
        entries = [] if model is None else model.versions.items()
        serving = tuple(number for number, entry in entries if entry.serving is not None)
        return serving, tuple(number for number, entry in entries if entry.has_failed)

    def devices(self) -> tuple[str, ...]:
        """Device strings that models want, each once, in the order of the configuration."""
        return tuple(dict.fromkeys(config.target_device for config in self.configs))

    def devices_in_use(self) -> set[str]:
        """Devices with a deployment, also one that retires."""
        return {deployment.settings.device for deployment in self.deployments}

    def is_idle(self) -> bool:
        """Whether every version that was begun serves, failed or has ended."""
        return all(entry.is_idle for _, entry in self.entries())

    def has_available(self) -> bool:
        """Whether anything can be asked."""
        return any(entry.status.state is State.AVAILABLE for _, entry in self.entries())

    def arriving(self) -> Iterator[tuple[str, int]]:
        """(model, version) of those that are waited for because their files are still being copied."""
        for model, entry in self.entries():
            if entry.is_arriving:
                yield model.config.name, entry.status.version

    def is_settled(self) -> bool:
        """Whether the same holds, and nothing that clients may wait for is still arriving."""
        return self.is_idle() and not self._arriving

    def unsettled(self) -> set[str]:
        """The models, by name, for which that does not hold."""
        return self._arriving | {model.config.name for model, entry in self.entries() if not entry.is_idle}

    def refuse(self, refused: Sequence[RefusedModel]) -> None:
        """Show from now on that these entries, and no others, of the configuration file are not followed."""
        if self._refusals.replace(refused):
            self.note_change()

    def reconfigure(self, models: Sequence[ModelConfig], refused: Sequence[RefusedModel] = ()) -> None:
        """Want these models from now on; the next :meth:`.Reconciler.reconcile` carries it out, model by model.

        Those that are refused stay as they are. A file of which nothing can be followed ends no model.
        """
        self.refuse(refused)
        wanted = {config.name: config for config in models}
        is_lost = bool(refused) and not models
        for name, model in self._models.items():
            if name not in wanted and not is_lost and name not in self._refusals and model.is_configured:
                _log.info("event=model_removed model=%s", name)
                model.is_configured = False
                self.note_change()
        for name, config in wanted.items():
            known = self._models.get(name)
            if known is None:
                _log.info("event=model_added model=%s base_path=%s", name, config.source)
                self._models[name] = KnownModel(config, self._counters.take_for_model())
                self.note_change()
            elif known.config != config or not known.is_configured:
                _log.info("event=model_changed model=%s", name)
                known.config = config
                known.is_configured = True
                for entry in known.versions.values():
                    entry.retry_at = 0.0
                self.note_change()

    def settings_of(self, model: KnownModel) -> ModelSettings:
        """What its versions are to be loaded with."""
        return settings_of(model.config, self._limits)

    def begin(self, model: KnownModel, number: int, files: VersionFiles) -> None:
        """Load a version, for the first time or beside what serves."""
        entry = model.versions.get(number)
        if entry is None:
            entry = model.versions[number] = KnownVersion(VersionStatus(number))
        if entry.serving is None and not entry.has_failed:
            # One that has failed keeps its reason until it serves.
            if entry.status.state is not State.START:
                self.to(entry, State.START)
            self.to(entry, State.LOADING)
        if not entry.counters:
            entry.counters = self._counters.take()
        entry.coming = self.deployments.begin(
            model.config.name, number, self.settings_of(model), files, entry.counters
        )
        self.note_change()

    def end(self, model: KnownModel, number: int) -> None:
        """Take a version out of service, or off its way."""
        entry = model.versions[number]
        self.drop_coming(entry)
        if entry.serving is not None:
            _log.info("event=unload model=%s version=%d", model.config.name, number)
            self.retire(entry, entry.serving)
            entry.serving = None
        elif entry.status.state is State.END or (entry.status.state is State.UNLOADING and entry.retiring):
            return
        if entry.status.state is State.AVAILABLE or entry.retiring:
            if entry.status.state is State.START:
                self.to(entry, State.LOADING)
            self.to(entry, State.UNLOADING)
        else:
            self.to(entry, State.END)
        entry.note = ""

    def drop_coming(self, entry: KnownVersion) -> None:
        """Retire the deployment that was to replace what a version serves."""
        if entry.coming is not None:
            self.retire(entry, entry.coming)
            entry.coming = None

    def retire(self, entry: KnownVersion, deployment: Deployment) -> None:
        """Unload a deployment of a version once nobody routes to it."""
        entry.retiring += 1
        # The snapshot without this route has the next epoch; fronts must have applied that one.
        self.deployments.retire(deployment, self.next_epoch)
        self.note_change()

    def give_up(self, deployment: Deployment, error: ErrorRecord) -> None:
        """Fail a deployment."""
        self.deployments.give_up(deployment, error)

    def device_failed(self, device: str, reason: str) -> None:
        """A device's worker cannot be started: what waits for it has failed."""
        for deployment in self.deployments:
            if deployment.settings.device != device or deployment.loaded:
                continue
            if deployment.state is not DeploymentState.RETIRING:
                self.give_up(deployment, ErrorRecord(DeviceUnavailable.__name__, reason))

    def remove(self, model: KnownModel) -> None:
        """Forget a model, all versions of which have ended."""
        del self._models[model.config.name]
        self._counters.give_back(model.counters, self.next_epoch)
        self.note_change()

    def records(self) -> tuple[ModelRecord, ...]:
        """The routing table's models."""
        records = [
            model_record(model, self._refusals, self._workers)
            for name, model in self._models.items()
            if model.versions or name not in self._refusals
        ]
        return (*records, *self._refusals.records({record.name for record in records}))

    @property
    def next_epoch(self) -> int:
        """Number of the first snapshot that can show what is changed now."""
        return self._epoch + 1

    def note_snapshot(self, epoch: int) -> None:
        """What has changed until now is in the snapshot of this number."""
        self._epoch = epoch
        self.is_changed = False

    def note_news(self) -> None:
        """Fronts must hear of something that no client asked for."""
        self.is_changed = True

    def note_failure(self, error: ErrorRecord) -> None:
        """Remember for those who wait for a reload."""
        self.last_failure = error
        self.failures += 1

    def begin_look(self) -> None:
        """A rescan begins: forget which versions were arriving."""
        self._arriving.clear()

    def await_arrival(self, model: KnownModel) -> None:
        """A version is arriving that clients may wait for."""
        self._arriving.add(model.config.name)

    def to(self, entry: KnownVersion, state: State) -> None:
        """Step a version's status to a state."""
        entry.status = entry.status.to(state)
        if state is State.END:
            # All its deployments are gone, and the next snapshot does not have it.
            self._counters.give_back(entry.counters, self.next_epoch)
            entry.counters = 0
        self.note_change()

    def fronts_applied(self, epoch: int) -> None:
        """Every front routes by a snapshot of at least this epoch."""
        self.deployments.fronts_applied(epoch)
        self._counters.fronts_applied(epoch)

    def note_change(self) -> None:
        """Clients could notice something."""
        self.is_changed = True
        self.changes += 1

    def config_of(self, deployment: Deployment) -> ModelConfig:
        """Of the model of a deployment whose version is known."""
        return self._models[deployment.model_name].config

    def entry_of(self, deployment: Deployment) -> KnownVersion | None:
        """The version that a deployment is of; None when it is not known any more."""
        model = self._models.get(deployment.model_name)
        return None if model is None else model.versions.get(deployment.version)

    def models(self) -> list[tuple[str, KnownModel]]:
        """All models that are known, by name."""
        return list(self._models.items())

    def entries(self) -> Iterator[tuple[KnownModel, KnownVersion]]:
        """All versions that are known."""
        for model in self._models.values():
            for entry in model.versions.values():
                yield model, entry
