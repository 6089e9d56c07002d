# SPDX-License-Identifier: Apache-2.0
"""Models that clients have loaded and unloaded.

Loading means: look at the model's directory now, files that changed in place included, and serve what its version
policy wants. What is unloaded stays so, whatever happens to its files and to the configuration's entry, until a client
has it loaded, its entry has left the configuration, or the server is started again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.errors import ModelLoadFailed, ModelNotFound
from ovms_mp.manager.changes.course import Outcome
from ovms_mp.model.status import State
from ovms_mp.wire.records import ErrorRecord

if TYPE_CHECKING:
    from ovms_mp.manager.models.catalogue import Catalogue
    from ovms_mp.manager.models.known import KnownModel
    from ovms_mp.manager.models.rescans import Rescans

_log = logging.getLogger(__name__)


class Models:
    """Owned by the manager's loop."""

    def __init__(self, catalogue: Catalogue, rescans: Rescans) -> None:
        self._catalogue = catalogue
        self._rescans = rescans

    def loading(self, name: str) -> LoadCourse:
        """A load of a model."""
        return LoadCourse(self, name)

    def unloading(self, name: str) -> UnloadCourse:
        """An unload of a model."""
        return UnloadCourse(self, name)

    @property
    def changes(self) -> int:
        """Grows with whatever clients could notice."""
        return self._catalogue.changes

    def load(self, name: str) -> None:
        """Begin to load.

        Raises:
            ModelNotFound: No such model.
        """
        model = self._configured(name, "load")
        _log.info("event=load_by_client model=%s", name)
        self._catalogue.load(model)
        self._rescans.look_at(name)

    def unload(self, name: str) -> None:
        """Begin to unload.

        Raises:
            ModelNotFound: No such model.
        """
        model = self._configured(name, "unload")
        _log.info("event=unload_by_client model=%s", name)
        self._catalogue.unload(model)
        self._rescans.ask()

    def load_failure(self, name: str) -> str | None:
        """Why a model is not served as wanted: empty if it is, None while that is not known yet."""
        model = self._catalogue.find(name)
        if model is None:
            return "model is not configured any more"
        if self._rescans.is_awaited(name) or not model.is_settled():
            return None
        problems = []
        if error := self._rescans.store_error(name):
            problems.append(f"its store could not be read: {error}")
        if not model.is_certain:
            problems.append("its base path cannot be looked at; the server's log has the reason")
        problems += _failures(model)
        serving = [
            number for number, entry in model.versions.items() if entry.status.state is State.AVAILABLE
        ]
        if problems and serving:
            problems.append(f"versions that are served: {', '.join(map(str, sorted(serving)))}")
        elif not (problems or serving):
            problems.append("no version is available: its base path holds none that its version policy wants")
        return "; ".join(problems)

    def has_ended(self, name: str) -> bool:
        """Whether nothing of a model is loaded anywhere."""
        model = self._catalogue.find(name)
        return model is None or (not self._rescans.is_due and model.has_ended())

    def _configured(self, name: str, verb: str) -> KnownModel:
        model = self._catalogue.find(name)
        if model is None:
            reason = self._catalogue.refusal_of(name) or "model is not configured"
            raise ModelNotFound(f"failed to {verb} '{name}', {reason}")
        return model


def _failures(model: KnownModel) -> list[str]:
    """Versions that are wanted and could not be loaded, each with the reason."""
    return [
        f"version {number}: {entry.status.error_message or entry.note}"
        for number, entry in sorted(model.versions.items())
        if entry.failures and entry.status.state is not State.END
    ]


@dataclass(slots=True)
class LoadCourse:
    """See :class:`~.course.Course`."""

    models: Models
    name: str
    changes_before: int = 0

    @property
    def subject(self) -> str:
        """The model."""
        return f"model {self.name}"

    def begin(self) -> None:
        """Begin to load."""
        self.changes_before = self.models.changes
        self.models.load(self.name)

    def outcome(self) -> Outcome | None:
        """What came of it."""
        reason = self.models.load_failure(self.name)
        if reason is None:
            return None
        error = ErrorRecord.of(ModelLoadFailed(f"failed to load '{self.name}', {reason}")) if reason else None
        return Outcome(self.models.changes != self.changes_before, error)


@dataclass(slots=True)
class UnloadCourse:
    """See :class:`~.course.Course`."""

    models: Models
    name: str

    @property
    def subject(self) -> str:
        """The model."""
        return f"model {self.name}"

    def begin(self) -> None:
        """Begin to unload."""
        self.models.unload(self.name)

    def outcome(self) -> Outcome | None:
        """It is done when the last worker has let go."""
        return Outcome() if self.models.has_ended(self.name) else None
