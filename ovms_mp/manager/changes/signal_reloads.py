# SPDX-License-Identifier: Apache-2.0
"""Reloads that SIGHUP asks for: the log tells what came of each."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from ovms_mp.log import tell_everybody

if TYPE_CHECKING:
    from ovms_mp.manager.changes.changes import Changes
    from ovms_mp.manager.changes.course import Outcome
    from ovms_mp.manager.changes.reloads import Reloads
    from ovms_mp.manager.service.reports import ServiceReports

_log = logging.getLogger(__name__)


class SignalReloads:
    """Asks for them as a client would."""

    def __init__(self, reloads: Reloads, changes: Changes, service_reports: ServiceReports) -> None:
        self._reloads = reloads
        self._changes = changes
        self._service_reports = service_reports

    def ask(self) -> None:
        """Reload."""
        self._service_reports.reloading()
        self._changes.begin("the reload by SIGHUP", self._reloads.course(), math.inf, self._tell)

    def _tell(self, outcome: Outcome) -> None:
        text = "something changed" if outcome.is_changed else "nothing changed"
        level = logging.INFO
        if outcome.error is not None:
            level = logging.WARNING
            text += f"; {outcome.error.message}"
        tell_everybody(_log, level, "event=reloaded reason=SIGHUP %s", text)
        self._service_reports.reloaded()
