# SPDX-License-Identifier: Apache-2.0
"""Reconciles what is loaded with what is on disk and what is configured.

Whatever replaces a version is loaded beside it first, so no step leaves a moment without one.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.manager.models.decision import Known, decide
from ovms_mp.manager.models.deployment import load_failure
from ovms_mp.manager.models.known import CHANGED_ON_DISK, KnownVersion
from ovms_mp.model.status import State, VersionStatus
from ovms_mp.model.versions import desired_versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.models.catalogue import Catalogue
    from ovms_mp.manager.models.known import KnownModel
    from ovms_mp.manager.models.repository import Look, Repository

_log = logging.getLogger(__name__)

_FIRST_PATIENCE_S = 1.5
"""A model whose versions are still being copied when it is met is begun with what is complete by then."""
_AGAIN_S = 1.0
"""Until a base path that could not be looked at is looked at again."""


class Reconciler:
    """Owned by the manager's loop."""

    def __init__(self, catalogue: Catalogue, repository: Repository, clock: Clock) -> None:
        """Prepare.

        Args:
            catalogue: What is wanted and what is loaded; its versions are begun and ended.
            repository: What is on disk; the caller's.
            clock: The manager's.
        """
        self._catalogue = catalogue
        self._repository = repository
        self._clock = clock

    def reconcile(self, *, is_asked: bool = False) -> float | None:
        """Look at every base path and carry out what follows; when to look again at the latest.

        ``is_asked`` means that a client wants everything looked at now: files that changed in place count, and
        back-offs do not.
        """
        if is_asked:
            for _, entry in self._catalogue.entries():
                entry.is_asked = True
                entry.retry_at = 0.0
        self._catalogue.begin_look()
        moments: list[float] = []
        for name, model in self._catalogue.models():
            if not model.is_configured:
                is_done = contain("manager.forget", f"model {name}", self._forget, model)
            elif model.is_unloaded:
                is_done = contain("manager.unload", f"model {name}", self._end, model)
            else:
                is_done = contain(
                    "manager.rescan",
                    f"model {name}",
                    self._reconcile_model,
                    model,
                    is_asked,
                    moments,
                )
            if not is_done:
                model.is_certain = False
                moments.append(self._clock.monotonic() + _AGAIN_S)
                text = f"model={name}: it could not be looked at; the server's log has the reason"
                self._catalogue.note_failure(load_failure(text))
        return min(moments, default=None)

    def _forget(self, model: KnownModel) -> None:
        """End a model that is not configured any more."""
        self._end(model)
        if all(entry.status.state is State.END for entry in model.versions.values()):
            self._catalogue.remove(model)

    def _end(self, model: KnownModel) -> None:
        """End all versions of a model, whatever is on disk."""
        self._repository.forget(model.config.name)
        for number, entry in list(model.versions.items()):
            entry.is_arriving = False
            self._catalogue.end(model, number)

    def _reconcile_model(self, model: KnownModel, is_asked: bool, moments: list[float]) -> None:
        is_asked, model.is_asked = is_asked or model.is_asked, False
        loaded: dict[int, Sequence[object]] = {}
        for number, entry in model.versions.items():
            newest = entry.coming or entry.serving
            if newest is not None:
                loaded[number] = newest.files.fingerprint
        look = self._repository.look(model.config, loaded, is_asked=is_asked)
        model.is_certain = look.is_certain
        if not look.is_certain:
            moments.append(self._clock.monotonic() + _AGAIN_S)
            return  # Nothing is unloaded because a look failed.
        self._note_arriving(model, look)
        if look.look_again_at is not None:
            moments.append(look.look_again_at)
        if look.arriving and self._is_new(model):
            return  # What is wanted most may be a moment behind the rest.
        known = {
            number: self._known(model, number, entry, look)
            for number, entry in model.versions.items()
            if number not in look.arriving or entry.serving or entry.coming
        }
        available = {*look.settled, *(number for number in look.arriving if number in known)}
        decision = decide(available, model.config.version_policy, known, self._clock.monotonic())
        for number in (*decision.load, *decision.replace):
            if number in look.settled:
                self._catalogue.begin(model, number, look.settled[number])
        for number in (*decision.unload, *decision.forget):
            self._catalogue.end(model, number)
        if decision.next_retry_at is not None:
            moments.append(decision.next_retry_at)

    def _is_new(self, model: KnownModel) -> bool:
        """Whether a model was met a moment ago, and nothing of it was ever begun."""
        now = self._clock.monotonic()
        model.met_at = model.met_at or now
        has_begun = any(entry.status.state is not State.START for entry in model.versions.values())
        return not has_begun and now - model.met_at < _FIRST_PATIENCE_S

    def _note_arriving(self, model: KnownModel, look: Look) -> None:
        """Show versions that are being copied, and will be wanted, as START."""
        wanted = desired_versions({*look.settled, *look.arriving}, model.config.version_policy)
        for number, known in model.versions.items():
            known.is_arriving = number in look.arriving and number in wanted
        for number in look.arriving:
            entry = model.versions.get(number)
            if entry is None:
                if number not in wanted:
                    continue
                entry = model.versions[number] = KnownVersion(VersionStatus(number), is_arriving=True)
                self._catalogue.note_change()
            # Its files have changed since it was begun; whatever comes of it may be half of both.
            self._catalogue.drop_coming(entry)
            if number in wanted and (entry.serving is None or entry.is_asked):
                self._catalogue.await_arrival(model)
            if entry.serving is None and entry.status.state is State.END and number in wanted:
                self._catalogue.to(entry, State.START)

    def _known(self, model: KnownModel, number: int, entry: KnownVersion, look: Look) -> Known:
        files = look.settled.get(number)
        if files is not None and entry.has_failed and entry.failed_files != files.fingerprint:
            entry.retry_at = 0.0
            entry.failures = 0
        wanted = self._catalogue.settings_of(model)
        coming, serving = entry.coming, entry.serving
        if coming is not None and (
            coming.settings != wanted or (files is not None and coming.files.fingerprint != files.fingerprint)
        ):
            # Whatever comes of it is not what is wanted any more.
            self._catalogue.drop_coming(entry)
            coming = None
        is_outdated = False
        if serving is not None and coming is None and files is not None:
            is_other = serving.files.fingerprint != files.fingerprint
            is_moved = serving.files.model_file != files.model_file
            is_outdated = serving.settings != wanted or is_moved or (is_other and entry.is_asked)
            entry.is_asked = False
            if not is_other and not is_outdated and entry.note:
                entry.note = ""  # What serves is what is wanted, whatever was tried meanwhile.
                self._catalogue.note_change()
            self._note_files(model, entry, is_other=is_other and not is_outdated)
        state = entry.status.state
        if coming is None and serving is None and entry.is_coming:
            state = State.START  # No deployment of it is under way, whatever the reason was.
        return Known(state, entry.has_failed and coming is None, is_outdated, entry.retry_at)

    def _note_files(self, model: KnownModel, entry: KnownVersion, *, is_other: bool) -> None:
        """Tell once that files changed under a version that serves, and when that is over."""
        if is_other and not entry.note:
            entry.note = CHANGED_ON_DISK
            _log.warning(
                "event=changed_on_disk model=%s version=%d %s",
                model.config.name,
                entry.status.version,
                CHANGED_ON_DISK,
            )
        elif not is_other and entry.note == CHANGED_ON_DISK:
            entry.note = ""
        else:
            return
        self._catalogue.note_change()
