# SPDX-License-Identifier: Apache-2.0
"""What the catalogue knows of each model and version that was ever seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ovms_mp.model.status import State

if TYPE_CHECKING:
    from ovms_mp.config.model import ModelConfig
    from ovms_mp.manager.models.deployment import Deployment
    from ovms_mp.model.status import VersionStatus
    from ovms_mp.wire.records import TensorSpecRecord

CHANGED_ON_DISK = (
    "its files were changed on disk after they were loaded; what was loaded goes on serving. Put changes into a new "
    "version, or have them loaded by SIGHUP or POST /v1/config/reload"
)
"""A note of a version that serves."""


@dataclass(slots=True)
class KnownVersion:
    """One version that was ever seen.

    Attributes:
        serving: What requests are routed to, as far as workers live.
        coming: What is to take that place.
        retiring: How many deployments are still being unloaded.
        note: What is worth knowing of a version that serves; shown as its error message.
        is_arriving: It is wanted, and its files are still being copied.
        is_asked: A client asked for the files to be read again.
        failed_files: Fingerprint of files that did not load.
        counters: Its page of counters, from its first load until it has ended; 0 for none.
    """

    status: VersionStatus
    serving: Deployment | None = None
    coming: Deployment | None = None
    retiring: int = 0
    note: str = ""
    is_arriving: bool = False
    is_asked: bool = False
    failures: int = 0
    retry_at: float = 0.0
    failed_files: object = None
    inputs: tuple[TensorSpecRecord, ...] = ()
    outputs: tuple[TensorSpecRecord, ...] = ()
    counters: int = 0
    rt_info: str = ""

    @property
    def has_failed(self) -> bool:
        """Whether its last load failed and nothing serves in its place."""
        return self.status.state is State.LOADING and self.status.error_code != 0

    @property
    def next_try_at(self) -> float:
        """When what failed is loaded again, in monotonic seconds; 0.0 where nothing failed, or it is being loaded."""
        return 0.0 if self.coming is not None or not self.failures else self.retry_at

    @property
    def is_idle(self) -> bool:
        """Whether it serves, failed or has ended, and nothing of it is under way."""
        return (
            self.coming is None
            and not self.retiring
            and (self.has_failed or self.status.state is not State.LOADING)
        )

    @property
    def is_coming(self) -> bool:
        """Whether it may serve in a moment."""
        return self.status.state in (State.START, State.LOADING) and not self.has_failed


@dataclass(slots=True)
class KnownModel:
    """One model that was ever configured.

    Attributes:
        is_unloaded: A client had it unloaded; whatever is on disk, nothing of it is served until one has it loaded.
        is_asked: A client wants its base path looked at, which has not been done yet.
        is_certain: Its base path could be looked at the last time.
        counters: Its page for calls that are about no version; 0 for none.
    """

    config: ModelConfig
    counters: int = 0
    versions: dict[int, KnownVersion] = field(default_factory=dict)
    is_configured: bool = True
    is_unloaded: bool = False
    is_asked: bool = False
    is_certain: bool = True
    met_at: float = 0.0

    def is_settled(self) -> bool:
        """Whether nothing that clients may wait for is under way or arriving."""
        return not self.is_asked and all(
            entry.is_idle and not entry.is_arriving for entry in self.versions.values()
        )

    def has_ended(self) -> bool:
        """Whether nothing of it is loaded anywhere."""
        return all(entry.is_idle and entry.status.state is State.END for entry in self.versions.values())

    def default_version(self) -> int:
        """Highest AVAILABLE version; else the highest that is coming back or coming; else the highest that failed."""
        versions = self.versions.items()
        for wanted in (
            [number for number, entry in versions if entry.status.state is State.AVAILABLE],
            [number for number, entry in versions if entry.serving and entry.is_coming],
            [number for number, entry in versions if entry.is_coming],
            [number for number, entry in versions if entry.has_failed],
        ):
            if wanted:
                return max(wanted)
        return 0
