# SPDX-License-Identifier: Apache-2.0
"""The truth about models: what is on disk, what is loaded where, what is published.

Carries out the planner's actions through the workers and keeps every version's status. A version is published
AVAILABLE only when its worker can take tasks, and its worker is told to unload only after every front has
said that it routes elsewhere.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ovms_mp.manager.planner import Known, plan
from ovms_mp.model.status import State, VersionStatus
from ovms_mp.storage.local import list_versions
from ovms_mp.wire.messages import (
    LoadModel,
    ModelRecord,
    ModelSettings,
    ModelStateChanged,
    TensorSpecRecord,
    UnloadModel,
    VersionRecord,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ovms_mp.config import LimitsConfig, ModelConfig
    from ovms_mp.wire.messages import ErrorRecord

_log = logging.getLogger(__name__)

_RETRY_FIRST_S = 1.0
_RETRY_LONGEST_S = 60.0
_MAX_DEATHS_IN_LOAD = 2
"""A version whose load has killed so many workers in a row is failed, not tried at once again."""
_MAX_DEATHS_IN_RELOAD = 5
"""The same for one that has been served before, whose worker rather died of something else."""


_REPORTS = frozenset(
    {
        (State.LOADING, State.AVAILABLE),
        (State.LOADING, State.LOADING),
        (State.UNLOADING, State.END),
    }
)
"""What a worker can report about a version in a state."""


class WorkerGate(Protocol):
    """How the catalogue reaches the worker of a device."""

    def endpoint(self, device: str) -> str:
        """Where it takes tasks; empty while there is none."""

    def send(self, device: str, message: LoadModel | UnloadModel) -> None:
        """Send it a message."""


@dataclass(slots=True)
class _Version:
    """One version that was ever seen."""

    status: VersionStatus
    model_file: Path
    handle: int = 0
    inputs: tuple[TensorSpecRecord, ...] = ()
    outputs: tuple[TensorSpecRecord, ...] = ()
    nireq: int = 0
    failures: int = 0
    retry_at: float = 0.0
    deaths_in_load: int = 0
    has_been_available: bool = False
    unload_epoch: int = 0

    @property
    def is_coming(self) -> bool:
        return self.status.state in (State.START, State.LOADING)

    @property
    def has_failed(self) -> bool:
        return self.status.state is State.LOADING and self.status.error_code != 0


@dataclass(slots=True)
class _Model:
    """One model of the configuration."""

    config: ModelConfig
    versions: dict[int, _Version] = field(default_factory=dict)
    on_disk: frozenset[int] = frozenset()
    told: frozenset[str] = frozenset()

    def default_version(self) -> int:
        """Highest AVAILABLE version; else the highest that is coming back or coming; else the highest that failed."""
        for wanted in (
            [v for v, entry in self.versions.items() if entry.status.state is State.AVAILABLE],
            [
                v
                for v, entry in self.versions.items()
                if entry.has_been_available and entry.status.state is State.LOADING
            ],
            [v for v, entry in self.versions.items() if entry.is_coming and not entry.has_failed],
            [v for v, entry in self.versions.items() if entry.is_coming],
        ):
            if wanted:
                return max(wanted)
        return 0


class Catalogue:
    """All models and their versions. Owned by the manager's loop."""

    def __init__(self, models: Sequence[ModelConfig], limits: LimitsConfig, workers: WorkerGate) -> None:
        self._models = {config.name: _Model(config) for config in models}
        self._limits = limits
        self._workers = workers
        self._next_handle = 1
        self.is_changed = True
        self.fatal_error: ErrorRecord | None = None

    @property
    def names(self) -> list[str]:
        """All model names."""
        return list(self._models)

    def is_settled(self) -> bool:
        """Whether every version that was begun has become AVAILABLE or failed."""
        return all(
            entry.status.state not in (State.START, State.LOADING) or entry.has_failed
            for _, entry in self._entries()
        )

    def is_loading(self, handle: int) -> bool:
        """Whether this load has neither succeeded nor failed."""
        return any(
            entry.handle == handle and entry.status.state is State.LOADING for _, entry in self._entries()
        )

    def rescan(self, applied_epoch: int) -> float | None:
        """Look at every base path and carry out what the planner says; when to plan again at the latest."""
        moments = [self._rescan_model(model, applied_epoch) for model in self._models.values()]
        return min((moment for moment in moments if moment is not None), default=None)

    def _rescan_model(self, model: _Model, epoch: int) -> float | None:
        listing = list_versions(model.config.base_path)
        model.on_disk = frozenset(listing.model_files)
        self._tell(model, listing.problems, exists=listing.exists)
        if not listing.is_certain:
            return time.monotonic() + _RETRY_FIRST_S  # Nothing is unloaded because a look failed.
        known = {
            number: Known(entry.status.state, entry.has_failed, entry.retry_at)
            for number, entry in model.versions.items()
        }
        decided = plan(model.on_disk, model.config.version_policy, known, time.monotonic())
        for number in decided.load:
            self._begin_load(model, number, listing.model_files[number])
        for number in decided.unload:
            self._begin_unload(model, number, epoch)
        for number in decided.forget:
            entry = model.versions[number]
            entry.status = entry.status.to(State.END)
            self.is_changed = True
        return decided.next_retry_at

    def _tell(self, model: _Model, problems: dict[str, str], *, exists: bool) -> None:
        """Log what is odd about a base path, once for each new oddity."""
        lines = {f"{name} {why}" for name, why in problems.items()}
        if not exists:
            lines = {"does not exist; waiting for it"}
        elif not model.on_disk:
            lines.add("holds no version to serve; waiting for one, e.g. 1/model.xml with 1/model.bin")
        for line in sorted(lines - model.told):
            _log.warning(
                "event=repository model=%s base_path=%s %s", model.config.name, model.config.base_path, line
            )
        model.told = frozenset(lines)

    def _begin_load(self, model: _Model, number: int, model_file: Path) -> None:
        entry = model.versions.get(number)
        if entry is None:
            entry = model.versions[number] = _Version(VersionStatus(number), model_file)
        else:
            if entry.status.state is not State.START:
                entry.status = entry.status.to(State.START)
            entry.model_file = model_file
        entry.status = entry.status.to(State.LOADING)
        self.is_changed = True
        if self._workers.endpoint(model.config.target_device):
            self._send_load(model, entry)

    def _send_load(self, model: _Model, entry: _Version) -> None:
        config = model.config
        entry.handle = self._next_handle
        self._next_handle += 1
        settings = ModelSettings(
            device=config.target_device,
            nireq=config.nireq,
            plugin_config=dict(config.plugin_config),
            max_queue_tasks=self._limits.max_queue_tasks,
            max_queue_bytes=self._limits.max_queue_mb << 20,
        )
        _log.info(
            "event=load model=%s version=%d device=%s file=%s",
            config.name,
            entry.status.version,
            config.target_device,
            entry.model_file,
        )
        self._workers.send(
            config.target_device,
            LoadModel(entry.handle, config.name, entry.status.version, str(entry.model_file), settings),
        )

    def _begin_unload(self, model: _Model, number: int, epoch: int) -> None:
        entry = model.versions[number]
        entry.status = entry.status.to(State.UNLOADING)
        # The snapshot without this route has the next epoch; fronts must have applied that one.
        entry.unload_epoch = epoch + 1
        self.is_changed = True
        _log.info("event=unload model=%s version=%d", model.config.name, number)

    def fronts_applied(self, epoch: int) -> None:
        """Every front routes by a snapshot of at least this epoch."""
        for model, entry in self._entries():
            if entry.unload_epoch and entry.unload_epoch <= epoch:
                entry.unload_epoch = 0
                self._workers.send(model.config.target_device, UnloadModel(entry.handle))

    def state_changed(self, message: ModelStateChanged) -> None:
        """A worker reports the outcome of a load or an unload."""
        found = [
            (model, entry)
            for model, entry in self._entries()
            if entry.handle and entry.handle == message.handle
        ]
        if not found:
            _log.warning("event=unknown_handle handle=%d", message.handle)
            return
        model, entry = found[0]
        name, number = model.config.name, entry.status.version
        if (entry.status.state, message.state) not in _REPORTS:
            _log.error("event=odd_report model=%s version=%d state=%d", name, number, message.state)
            return
        self.is_changed = True
        match message.state:
            case State.AVAILABLE:
                entry.status = entry.status.to(State.AVAILABLE)
                entry.inputs, entry.outputs, entry.nireq = message.inputs, message.outputs, message.nireq
                entry.failures = entry.deaths_in_load = 0
                entry.has_been_available = True
                _log.info("event=available model=%s version=%d %s", name, number, message.detail)
            case State.END:
                entry.status = entry.status.to(State.END)
                entry.handle = 0
                entry.has_been_available = False
                _log.info("event=end model=%s version=%d", name, number)
            case _:
                error = message.error
                self._fail(entry, name, error.message if error else "")
                if error is not None and error.name == "DeviceUnavailable":
                    self.fatal_error = error

    def _fail(self, entry: _Version, name: str, reason: str) -> None:
        delay_s = min(_RETRY_LONGEST_S, _RETRY_FIRST_S * 2**entry.failures)
        entry.failures += 1
        entry.deaths_in_load = 0
        entry.retry_at = time.monotonic() + delay_s
        entry.handle = 0
        entry.has_been_available = False
        entry.status = entry.status.failed(reason)
        _log.error(
            "event=load_failed model=%s version=%d retry_in_s=%g reason=%s",
            name,
            entry.status.version,
            delay_s,
            reason,
        )

    def worker_ready(self, device: str) -> None:
        """A worker takes loads: give it everything its device should have, what was being served first."""
        waiting = [
            (model, entry)
            for model, entry in self._entries()
            if model.config.target_device == device
            and entry.status.state is State.LOADING
            and not entry.has_failed
        ]
        for model, entry in sorted(waiting, key=lambda pair: not pair[1].has_been_available):
            self._send_load(model, entry)

    def worker_lost(self, device: str, reason: str) -> None:
        """A worker was reaped: what it served is loading again, what it unloaded is gone."""
        entries = [(model, entry) for model, entry in self._entries() if model.config.target_device == device]
        # Loads are done one after another in the order of their handles: only the first was being done.
        loading = [
            entry.handle for _, entry in entries if entry.is_coming and not entry.has_failed and entry.handle
        ]
        suspect = min(loading, default=0)
        for model, entry in entries:
            match entry.status.state:
                case State.AVAILABLE:
                    entry.status = entry.status.to(State.LOADING)
                case State.UNLOADING:
                    entry.status = entry.status.to(State.END)
                    entry.unload_epoch = 0
                    entry.has_been_available = False
                case State.LOADING if entry.handle and not entry.has_failed:
                    entry.deaths_in_load += entry.handle == suspect
                    limit = _MAX_DEATHS_IN_RELOAD if entry.has_been_available else _MAX_DEATHS_IN_LOAD
                    if entry.deaths_in_load >= limit:
                        self._fail(
                            entry, model.config.name, f"the inference worker died while loading it: {reason}"
                        )
                case _:
                    continue
            entry.handle = 0
            self.is_changed = True

    def records(self) -> tuple[ModelRecord, ...]:
        """The routing table's models."""
        return tuple(
            ModelRecord(
                model.config.name,
                model.default_version(),
                tuple(self._record(model, entry) for _, entry in sorted(model.versions.items())),
            )
            for model in self._models.values()
        )

    def _record(self, model: _Model, entry: _Version) -> VersionRecord:
        status = entry.status
        is_routable = status.state is State.AVAILABLE
        return VersionRecord(
            version=status.version,
            state=status.state,
            error_code=status.error_code,
            error_message=status.error_message,
            handle=entry.handle,
            endpoint=self._workers.endpoint(model.config.target_device) if is_routable else "",
            nireq=entry.nireq,
            inputs=entry.inputs,
            outputs=entry.outputs,
        )

    def _entries(self) -> Iterator[tuple[_Model, _Version]]:
        for model in self._models.values():
            for entry in model.versions.values():
                yield model, entry
