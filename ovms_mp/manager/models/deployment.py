# SPDX-License-Identifier: Apache-2.0
"""What is known of one loading of one model version; :mod:`ovms_mp.manager.models.deployments` says how it goes."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ovms_mp.errors import ModelLoadFailed
from ovms_mp.wire.messages import LoadModel
from ovms_mp.wire.records import ErrorRecord, ModelSettings, TensorSpecRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ovms_mp.config.model import ModelConfig
    from ovms_mp.config.server import LimitsConfig
    from ovms_mp.storage.local import VersionFiles


class DeploymentState(enum.Enum):
    """Where in its life a deployment is."""

    TRYING = enum.auto()
    LOADING = enum.auto()
    SERVING = enum.auto()
    RETIRING = enum.auto()


@dataclass(slots=True, eq=False)
class Deployment:
    """See the module's text.

    Attributes:
        handle: Addresses it at every worker; never used twice.
        loaded: Workers that can run it.
        pending: Workers that were told to load it and have not answered, with the number of that order.
        unload_epoch: Snapshot without it, which every front must have applied before it is unloaded; 0 for none.
        cache_directory: Where the trial left what it compiled.
        is_cache_kept: That is the user's, and not emptied after the first load.
        is_untried: No process has loaded it yet; the first worker to load it is its trial.
        late_failure: Why it has failed should its worker die now, as that took too long to load it.
        is_isolated: It is loaded at a worker of its own only.
        isolation: Why, for people.
        paused_until: That worker is not started before this moment; 0.0 for no pause.
        counters: The version's page of counters; 0 for none.
        streams: Of the engine, at each worker that has loaded it.
        may_adapt: No worker has died while it compiled a second form of it.
    """

    handle: int
    model_name: str
    version: int
    settings: ModelSettings
    files: VersionFiles
    state: DeploymentState = DeploymentState.TRYING
    loaded: set[str] = field(default_factory=set)
    pending: dict[str, int] = field(default_factory=dict)
    unload_epoch: int = 0
    deaths_in_load: int = 0
    has_served: bool = False
    cache_directory: str = ""
    is_cache_kept: bool = False
    is_untried: bool = False
    late_failure: ErrorRecord | None = None
    inputs: tuple[TensorSpecRecord, ...] = ()
    outputs: tuple[TensorSpecRecord, ...] = ()
    nireq: int = 0
    detail: str = ""
    rt_info: str = ""
    streams: dict[str, int] = field(default_factory=dict)
    is_isolated: bool = False
    isolation: str = ""
    paused_until: float = 0.0
    counters: int = 0
    may_adapt: bool = True

    @property
    def tenant(self) -> int:
        """Whose workers it is loaded at: its own handle, or 0 for those that are shared."""
        return self.handle if self.is_isolated else 0

    @property
    def title(self) -> str:
        """For the log."""
        return f"model={self.model_name} version={self.version}"

    def load_message(self, *, is_urgent: bool = False) -> LoadModel:
        """What a worker is told."""
        return LoadModel(
            self.handle,
            self.model_name,
            self.version,
            str(self.files.model_file),
            self.settings,
            self.cache_directory,
            self.is_cache_kept,
            is_urgent,
            self.counters,
            self.may_adapt,
        )


def settings_of(config: ModelConfig, limits: LimitsConfig) -> ModelSettings:
    """What a worker needs to know of a model; two that are equal are the same deployment."""
    return ModelSettings(
        device=config.target_device,
        nireq=config.nireq,
        plugin_config=dict(config.plugin_config),
        inputs=config.inputs,
        allow_cache=config.allow_cache,
        max_queue_tasks=limits.max_queue_tasks,
        max_queue_bytes=limits.max_queue_mb << 20,
        refuses_lossy=limits.lossy_integers == "refuse",
        weight=config.weight,
        batching=config.batching,
        adaptive_bytes=limits.adaptive_memory_mb << 20,
    )


def load_failure(reason: str) -> ErrorRecord:
    """The error of a deployment for which no process has reported one."""
    return ErrorRecord(ModelLoadFailed.__name__, reason)


def first_line(detail: str) -> str:
    """How a version runs: its detail without the notices below, which its worker has logged."""
    return detail.partition("\n")[0]


def endpoints_of(deployment: Deployment, endpoint_by_worker: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Where fronts may send its tasks, out of (worker, endpoint) of those that are routed to."""
    return tuple(endpoint for worker, endpoint in endpoint_by_worker if worker in deployment.loaded)
