# SPDX-License-Identifier: Apache-2.0
"""Reloads that clients or SIGHUP ask for: all are answered when everything that followed has ended."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.log import tell_everybody
from ovms_mp.wire.messages import ConfigReloaded

if TYPE_CHECKING:
    from ovms_mp.manager.children.control import ControlChannel
    from ovms_mp.manager.children.supervisor import Supervisor
    from ovms_mp.manager.models.catalogue import Catalogue
    from ovms_mp.manager.models.rescans import Rescans
    from ovms_mp.manager.service.reports import ServiceReports
    from ovms_mp.wire.records import ErrorRecord

_log = logging.getLogger(__name__)

_BY_SIGNAL = ""
"""In place of the front that asks for a reload: the log is answered."""


class Reloads:
    """Owned by the manager's loop."""

    def __init__(
        self,
        catalogue: Catalogue,
        rescans: Rescans,
        supervisor: Supervisor,
        control: ControlChannel,
        service_reports: ServiceReports,
    ) -> None:
        self._catalogue = catalogue
        self._rescans = rescans
        self._supervisor = supervisor
        self._control = control
        self._service_reports = service_reports
        self._requests = ReloadRequests()

    def ask_by_signal(self) -> None:
        """Reload; the log tells the outcome."""
        self._service_reports.reloading()
        self.ask(_BY_SIGNAL, 0)

    def ask(self, child_id: str, request_id: int) -> None:
        """Reload for a client of a front, which is told the outcome.

        Args:
            child_id: The front.
            request_id: Given back in the answer.
        """
        if not self._requests:
            self._catalogue.forget_failure()
        self._requests.add(child_id, request_id, self._catalogue.changes)
        self._rescans.look_now()

    def answer(self) -> None:
        """Answer who asked once all that followed from it has ended."""
        rescans = self._rescans
        if not self._requests or rescans.is_due or rescans.is_reading or not self._catalogue.is_settled():
            return
        refusal = rescans.config_refusal
        error = refusal.error if refusal is not None else self._catalogue.last_failure
        for child_id, answer in self._requests.answers(self._catalogue.changes, error):
            front = self._supervisor.find(child_id)
            if child_id == _BY_SIGNAL:
                _tell_outcome(answer)
                self._service_reports.reloaded()
            elif front is not None:
                contain("manager.answer", child_id, self._control.send, front, answer)


def _tell_outcome(outcome: ConfigReloaded) -> None:
    """Log what came of a reload that was asked for by SIGHUP."""
    text = "something changed" if outcome.is_changed else "nothing changed"
    level = logging.INFO
    if outcome.error is not None:
        level = logging.WARNING
        text += f"; {outcome.error.message}"
    tell_everybody(_log, level, "event=reloaded reason=SIGHUP %s", text)


@dataclass(frozen=True, slots=True)
class _Waiter:
    child_id: str
    request_id: int
    changes_before: int


class ReloadRequests:
    """Clients that asked for a reload; all are answered when everything that was begun has ended."""

    def __init__(self) -> None:
        self._waiters: list[_Waiter] = []

    def __bool__(self) -> bool:
        return bool(self._waiters)

    def add(self, child_id: str, request_id: int, changes: int) -> None:
        """Note who waits, and how many changes there had been before."""
        self._waiters.append(_Waiter(child_id, request_id, changes))

    def answers(self, changes: int, error: ErrorRecord | None) -> list[tuple[str, ConfigReloaded]]:
        """(front, answer) for all who wait; nobody waits any more then."""
        waiters, self._waiters = self._waiters, []
        return [
            (waiter.child_id, ConfigReloaded(waiter.request_id, changes != waiter.changes_before, error))
            for waiter in waiters
        ]
