# SPDX-License-Identifier: Apache-2.0
"""Sends fronts a new routing snapshot whenever its contents change, and continues what waits until it is applied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.manager.readiness import unready_reason
from ovms_mp.wire.messages import RoutingSnapshot

if TYPE_CHECKING:
    from ovms_mp.manager.announcement import Announcement
    from ovms_mp.manager.changes.log_state import LogState
    from ovms_mp.manager.changes.regions import Regions
    from ovms_mp.manager.changes.trace_state import TraceState
    from ovms_mp.manager.fronts.api_keys import ApiKeys
    from ovms_mp.manager.fronts.fronts import Fronts
    from ovms_mp.manager.lifecycle import Lifecycle
    from ovms_mp.manager.models.catalogue import Catalogue
    from ovms_mp.manager.models.quarantine import Quarantine
    from ovms_mp.manager.models.rescans import Rescans
    from ovms_mp.manager.models.stores import Stores
    from ovms_mp.manager.service.reports import ServiceReports
    from ovms_mp.manager.workers.provisioner import Provisioner
    from ovms_mp.manager.workers.workers import Workers


class Publisher:
    """Numbers the snapshots: each one's epoch is one higher than the last one's."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        catalogue: Catalogue,
        workers: Workers,
        provisioner: Provisioner,
        quarantine: Quarantine,
        rescans: Rescans,
        stores: Stores,
        regions: Regions,
        log_state: LogState,
        api_keys: ApiKeys,
        trace_state: TraceState,
        fronts: Fronts,
        announcement: Announcement,
        service_reports: ServiceReports,
        ready_when: str,
    ) -> None:
        self._lifecycle = lifecycle
        self._catalogue = catalogue
        self._workers = workers
        self._provisioner = provisioner
        self._quarantine = quarantine
        self._rescans = rescans
        self._stores = stores
        self._regions = regions
        self._log_state = log_state
        self._api_keys = api_keys
        self._trace_state = trace_state
        self._fronts = fronts
        self._announcement = announcement
        self._service_reports = service_reports
        self._ready_when = ready_when
        self._epoch = 0
        self._is_due = False
        self._published_phase = (False, False, False)

    def snapshot(self) -> RoutingSnapshot:
        """The current routing snapshot."""
        models = self._catalogue.records()
        return RoutingSnapshot(
            epoch=self._epoch,
            is_draining=self._lifecycle.is_stopping,
            workers=self._workers.records(),
            plan=self._provisioner.plan_lines(),
            models=models,
            deaths=self._quarantine.deaths(),
            convictions=self._quarantine.convictions(),
            config_refusal=self._rescans.config_refusal,
            unready=unready_reason(
                self._ready_when,
                models,
                has_loaded=self._lifecycle.has_loaded,
                has_fronts=not self._lifecycle.is_starting,
            ),
            regions=self._regions.records(),
            levels=self._log_state.levels,
            log_file=self._log_state.log_file,
            keys=self._api_keys.records(),
            trace=self._trace_state.settings,
        )

    @property
    def epoch(self) -> int:
        """Number of the newest snapshot."""
        return self._epoch

    @property
    def covering_epoch(self) -> int:
        """Number of the first snapshot that shows everything as it is now."""
        return self._epoch + self._is_news()

    @property
    def applied_epoch(self) -> int:
        """The snapshot that every front has applied."""
        return self._fronts.applied_epoch(self._epoch)

    def behind(self, epoch: int) -> list[str]:
        """Fronts that have not applied this snapshot."""
        return self._fronts.behind(epoch)

    def _parts(
        self,
    ) -> tuple[Catalogue | Provisioner | Rescans | Stores | Regions | LogState | ApiKeys | TraceState, ...]:
        return (
            self._catalogue,
            self._provisioner,
            self._rescans,
            self._stores,
            self._regions,
            self._log_state,
            self._api_keys,
            self._trace_state,
        )

    def _phase(self) -> tuple[bool, bool, bool]:
        return (self._lifecycle.is_serving, self._lifecycle.is_stopping, self._lifecycle.has_loaded)

    def _is_news(self) -> bool:
        return (
            self._is_due
            or self._phase() != self._published_phase
            or any(part.is_changed for part in self._parts())
        )

    def publish(self) -> None:
        """Send a snapshot if its contents have changed, then :meth:`carry_on`."""
        if self._is_news():
            self._published_phase = self._phase()
            self._epoch += 1
            for part in self._parts():
                part.note_snapshot(self._epoch)
            self._is_due = True  # Again, should this raise.
            self._is_due = not self._fronts.publish(self.snapshot())
            if self._lifecycle.is_serving:
                self._announcement.tell(self._catalogue.records(), self._rescans.notes())
                self._service_reports.serving(self._catalogue.records())
        self.carry_on()

    def carry_on(self) -> None:
        """Continue what waits until all fronts have applied a snapshot."""
        applied = self.applied_epoch
        self._catalogue.fronts_applied(applied)
        if not self._lifecycle.is_stopping:
            contain("manager.quarantine", "nobody", self._quarantine.advance)
            self._provisioner.advance(self._catalogue.deployments, applied)
