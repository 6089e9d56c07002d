# SPDX-License-Identifier: Apache-2.0
"""What deployments depend on: workers, trials, and a listener."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ovms_mp.manager.models.deployment import Deployment
    from ovms_mp.manager.workers.workers import LoadWatch
    from ovms_mp.wire.messages import LoadModel
    from ovms_mp.wire.records import ErrorRecord


class WorkerGate(Protocol):
    """How deployments reach the workers of a device."""

    def ready(self, device: str, tenant: int = 0) -> tuple[str, ...]:
        """READY workers that take loads, by child id: those of one deployment, or those that all others share."""

    def load(self, worker: str, message: LoadModel, watch: LoadWatch) -> None:
        """Have one of them load a version; the watch is asked later whether that is still going on."""

    def unload(self, worker: str, handle: int) -> None:
        """Have one of them unload a deployment."""


class TrialReport(Protocol):
    """Is called with the outcome of a trial."""

    def __call__(self, handle: int, error: ErrorRecord | None, detail: str, /) -> None:
        """No error means that it went well; the detail tells how the version would run."""


class TrialGate(Protocol):
    """How deployments are tried."""

    def submit(self, deployment: Deployment, report: TrialReport) -> None:
        """Try it; the outcome is reported, never from within this call."""

    def skip(self, deployment: Deployment) -> None:
        """It is not tried for the time being; prepare it for its load."""

    def withdraw(self, deployment: Deployment) -> None:
        """Nobody wants to know any more; end the trial if it runs. Unknown ones are ignored."""

    def forget_cache(self, deployment: Deployment) -> None:
        """Its first load is over, so what the trial compiled is not needed any more."""


class DeploymentListener(Protocol):
    """Is told of the events of deployments."""

    def now_serving(self, deployment: Deployment) -> None:
        """It can be routed to, for the first time."""

    def has_failed(self, deployment: Deployment, error: ErrorRecord) -> None:
        """It has failed and been removed."""

    def has_gone(self, deployment: Deployment) -> None:
        """It retired, and no worker has it any more."""

    def workers_changed(self, deployment: Deployment) -> None:
        """A SERVING one can be routed to at other workers than before, possibly at none."""
