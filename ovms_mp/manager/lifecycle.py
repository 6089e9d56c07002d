# SPDX-License-Identifier: Apache-2.0
"""The phases of the server: workers start and load, then fronts start, then it serves; the stop is the reverse."""

from __future__ import annotations

import enum
import logging
from typing import TYPE_CHECKING

from ovms_mp.codes import ExitCode
from ovms_mp.errors import BootError, DeviceUnavailable
from ovms_mp.log import tell_boot_failed

if TYPE_CHECKING:
    from ovms_mp.config.server import ServerConfig
    from ovms_mp.manager.children.supervisor import Supervisor
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.fronts.fronts import Fronts
    from ovms_mp.manager.models.catalogue import Catalogue
    from ovms_mp.manager.models.load_reports import LoadReports
    from ovms_mp.manager.models.rescans import Rescans
    from ovms_mp.manager.service.reports import ServiceReports
    from ovms_mp.manager.shutdown import Shutdown
    from ovms_mp.manager.timers import Timers
    from ovms_mp.manager.workers.provisioner import Provisioner
    from ovms_mp.manager.workers.workers import Workers

_log = logging.getLogger(__name__)

_START_PATIENCE_S = 30.0
"""What is not loaded by then is loaded while the rest serves."""


class Phase(enum.Enum):
    """One after the other; a stop may come in each of the first three."""

    LOADING = enum.auto()
    STARTING_FRONTS = enum.auto()
    SERVING = enum.auto()
    STOPPING = enum.auto()


class Lifecycle:
    """Takes the server from one phase to the next, and to its exit code."""

    def __init__(
        self,
        config: ServerConfig,
        supervisor: Supervisor,
        workers: Workers,
        provisioner: Provisioner,
        fronts: Fronts,
        catalogue: Catalogue,
        rescans: Rescans,
        load_reports: LoadReports,
        shutdown: Shutdown,
        service_reports: ServiceReports,
        timers: Timers,
        clock: Clock,
    ) -> None:
        self._config = config
        self._supervisor = supervisor
        self._workers = workers
        self._provisioner = provisioner
        self._fronts = fronts
        self._catalogue = catalogue
        self._rescans = rescans
        self._load_reports = load_reports
        self._shutdown = shutdown
        self._service_reports = service_reports
        self._timers = timers
        self._clock = clock
        self._started_at = clock.monotonic()
        self._phase = Phase.LOADING
        self.has_loaded = False
        """Whether the initial load is over, failures or not."""
        self._final_code: int = ExitCode.CLEAN
        self._exit_code: int | None = None

    @property
    def is_serving(self) -> bool:
        """Whether fronts are ready, and no stop was asked for."""
        return self._phase is Phase.SERVING

    @property
    def is_starting(self) -> bool:
        """Whether some front has not been ready yet, and no stop was asked for."""
        return self._phase in (Phase.LOADING, Phase.STARTING_FRONTS)

    @property
    def is_stopping(self) -> bool:
        """Whether a stop was asked for."""
        return self._phase is Phase.STOPPING

    @property
    def exit_code(self) -> int | None:
        """The manager's exit code; None while it is to go on."""
        return self._exit_code

    def start(self) -> None:
        """Start the first workers and the periodic checks."""
        self._provisioner.start(self._catalogue.devices())
        self._timers.call_every(
            self._config.supervision.heartbeat_interval_s, self._supervisor.check_liveness
        )
        self._timers.call_every(self._config.supervision.heartbeat_interval_s, self._beat)
        self._load_reports.open()
        self._service_reports.open()

    def _beat(self) -> None:
        self._fronts.beat(self._provisioner.lost_devices())

    def advance(self) -> None:
        """Enter the next phase when this one is complete."""
        if not self.has_loaded:
            self.has_loaded = self._workers.are_all_ready() and self._is_load_over()
        failure = self._catalogue.last_failure
        match self._phase:
            case Phase.LOADING if (
                failure and failure.name == DeviceUnavailable.__name__ and self._config.config_path is None
            ):
                self.cannot_boot(failure.message)
            case Phase.LOADING if self._workers.are_all_ready() and self._has_loaded():
                self._phase = Phase.STARTING_FRONTS
                try:
                    self._fronts.start()
                except BootError as error:
                    self.cannot_boot(str(error))
            case Phase.STARTING_FRONTS if self._fronts.are_ready():
                self._phase = Phase.SERVING
                self._rescans.poll()
            case Phase.STOPPING if self._exit_code is None and self._shutdown.advance():
                self._exit_code = self._final_code
            case _:
                pass

    def _has_loaded(self) -> bool:
        """Whether to start the fronts: all loads have ended, or enough have, so that a slow one delays nothing else."""
        if self._clock.monotonic() - self._started_at > _START_PATIENCE_S:
            return self._catalogue.is_idle() or self._catalogue.has_available()
        return self._is_load_over()

    def _is_load_over(self) -> bool:
        """Whether what was there at the start is served or has failed; files that are still copied may come later."""
        if self._rescans.is_reading:
            return False
        if self._clock.monotonic() - self._started_at > _START_PATIENCE_S:
            return self._catalogue.is_idle()
        return self._catalogue.is_settled()

    def stop(self, reason: str) -> None:
        """Begin the graceful stop; :meth:`advance` continues it."""
        if self._phase is Phase.STOPPING:
            return
        self._phase = Phase.STOPPING
        self._load_reports.close()
        self._service_reports.stopping(self._config.supervision.stop_grace_s)
        self._shutdown.begin(reason)

    def end(self, exit_code: int) -> None:
        """Exit at the end of this turn, without a graceful stop."""
        self._exit_code = exit_code

    def cannot_boot(self, reason: str) -> None:
        """A child cannot be started: end the server with the reason, gently if it has been serving."""
        if self._exit_code is not None or self._phase is Phase.STOPPING:
            return
        tell_boot_failed(_log, reason)
        if self._phase is Phase.SERVING:
            self.stop("a child cannot be started")
            self._final_code = ExitCode.BOOT_FAILED
        else:
            self._supervisor.kill_all()
            self._exit_code = ExitCode.BOOT_FAILED
