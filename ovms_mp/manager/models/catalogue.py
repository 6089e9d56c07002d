# SPDX-License-Identifier: Apache-2.0
"""The truth about models: what is on disk, what the configuration wants, what serves, what is published.

Carries out the planner's actions through deployments and keeps every version's status. A version is published
AVAILABLE only when fronts can route to it. Whatever replaces a version is loaded beside it first, so no step leaves a
moment without one.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.errors import Code, DeviceUnavailable, ModelLoadFailed, ModelTooLarge, WorkerLost
from ovms_mp.log import tell_log_readers
from ovms_mp.manager.models.client_text import without_paths
from ovms_mp.manager.models.deployment import Phase, endpoints_of, first_line, load_failure, settings_of
from ovms_mp.manager.models.deployments import Deployments
from ovms_mp.manager.models.known import KnownModel, KnownVersion
from ovms_mp.manager.models.planner import Known, plan
from ovms_mp.manager.models.refusals import Refusals
from ovms_mp.model.status import State, VersionStatus
from ovms_mp.model.versions import desired_versions
from ovms_mp.wire.records import ErrorRecord, ModelRecord, VersionRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ovms_mp.config.model import ModelConfig, RefusedModel
    from ovms_mp.config.server import LimitsConfig
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.models.deployment import Deployment
    from ovms_mp.manager.models.deployments import TrialGate
    from ovms_mp.manager.models.repository import Look, Repository
    from ovms_mp.manager.workers.workers import Workers
    from ovms_mp.storage.local import VersionFiles

_log = logging.getLogger(__name__)

_FIRST_PATIENCE_S = 1.5
"""A model whose versions are still being copied when it is met is begun with what is complete by then."""
_RETRY_FIRST_S = 1.0
_RETRY_LONGEST_S = 60.0
_HOPELESS = frozenset({DeviceUnavailable.__name__, ModelTooLarge.__name__, WorkerLost.__name__})
"""Failures that another try will hardly mend, or that others pay for: these start with the longest back-off."""
_RETRY_HOPELESS_LONGEST_S = 3600.0
_CHANGED_ON_DISK = (
    "its files were changed on disk after they were loaded; what was loaded goes on serving. Put changes into a new "
    "version, or have them loaded by SIGHUP or POST /v1/config/reload"
)


class Catalogue:
    """All models and their versions. Owned by the manager's loop."""

    def __init__(
        self,
        models: Sequence[ModelConfig],
        limits: LimitsConfig,
        workers: Workers,
        trials: TrialGate,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._models = {config.name: KnownModel(config) for config in models}
        self._refusals = Refusals()
        self._limits = limits
        self._workers = workers
        self.deployments = Deployments(workers, trials, self)
        self.epoch = 0
        """Number of the snapshot that was published last."""
        self._is_arriving = False
        self.is_changed = True
        self.changes = 0
        """Grows with whatever clients could notice."""
        self.last_failure: ErrorRecord | None = None
        self.on_outdated: Callable[[], None] = _nothing
        """Called when planning again would do something."""
        self.on_loaded: Callable[[str, str], None] = _nothing
        """Called with a version that begins to be served, and the plan it runs by."""

    @property
    def configs(self) -> list[ModelConfig]:
        """The configured models."""
        return [model.config for model in self._models.values() if model.is_configured]

    def devices(self) -> tuple[str, ...]:
        """Device strings that models want, each once, in the order of the configuration."""
        return tuple(dict.fromkeys(config.target_device for config in self.configs))

    def devices_in_use(self) -> set[str]:
        """Devices with a deployment, also one that retires."""
        return {deployment.settings.device for deployment in self.deployments}

    def is_idle(self) -> bool:
        """Whether every version that was begun serves, failed or has ended."""
        return all(
            entry.coming is None
            and not entry.retiring
            and (entry.has_failed or entry.status.state is not State.LOADING)
            for _, entry in self._entries()
        )

    def has_available(self) -> bool:
        """Whether anything can be asked."""
        return any(entry.status.state is State.AVAILABLE for _, entry in self._entries())

    def arriving(self) -> Iterator[tuple[str, int]]:
        """(model, version) of those that are waited for because their files are still being copied."""
        for model, entry in self._entries():
            if entry.is_arriving:
                yield model.config.name, entry.status.version

    def is_settled(self) -> bool:
        """Whether the same holds, and nothing that clients may wait for is still arriving."""
        return self.is_idle() and not self._is_arriving

    def refuse(self, refused: Sequence[RefusedModel]) -> None:
        """Show from now on that these entries, and no others, of the configuration file are not followed."""
        if self._refusals.replace(refused):
            self._note_change()

    def reconfigure(self, models: Sequence[ModelConfig], refused: Sequence[RefusedModel] = ()) -> None:
        """Want these models from now on; the next :meth:`rescan` carries it out, model by model.

        Those that are refused stay as they are. A file of which nothing can be followed ends no model.
        """
        self.refuse(refused)
        wanted = {config.name: config for config in models}
        is_lost = bool(refused) and not models
        for name, model in self._models.items():
            if name not in wanted and not is_lost and name not in self._refusals and model.is_configured:
                _log.info("event=model_removed model=%s", name)
                model.is_configured = False
                self._note_change()
        for name, config in wanted.items():
            known = self._models.get(name)
            if known is None:
                _log.info("event=model_added model=%s base_path=%s", name, config.base_path)
                self._models[name] = KnownModel(config)
                self._note_change()
            elif known.config != config or not known.is_configured:
                _log.info("event=model_changed model=%s", name)
                known.config = config
                known.is_configured = True
                for entry in known.versions.values():
                    entry.retry_at = 0.0
                self._note_change()

    def rescan(self, repository: Repository, epoch: int, *, is_asked: bool = False) -> float | None:
        """Look at every base path and carry out what the planner says; when to plan again at the latest.

        ``is_asked`` means that a client wants everything looked at now: files that changed in place count, and
        back-offs do not.
        """
        if is_asked:
            for _, entry in self._entries():
                entry.is_asked = True
                entry.retry_at = 0.0
        self.epoch = epoch
        self._is_arriving = False
        moments: list[float] = []
        for name, model in list(self._models.items()):
            if not model.is_configured:
                is_done = contain("manager.forget", f"model {name}", self._forget, model, repository)
            else:
                is_done = contain(
                    "manager.rescan",
                    f"model {name}",
                    self._rescan_model,
                    model,
                    repository,
                    is_asked,
                    moments,
                )
            if not is_done:
                moments.append(self._clock.monotonic() + _RETRY_FIRST_S)
                text = f"model={name}: it could not be looked at; the server's log has the reason"
                self.last_failure = ErrorRecord(ModelLoadFailed.__name__, text)
        return min(moments, default=None)

    def _forget(self, model: KnownModel, repository: Repository) -> None:
        """End a model that is not configured any more."""
        repository.forget(model.config.name)
        for number in list(model.versions):
            self._end(model, number)
        if all(entry.status.state is State.END for entry in model.versions.values()):
            del self._models[model.config.name]
            self._note_change()

    def _rescan_model(
        self, model: KnownModel, repository: Repository, is_asked: bool, moments: list[float]
    ) -> None:
        loaded: dict[int, Sequence[object]] = {}
        for number, entry in model.versions.items():
            newest = entry.coming or entry.serving
            if newest is not None:
                loaded[number] = newest.files.fingerprint
        look = repository.look(model.config, loaded, is_asked=is_asked)
        if not look.is_certain:
            moments.append(self._clock.monotonic() + _RETRY_FIRST_S)
            return  # Nothing is unloaded because a look failed.
        self._note_arriving(model, look)
        if look.look_again_at is not None:
            moments.append(look.look_again_at)
        if look.arriving and self._is_new(model):
            return  # What is wanted most may be a moment behind the rest.
        known = {
            number: self._known(model, number, entry, look)
            for number, entry in model.versions.items()
            if number not in look.arriving or entry.serving or entry.coming
        }
        available = {*look.settled, *(number for number in look.arriving if number in known)}
        decided = plan(available, model.config.version_policy, known, self._clock.monotonic())
        for number in (*decided.load, *decided.replace):
            if number in look.settled:
                self._begin(model, number, look.settled[number])
        for number in (*decided.unload, *decided.forget):
            self._end(model, number)
        if decided.next_retry_at is not None:
            moments.append(decided.next_retry_at)

    def _is_new(self, model: KnownModel) -> bool:
        """Whether a model was met a moment ago, and nothing of it was ever begun."""
        now = self._clock.monotonic()
        model.met_at = model.met_at or now
        has_begun = any(entry.status.state is not State.START for entry in model.versions.values())
        return not has_begun and now - model.met_at < _FIRST_PATIENCE_S

    def _note_arriving(self, model: KnownModel, look: Look) -> None:
        """Show versions that are being copied, and will be wanted, as START."""
        wanted = desired_versions({*look.settled, *look.arriving}, model.config.version_policy)
        for number, known in model.versions.items():
            known.is_arriving = number in look.arriving and number in wanted
        for number in look.arriving:
            entry = model.versions.get(number)
            if entry is None:
                if number not in wanted:
                    continue
                entry = model.versions[number] = KnownVersion(VersionStatus(number), is_arriving=True)
                self._note_change()
            # Its files have changed since it was begun; whatever comes of it may be half of both.
            self._drop_coming(entry)
            self._is_arriving |= number in wanted and (entry.serving is None or entry.is_asked)
            if entry.serving is None and entry.status.state is State.END and number in wanted:
                self._to(entry, State.START)

    def _known(self, model: KnownModel, number: int, entry: KnownVersion, look: Look) -> Known:
        files = look.settled.get(number)
        if files is not None and entry.has_failed and entry.failed_files != files.fingerprint:
            entry.retry_at = 0.0
            entry.failures = 0
        wanted = settings_of(model.config, self._limits)
        coming, serving = entry.coming, entry.serving
        if coming is not None and (
            coming.settings != wanted or (files is not None and coming.files.fingerprint != files.fingerprint)
        ):
            # Whatever comes of it is not what is wanted any more.
            self._drop_coming(entry)
            coming = None
        is_outdated = False
        if serving is not None and coming is None and files is not None:
            is_other = serving.files.fingerprint != files.fingerprint
            is_moved = serving.files.model_file != files.model_file
            is_outdated = serving.settings != wanted or is_moved or (is_other and entry.is_asked)
            entry.is_asked = False
            if not is_other and not is_outdated and entry.note:
                entry.note = ""  # What serves is what is wanted, whatever was tried meanwhile.
                self._note_change()
            self._note_files(model, entry, is_other=is_other and not is_outdated)
        state = entry.status.state
        if coming is None and serving is None and entry.is_coming:
            state = State.START  # Nothing is on its way for it, whatever the reason was.
        return Known(state, entry.has_failed and coming is None, is_outdated, entry.retry_at)

    def _note_files(self, model: KnownModel, entry: KnownVersion, *, is_other: bool) -> None:
        """Tell once that files changed under a version that serves, and when that is over."""
        if is_other and not entry.note:
            entry.note = _CHANGED_ON_DISK
            _log.warning(
                "event=changed_on_disk model=%s version=%d %s",
                model.config.name,
                entry.status.version,
                _CHANGED_ON_DISK,
            )
        elif not is_other and entry.note == _CHANGED_ON_DISK:
            entry.note = ""
        else:
            return
        self._note_change()

    def _begin(self, model: KnownModel, number: int, files: VersionFiles) -> None:
        entry = model.versions.get(number)
        if entry is None:
            entry = model.versions[number] = KnownVersion(VersionStatus(number))
        if entry.serving is None and not entry.has_failed:
            # One that has failed keeps its reason until it serves.
            if entry.status.state is not State.START:
                self._to(entry, State.START)
            self._to(entry, State.LOADING)
        settings = settings_of(model.config, self._limits)
        entry.coming = self.deployments.begin(model.config.name, number, settings, files)
        self._note_change()

    def _end(self, model: KnownModel, number: int) -> None:
        """Take a version out of service, or off its way."""
        entry = model.versions[number]
        self._drop_coming(entry)
        if entry.serving is not None:
            _log.info("event=unload model=%s version=%d", model.config.name, number)
            self._retire(entry, entry.serving)
            entry.serving = None
        elif entry.status.state is State.END or (entry.status.state is State.UNLOADING and entry.retiring):
            return
        if entry.status.state is State.AVAILABLE or entry.retiring:
            if entry.status.state is State.START:
                self._to(entry, State.LOADING)
            self._to(entry, State.UNLOADING)
        else:
            self._to(entry, State.END)
        entry.note = ""

    def _drop_coming(self, entry: KnownVersion) -> None:
        if entry.coming is not None:
            self._retire(entry, entry.coming)
            entry.coming = None

    def _retire(self, entry: KnownVersion, deployment: Deployment) -> None:
        entry.retiring += 1
        # The snapshot without this route has the next epoch; fronts must have applied that one.
        self.deployments.retire(deployment, self.epoch + 1)
        self._note_change()

    def now_serving(self, deployment: Deployment) -> None:
        """A deployment can be routed to: it takes its version's place."""
        entry = self._entry_of(deployment)
        if entry is None or entry.coming is not deployment:
            return
        previous, entry.serving, entry.coming = entry.serving, deployment, None
        if previous is not None:
            self._retire(entry, previous)
        entry.failures, entry.retry_at, entry.note = 0, 0.0, ""
        entry.inputs, entry.outputs = deployment.inputs, deployment.outputs
        if entry.status.state is not State.AVAILABLE:
            self._to(entry, State.AVAILABLE)
        self.on_loaded(f"{deployment.model_name}/{deployment.version}", first_line(deployment.detail))
        _log.info(
            "event=available %s handle=%d %s",
            deployment.title,
            deployment.handle,
            first_line(deployment.detail),
        )
        self._note_change()
        self.on_outdated()

    def has_failed(self, deployment: Deployment, error: ErrorRecord) -> None:
        """A deployment came to nothing: what served before it goes on, and it is tried again later."""
        entry = self._entry_of(deployment)
        if entry is None:
            return
        base_path = self._models[deployment.model_name].config.base_path
        shown = without_paths(error.message, base_path, deployment.cache_directory)
        if entry.coming is deployment:
            entry.coming = None
        elif entry.serving is deployment:
            entry.serving = None
        else:
            return
        if error.name in _HOPELESS:
            delay_s = min(_RETRY_HOPELESS_LONGEST_S, _RETRY_LONGEST_S * 2.0**entry.failures)
        else:
            delay_s = min(_RETRY_LONGEST_S, _RETRY_FIRST_S * 2.0**entry.failures)
        entry.failures += 1
        entry.retry_at = self._clock.monotonic() + delay_s
        entry.failed_files = deployment.files.fingerprint
        if entry.serving is None and entry.coming is None:
            entry.status = entry.status.failed(shown)
        # Of what is not served the announcement tells people, and once of what fails again as before.
        level_form = (logging.ERROR, "event=load_failed %s retry_in_s=%g reason=%s")
        note = f"loading it anew failed, what was loaded before goes on serving: {shown}"
        if entry.serving is None or entry.note == note:
            tell_log_readers(_log, *level_form, deployment.title, delay_s, error.message)
        else:
            _log.log(*level_form, deployment.title, delay_s, error.message)
        if entry.serving is not None:
            entry.note = note
        self.last_failure = ErrorRecord(error.name, f"{deployment.title}: {shown}")
        self._note_change()
        self.on_outdated()

    def has_gone(self, deployment: Deployment) -> None:
        """A retired deployment is unloaded everywhere."""
        entry = self._entry_of(deployment)
        if entry is None:
            return
        entry.retiring -= 1
        if entry.status.state is State.UNLOADING and not entry.retiring:
            self._to(entry, State.END)
            _log.info("event=end %s", deployment.title)
        self._note_change()
        self.on_outdated()

    def workers_changed(self, deployment: Deployment) -> None:
        """Other workers than before can be routed to, or none."""
        entry = self._entry_of(deployment)
        if entry is None or entry.serving is not deployment:
            return
        if not deployment.loaded and entry.note == _CHANGED_ON_DISK:
            # What comes back would be the new files, untried; so they are tried like any others.
            self.deployments.give_up(
                deployment, load_failure("its worker died after its files had been changed on disk")
            )
            entry.retry_at = 0.0
            return
        # A worker that leaves may still have it, and is not routed to.
        is_routable = bool(endpoints_of(deployment, self._workers.routes(deployment.settings.device)))
        if not is_routable and entry.status.state is State.AVAILABLE:
            self._to(entry, State.LOADING)
        elif is_routable and entry.status.state is State.LOADING:
            self._to(entry, State.AVAILABLE)
        self._note_change()

    def device_failed(self, device: str, reason: str) -> None:
        """A device's worker cannot be started: what waits for it has failed."""
        for deployment in self.deployments:
            if deployment.settings.device != device or deployment.loaded:
                continue
            if deployment.phase is not Phase.RETIRING:
                self.deployments.give_up(deployment, ErrorRecord(DeviceUnavailable.__name__, reason))

    def records(self) -> tuple[ModelRecord, ...]:
        """The routing table's models."""
        records = [
            ModelRecord(
                name,
                model.default_version(),
                tuple(self._record(name, entry) for _, entry in sorted(model.versions.items())),
            )
            for name, model in self._models.items()
            if model.versions or name not in self._refusals
        ]
        return (*records, *self._refusals.records({record.name for record in records}))

    def _record(self, name: str, entry: KnownVersion) -> VersionRecord:
        status, serving = entry.status, entry.serving
        endpoints: tuple[str, ...] = ()
        if serving is not None and status.state is State.AVAILABLE:
            endpoints = endpoints_of(serving, self._workers.routes(serving.settings.device))
        is_paused = serving is not None and serving.paused_until > 0 and status.state is not State.AVAILABLE
        isolation = serving.isolation if serving is not None else ""
        return VersionRecord(
            version=status.version,
            state=status.state,
            # Nobody waits for what will not come within a moment.
            error_code=status.error_code or (Code.UNAVAILABLE.number if is_paused else 0),
            error_message=self._refusals.added_to(status.error_message or isolation or entry.note, name),
            handle=serving.handle if serving else 0,
            endpoints=endpoints,
            nireq=serving.nireq if serving else 0,
            detail=serving.detail if serving else "",
            inputs=entry.inputs,
            outputs=entry.outputs,
            is_coming=entry.coming is not None,
            retry_at_ns=int(1e9 * (serving.paused_until if serving and is_paused else entry.next_try_at)),
        )

    def _to(self, entry: KnownVersion, state: State) -> None:
        entry.status = entry.status.to(state)
        self._note_change()

    def _note_change(self) -> None:
        self.is_changed = True
        self.changes += 1

    def _entry_of(self, deployment: Deployment) -> KnownVersion | None:
        model = self._models.get(deployment.model_name)
        return None if model is None else model.versions.get(deployment.version)

    def _entries(self) -> Iterator[tuple[KnownModel, KnownVersion]]:
        for model in self._models.values():
            for entry in model.versions.values():
                yield model, entry


def _nothing(*_: object) -> None:
    """Until the manager sets its own."""
