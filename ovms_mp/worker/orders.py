# SPDX-License-Identifier: Apache-2.0
"""The manager's orders: load, unload, retire, drain; and the reports on what became of them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ovms_mp.child.levels import follow_levels
from ovms_mp.defects import contain, report
from ovms_mp.errors import ModelLoadFailed
from ovms_mp.model.status import State
from ovms_mp.wire.codec import decode_to_child
from ovms_mp.wire.messages import (
    ArenaReleased,
    ArenaRetired,
    Drain,
    LevelsChanged,
    LoadModel,
    ModelStateChanged,
    UnloadModel,
)
from ovms_mp.wire.records import ErrorRecord, bounded_text
from ovms_mp.wire.version_counters import UNCOUNTED, VersionCounters
from ovms_mp.worker.load.spec_records import spec_records
from ovms_mp.worker.run.queues import VersionQueue
from ovms_mp.worker.run.served import UNKNOWN_RUN_TIME_S

if TYPE_CHECKING:
    from ovms_mp.child.control import ControlLink
    from ovms_mp.errors import OvmsError
    from ovms_mp.wire.counters import CounterRow
    from ovms_mp.wire.messages import ToChild
    from ovms_mp.worker.load.loader import Loader, LoadOutcome
    from ovms_mp.worker.run.forms import FormKeeper
    from ovms_mp.worker.run.intake import Intake
    from ovms_mp.worker.run.peers import Peers
    from ovms_mp.worker.run.queues import FirstTasks
    from ovms_mp.worker.run.served import ServedVersion
    from ovms_mp.worker.run.shaping import Shaping
    from ovms_mp.worker.run.shares import Shares

_log = logging.getLogger(__name__)


class Orders:
    """Follows the manager's messages. Belongs to the loop.

    Attributes:
        drain_deadline_ns: Until when to finish what is in flight; 0 while the worker is to serve.
    """

    def __init__(
        self,
        control: ControlLink,
        loader: Loader,
        versions: dict[int, ServedVersion],
        shaping: Shaping,
        forms: FormKeeper,
        peers: Peers,
        intake: Intake,
        row: CounterRow,
        all_first: FirstTasks,
        shares: Shares,
        *,
        has_metrics: bool,
    ) -> None:
        """Follow nothing yet.

        Args:
            control: Where orders come from, and reports go.
            loader: Loads versions.
            versions: What is served, by handle; versions appear in it and leave it.
            shaping: Takes versions into service, and lets them go.
            forms: Gives versions their second forms.
            peers: The fronts.
            intake: Forgets tasks of fronts that are dead.
            row: This process's counters.
            all_first: Counts tasks that go first, in all queues.
            shares: Of the device, by model.
            has_metrics: Whether to count the infer requests that are taken.
        """
        self.drain_deadline_ns = 0
        self._control = control
        self._loader = loader
        self._versions = versions
        self._shaping = shaping
        self._forms = forms
        self._peers = peers
        self._intake = intake
        self._row = row
        self._has_metrics = has_metrics
        self._all_first = all_first
        self._shares = shares
        self._again: list[ToChild] = []
        """Messages that could not be followed."""

    @property
    def have_failed(self) -> bool:
        """Whether some message is to be followed again."""
        return bool(self._again)

    def take_control(self) -> None:
        """Follow all messages that can be read, and those that could not be followed before."""
        messages, self._again = self._again, []
        messages += iter(self._receive, None)
        for message in messages:
            if contain("worker.message", type(message).__name__, self._follow, message):
                continue
            if isinstance(message, LoadModel):
                self._report_failure(message, ModelLoadFailed("the order to load it could not be followed"))
            else:
                self._again.append(message)

    def take_stages(self) -> None:
        """Report the stages of loads."""
        while self._loader.stages:
            self._control.send(self._loader.stages.popleft())

    def take_outcomes(self) -> None:
        """Take loaded versions into service, and report on their loads."""
        while self._loader.outcomes:
            outcome = self._loader.outcomes.popleft()
            request = outcome.request
            title = f"{request.name} version {request.version}"
            if not contain("worker.take_outcome", title, self._take_outcome, outcome, title):
                self._versions.pop(request.handle, None)
                self._report_failure(
                    request, ModelLoadFailed("it was loaded and could not be taken into service")
                )

    def retire_versions(self) -> None:
        """Let versions go that are to be unloaded and have nothing left."""
        # From the end: a version's variants are behind it in the table, and it ends after the last of them.
        for version in [entry for entry in self._versions.values() if entry.is_retiring][::-1]:
            if not version.has_nothing_left():
                continue
            del self._versions[version.handle]
            contain("worker.retire", version.title, self._let_go, version)
            if version.parent is None:
                self._control.send(ModelStateChanged(version.handle, State.END, None, (), (), 0, ""))

    def release_arenas(self) -> None:
        """Report the arenas of dead fronts that nothing touches any more."""
        for arena, epoch in self._peers.released():
            self._control.send(ArenaReleased(arena, epoch))

    def _receive(self) -> ToChild | None:
        """The next message that can be read, or None."""
        while (payload := self._control.dealer.receive()) is not None:
            try:
                return decode_to_child(payload)
            except Exception as error:
                report("worker.message", error, "a message of the manager")
        return None

    def _follow(self, message: ToChild) -> None:
        """Do what the manager says; may be done twice."""
        match message:
            case LoadModel():
                self._loader.load(message)
            case UnloadModel(handle=handle):
                if handle in self._versions:
                    self._shaping.retire(self._versions[handle])
                else:
                    self._control.send(
                        ModelStateChanged(handle, State.END, None, (), (), 0, "was not loaded")
                    )
            case ArenaRetired(arena=arena, epoch=epoch):
                self._intake.forget(arena, epoch)
                self._peers.retire(arena, epoch)
            case LevelsChanged():
                follow_levels(message, self._control)
            case Drain(deadline_ns=deadline_ns):
                self.drain_deadline_ns = deadline_ns
            case _:
                _log.warning("event=unexpected_message type=%s", type(message).__name__)

    def _take_outcome(self, outcome: LoadOutcome, title: str) -> None:
        request, loaded = outcome.request, outcome.loaded
        if loaded is None:
            self._report_failure(request, outcome.error or ModelLoadFailed("unknown reason"))
            return
        settings = request.settings
        queue = VersionQueue(settings.max_queue_tasks, settings.max_queue_bytes, self._all_first)
        run_time_s = UNKNOWN_RUN_TIME_S if loaded.run_time_s is None else loaded.run_time_s
        counters = UNCOUNTED
        if request.counters:
            counters = VersionCounters(self._row, request.counters, has_metrics=self._has_metrics)
        share = self._shares.of(request.name, settings.weight)
        self._shaping.admit(request.handle, title, queue, loaded, run_time_s, counters, share)
        facts = f"load_s={outcome.seconds:.3f} run_ms={run_time_s * 1000:.3f} {loaded.detail}"
        detail = bounded_text("\n".join((facts, *loaded.notices)))
        if outcome.forms is not None:
            version = self._versions[request.handle]
            detail = self._forms.admit(version, outcome.forms, facts, loaded.notices).detail()
        self._control.send(
            ModelStateChanged(
                request.handle,
                State.AVAILABLE,
                None,
                spec_records(loaded.inputs),
                spec_records(loaded.outputs),
                loaded.compiled.nireq,
                detail,
                loaded.rt_info,
                loaded.compiled.streams,
            )
        )

    def _report_failure(self, request: LoadModel, error: OvmsError) -> None:
        record = ErrorRecord.of(error)
        self._control.send(ModelStateChanged(request.handle, State.LOADING, record, (), (), 0, ""))

    def _let_go(self, version: ServedVersion) -> None:
        self._shaping.forget(version)
        self._forms.forget(version)
        compiled = version.unequip()
        if compiled is not None:
            self._loader.release(compiled)
