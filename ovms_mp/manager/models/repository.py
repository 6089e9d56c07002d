# SPDX-License-Identifier: Apache-2.0
"""The model directories as the manager sees them: when to look, what is there, and what is not settled yet.

The directories are the truth and inotify is a hint to look again; a periodic look makes up for what it cannot tell.
A version whose files were changed a moment ago is still arriving: it is left alone until nothing has touched it for
``settle_s``, so a copy that is going on is never loaded half.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ovms_mp.log import tell_everybody, tell_log_readers
from ovms_mp.model.formats import shown
from ovms_mp.storage.local import list_versions
from ovms_mp.storage.mounts import Ground
from ovms_mp.storage.watch import RepositoryWatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from ovms_mp.config.model import ModelConfig
    from ovms_mp.manager.clock import Clock
    from ovms_mp.storage.local import Listing, VersionFiles

_log = logging.getLogger(__name__)

_LOOK_PAUSE = 20
"""Between two periodic looks are so many times what the last one took: thousands of versions are seen less often."""
_LONGEST_PAUSE_S = 60.0


@dataclass(slots=True)
class _Arrival:
    """Files of a version as they were when they last looked different."""

    files: VersionFiles
    seen_at: float


@dataclass(slots=True)
class Look:
    """What a base path holds.

    Attributes:
        settled: Versions that may be loaded.
        arriving: Versions whose files were changed too short a time ago.
        is_certain: False when something could not be looked at; what is missing may still be there then.
        look_again_at: Monotonic seconds; when what arrives may have settled. None when nothing arrives.
    """

    settled: dict[int, VersionFiles] = field(default_factory=dict)
    arriving: dict[int, VersionFiles] = field(default_factory=dict)
    is_certain: bool = True
    look_again_at: float | None = None


@dataclass(slots=True)
class _Footing:
    """Where a base path and its versions were when they could last be looked at."""

    base_path: Path
    ground: Ground | None = None
    versions: dict[int, VersionFiles] = field(default_factory=dict)
    is_reachable: bool = True


class Reach:
    """Tells what cannot be reached any more from what was removed."""

    def __init__(self) -> None:
        """Nothing was looked at yet."""
        self._footings: dict[str, _Footing] = {}

    def checked(self, config: ModelConfig, listing: Listing) -> Listing:
        """A listing, uncertain if what is missing in it was on a file system that is not mounted any more."""
        footing = self._footings.get(config.name)
        if footing is None or footing.base_path != config.base_path:
            footing = self._footings[config.name] = _Footing(config.base_path)
        lost = _lost_mount(footing, listing) if listing.is_certain else ""
        if lost:
            problem = "is not there, as the file system is not mounted any more"
            problems = {**listing.problems, shown(lost): problem}
            listing = replace(listing, problems=problems, exists=True, is_certain=False, is_reachable=False)
        if listing.is_reachable and not footing.is_reachable:
            form = "event=reachable model=%s base_path=%s can be looked at again"
            tell_everybody(_log, logging.INFO, form, config.name, config.base_path)
        footing.is_reachable = listing.is_reachable
        if listing.is_certain:
            footing.versions = listing.versions
            footing.ground = _ground(config.base_path) if listing.versions else None
        return listing

    def has_seen_versions(self, config: ModelConfig) -> bool:
        """Whether there were versions when the base path could last be looked at."""
        footing = self._footings.get(config.name)
        return footing is not None and bool(footing.versions)

    def forget(self, name: str) -> None:
        """A model is not configured any more."""
        self._footings.pop(name, None)


def _ground(base_path: Path) -> Ground | None:
    try:
        return Ground.of(base_path)
    except OSError:
        return None  # Gone meanwhile; the next look says more.


def _lost_mount(footing: _Footing, listing: Listing) -> str:
    """The directory that something missing was mounted on; empty where nothing is missing, or was removed."""
    if not listing.versions and footing.ground is not None and (lost := footing.ground.lost_mount()):
        return lost
    for number, files in footing.versions.items():
        if number not in listing.versions and _device(files.directory) not in (-1, files.device):
            return str(files.directory)
    return ""


def _device(directory: Path) -> int:
    """The device that a directory is on; -1 where there is none."""
    try:
        return os.stat(directory).st_dev
    except OSError:
        return -1


class Repository:
    """Looks at base paths. Owned by the manager's loop."""

    def __init__(self, settle_s: float, clock: Clock, *, is_watching: bool) -> None:
        """Prepare.

        Args:
            settle_s: How long files must be left alone.
            clock: The manager's.
            is_watching: Whether to ask inotify for hints.
        """
        self._settle_s = settle_s
        self._clock = clock
        self._watch = RepositoryWatch() if is_watching else None
        self._arrivals: dict[tuple[str, int], _Arrival] = {}
        self._last: dict[str, tuple[Path, Look]] = {}
        self._reach = Reach()
        self._told: dict[str, frozenset[str]] = {}
        self._told_of: dict[str, Path] = {}
        self._told_polled: frozenset[str] = frozenset()
        self.took_s = 0.0
        """What watching and looking have taken since the last :meth:`arm`."""

    def pause_s(self, at_least_s: float) -> float:
        """Time to leave between two periodic looks; the more there is to look at, the longer."""
        return max(at_least_s, min(_LOOK_PAUSE * self.took_s, _LONGEST_PAUSE_S))

    def fileno(self) -> int | None:
        """Descriptor that is readable when something may have changed; None without watching."""
        return None if self._watch is None else self._watch.fileno()

    def has_hint(self) -> bool:
        """Take what inotify has to say; whether it is worth a look."""
        return self._watch is not None and self._watch.read()

    def arm(self, models: Iterable[ModelConfig], config_path: Path | None) -> None:
        """Watch these; called before each look, so that nothing falls between."""
        self.took_s = 0.0
        if self._watch is None:
            return
        began_at = self._clock.monotonic()
        self._watch.arm([model.base_path for model in models], [config_path] if config_path else [])
        polled = frozenset(f"{path}: {reason}" for path, reason in self._watch.polled.items())
        for text in sorted(polled - self._told_polled):
            _log.warning("event=polling %s; changes are seen at the periodic look only", text)
        self._told_polled = polled
        self.took_s += self._clock.monotonic() - began_at

    def look(self, config: ModelConfig, loaded: Mapping[int, Sequence[object]], *, is_asked: bool) -> Look:
        """Look at a model's base path; without watching only at first, while something arrives, and when asked.

        Args:
            config: The model.
            loaded: Fingerprints of versions that are loaded or on their way: files that still look like that need no
                time to settle.
            is_asked: Somebody wants to know now.
        """
        base_path, last = self._last.get(config.name, (None, Look()))
        is_open = bool(last.arriving) or not last.is_certain
        if base_path == config.base_path and not (self._watch or is_asked or is_open):
            return last
        began_at = self._clock.monotonic()
        look = self._look(config, loaded)
        self.took_s += self._clock.monotonic() - began_at
        self._last[config.name] = (config.base_path, look)
        return look

    def _look(self, config: ModelConfig, loaded: Mapping[int, Sequence[object]]) -> Look:
        listing = self._reach.checked(config, list_versions(config.base_path))
        self._tell(config, listing)
        look = Look(is_certain=listing.is_certain)
        moments: list[float] = []
        for number, files in listing.versions.items():
            if number in loaded and loaded[number] == files.fingerprint:
                self._arrivals.pop((config.name, number), None)
                look.settled[number] = files
                continue
            settled_at = self._settled_at(config.name, number, files)
            if settled_at is None:
                look.settled[number] = files
            else:
                look.arriving[number] = files
                moments.append(settled_at)
        for key in [
            key for key in self._arrivals if key[0] == config.name and key[1] not in listing.versions
        ]:
            del self._arrivals[key]
        look.look_again_at = min(moments, default=None)
        return look

    def _settled_at(self, name: str, number: int, files: VersionFiles) -> float | None:
        """When the version may be loaded if nothing touches it; None for now."""
        now = self._clock.monotonic()
        key = (name, number)
        arrival = self._arrivals.get(key)
        if arrival is None or arrival.files.fingerprint != files.fingerprint:
            # Met for the first time: how long it was left alone is what its time stamps say. The wall clock
            # because the stamps have it; a clock that was set back only means waiting settle_s.
            age = self._clock.time() - files.changed_at if arrival is None else 0.0
            arrival = self._arrivals[key] = _Arrival(files, now - max(0.0, age))
        settled_at = arrival.seen_at + self._settle_s
        return None if settled_at <= now else settled_at

    def notes(self) -> dict[str, list[str]]:
        """What is odd about the base path of each model that was looked at, for people."""
        return {
            name: [f"{self._told_of[name]}: {text}" for text in sorted(texts)]
            for name, texts in self._told.items()
        }

    def forget(self, name: str) -> None:
        """A model is not configured any more."""
        self._reach.forget(name)
        self._told.pop(name, None)
        self._last.pop(name, None)
        for key in [key for key in self._arrivals if key[0] == name]:
            del self._arrivals[key]

    def close(self) -> None:
        """Give the descriptor back."""
        if self._watch is not None:
            self._watch.close()

    def _tell(self, config: ModelConfig, listing: Listing) -> None:
        """Log what is odd about a base path, once."""
        own = (shown(str(config.base_path)), shown(config.base_path.name))
        texts = {
            problem if name in own else f"{name}: {problem}" for name, problem in listing.problems.items()
        }
        if not listing.exists:
            texts = {"does not exist; waiting for it"} if config.store is None else set()
        elif (
            not listing.versions
            and config.store is None
            and listing.is_reachable
            and shown(config.base_path.name) not in listing.problems
        ):
            texts.add("holds no version to serve; waiting for one, e.g. 1/model.xml with 1/model.bin")
        former = self._told.get(config.name, frozenset())
        may_serve = not listing.is_reachable and self._reach.has_seen_versions(config)
        kept = "; what is loaded goes on serving" if may_serve else ""
        for text in sorted(texts - former):
            arguments = (
                "event=repository model=%s base_path=%s %s%s",
                config.name,
                config.base_path,
                text,
                kept,
            )
            if listing.versions or may_serve:
                _log.warning(*arguments)
            else:  # The announcement tells people, as nothing is served.
                tell_log_readers(_log, logging.WARNING, *arguments)
        self._told[config.name] = frozenset(texts)
        self._told_of[config.name] = config.base_path
