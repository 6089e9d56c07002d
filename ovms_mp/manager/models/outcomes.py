# SPDX-License-Identifier: Apache-2.0
"""Updates a version when its deployment serves, fails or is unloaded: its status, its note, its next retry."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from ovms_mp.errors import DeviceUnavailable, ModelTooLarge, WorkerLost
from ovms_mp.log import tell_log_readers, tell_people
from ovms_mp.manager.models.client_text import without_paths
from ovms_mp.manager.models.deployment import endpoints_of, first_line, load_failure
from ovms_mp.manager.models.known import CHANGED_ON_DISK
from ovms_mp.model.status import State
from ovms_mp.wire.records import ErrorRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.config.model import ModelConfig
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.models.deployment import Deployment
    from ovms_mp.manager.models.known import KnownVersion
    from ovms_mp.manager.workers.workers import Workers

_log = logging.getLogger(__name__)

_RETRY_FIRST_S = 1.0
_RETRY_LONGEST_S = 60.0
_HOPELESS = frozenset({DeviceUnavailable.__name__, ModelTooLarge.__name__, WorkerLost.__name__})
"""Failures that another try will hardly mend, or that others pay for: these start with the longest back-off."""
_RETRY_HOPELESS_LONGEST_S = 3600.0


class VersionBook(Protocol):
    """What outcomes change: the catalogue's versions."""

    def entry_of(self, deployment: Deployment) -> KnownVersion | None:
        """The version that a deployment is of; None when it is not known any more."""

    def config_of(self, deployment: Deployment) -> ModelConfig:
        """Of the model of a deployment whose version is known."""

    def to(self, entry: KnownVersion, state: State) -> None:
        """Step a version's status to a state."""

    def retire(self, entry: KnownVersion, deployment: Deployment) -> None:
        """Unload a deployment of a version once nobody routes to it."""

    def give_up(self, deployment: Deployment, error: ErrorRecord) -> None:
        """Fail a deployment."""

    def note_failure(self, error: ErrorRecord) -> None:
        """Remember for those who wait for a reload."""

    def note_change(self) -> None:
        """Clients could notice something."""


class Outcomes:
    """Listens to deployments. Owned by the catalogue."""

    def __init__(
        self,
        book: VersionBook,
        workers: Workers,
        clock: Clock,
        on_outdated: Callable[[], None],
        on_loaded: Callable[[str, str], None],
        on_failed: Callable[[str], None],
    ) -> None:
        """See :class:`~.catalogue.Catalogue`."""
        self._book = book
        self._workers = workers
        self._clock = clock
        self._on_outdated = on_outdated
        self._on_loaded = on_loaded
        self._on_failed = on_failed

    def now_serving(self, deployment: Deployment) -> None:
        """A deployment can be routed to: it takes its version's place."""
        entry = self._book.entry_of(deployment)
        if entry is None or entry.coming is not deployment:
            return
        previous, entry.serving, entry.coming = entry.serving, deployment, None
        if previous is not None:
            self._book.retire(entry, previous)
        entry.failures, entry.retry_at, entry.note = 0, 0.0, ""
        entry.inputs, entry.outputs = deployment.inputs, deployment.outputs
        entry.rt_info = deployment.rt_info
        if entry.status.state is not State.AVAILABLE:
            self._book.to(entry, State.AVAILABLE)
        self._on_loaded(f"{deployment.model_name}/{deployment.version}", first_line(deployment.detail))
        _log.info(
            "event=available %s handle=%d %s",
            deployment.title,
            deployment.handle,
            first_line(deployment.detail),
        )
        self._book.note_change()
        self._on_outdated()

    def has_failed(self, deployment: Deployment, error: ErrorRecord) -> None:
        """A deployment failed: what was served before goes on serving, and it is retried later."""
        entry = self._book.entry_of(deployment)
        if entry is None:
            return
        self._on_failed(error.name)
        base_path = self._book.config_of(deployment).base_path
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
        self._book.note_failure(ErrorRecord(error.name, f"{deployment.title}: {shown}"))
        self._book.note_change()
        self._on_outdated()

    def has_gone(self, deployment: Deployment) -> None:
        """A retired deployment is unloaded everywhere."""
        entry = self._book.entry_of(deployment)
        if entry is None:
            return
        entry.retiring -= 1
        if entry.status.state is State.UNLOADING and not entry.retiring:
            self._book.to(entry, State.END)
            _log.info("event=end %s", deployment.title)
            tell_people(_log, "Unloaded %s/%d", deployment.model_name, deployment.version)
        self._book.note_change()
        self._on_outdated()

    def workers_changed(self, deployment: Deployment) -> None:
        """Other workers than before can be routed to, or none."""
        entry = self._book.entry_of(deployment)
        if entry is None or entry.serving is not deployment:
            return
        if not deployment.loaded and entry.note == CHANGED_ON_DISK:
            # What comes back would be the new files, untried; so they are tried like any others.
            self._book.give_up(
                deployment, load_failure("its worker died after its files had been changed on disk")
            )
            entry.retry_at = 0.0
            return
        # A worker that leaves may still have it, and is not routed to.
        is_routable = bool(endpoints_of(deployment, self._workers.routes(deployment.settings.device)))
        if not is_routable and entry.status.state is State.AVAILABLE:
            self._book.to(entry, State.LOADING)
        elif is_routable and entry.status.state is State.LOADING:
            self._book.to(entry, State.AVAILABLE)
        self._book.note_change()
