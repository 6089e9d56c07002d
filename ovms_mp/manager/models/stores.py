# SPDX-License-Identifier: Apache-2.0
"""Models from object stores: when each store is looked at, and what came of it.

A model's store is mirrored to a local directory, which is that model's base path for everything else: so what is
downloaded settles, is tried, loaded and switched to like files that somebody copied there, and what was downloaded once
serves whatever becomes of the store. This part only decides when to look, and keeps what people want to know.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from ovms_mp.config.store_dir import make_store_dir
from ovms_mp.errors import ConfigError, StoreUnavailable
from ovms_mp.log import tell_everybody, tell_people
from ovms_mp.manager.models.deployment import load_failure
from ovms_mp.model.versions import policy_document
from ovms_mp.wire.messages import Fetch
from ovms_mp.wire.records import ErrorRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.config.model import ModelConfig
    from ovms_mp.config.server import RepositoryConfig
    from ovms_mp.manager.children.child import Child
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.models.catalogue import Catalogue
    from ovms_mp.manager.models.fetchers import FetcherProcess
    from ovms_mp.manager.models.rescan_request import RescanRequest
    from ovms_mp.manager.timers import Timers
    from ovms_mp.wire.messages import FetchDone, FetchProgress

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
STANDSTILL_S = 90.0
"""A fetch of which nothing was heard for so long hangs; the fetcher itself gives up before that."""
_LOOK_S = 5.0
_MEBIBYTE = 1 << 20
_MOST_PROBLEMS = 5


@dataclass(slots=True)
class _Followed:
    """A model's store.

    Attributes:
        job: The fetch that runs; 0 for none.
        due_at: When the next one begins, in monotonic seconds; None for when somebody asks.
        is_asked: Somebody waits for what the next one finds.
        is_answering: Somebody waits for what this one finds.
        has_ended: Some fetch has ended, well or not.
        failures: Fetches in a row that failed.
        retry_at: When the next one is due after a failure, in seconds of the wall clock.
    """

    config: ModelConfig
    job: int = 0
    due_at: float | None = 0.0
    is_asked: bool = False
    is_answering: bool = False
    has_ended: bool = False
    heard_at: float = 0.0
    done_bytes: int = 0
    total_bytes: int = 0
    error: str = ""
    failures: int = 0
    retry_at: float = 0.0
    problems: tuple[str, ...] = field(default=())


class Stores:
    """Owned by the manager's loop."""

    def __init__(
        self,
        settings: RepositoryConfig,
        fetcher: FetcherProcess,
        catalogue: Catalogue,
        request: RescanRequest,
        timers: Timers,
        clock: Clock,
    ) -> None:
        """Prepare; nothing is followed yet.

        Args:
            settings: Where mirrors are, how large they may be, and how often to look.
            fetcher: Does the work.
            catalogue: Tells which versions serve, and which have failed.
            request: Asked for a look at what was downloaded.
            timers: The manager's.
            clock: The manager's.
        """
        self._settings = settings
        self._fetcher = fetcher
        self._catalogue = catalogue
        self._request = request
        self._timers = timers
        self._clock = clock
        self._followed: dict[str, _Followed] = {}
        self._next_job = 1
        self._is_watching = False
        self._is_stopping = False
        self.is_changed = False
        """Whether people have not heard of :meth:`notes` as they are."""

    def follow(self, configs: Sequence[ModelConfig]) -> None:
        """Look at the stores of these models from now on, at new ones at once."""
        wanted = {config.name: config for config in configs if config.store is not None}
        for name in [name for name in self._followed if name not in wanted]:
            del self._followed[name]
        for name, config in wanted.items():
            known = self._followed.get(name)
            if known is None or known.config.store != config.store:
                self._followed[name] = _Followed(config)
            elif known.config.version_policy != config.version_policy:
                known.config, known.due_at, known.is_asked = config, 0.0, True
            else:
                known.config = config
        if not wanted:
            self._fetcher.dismiss()
        self._run_due()

    def fetch_now(self, name: str = "") -> None:
        """Look at a model's store, or at all, for somebody who waits for what is found."""
        for followed in self._followed.values():
            if name in ("", followed.config.name):
                followed.is_asked, followed.due_at = True, 0.0
        self._run_due()

    def stop(self) -> None:
        """The server is stopping: end what runs, begin nothing more."""
        self._is_stopping = True
        self._followed.clear()
        self._fetcher.end("the server stops", is_dismissed=True)

    @property
    def is_awaited(self) -> bool:
        """Whether something may come of a fetch that others wait for: the first one of a model, or one asked for."""
        return any(map(self.is_awaited_for, self._followed))

    def awaited(self) -> set[str]:
        """The models of such fetches, by name."""
        return set(filter(self.is_awaited_for, self._followed))

    def is_awaited_for(self, name: str) -> bool:
        """The same for one model."""
        followed = self._followed.get(name)
        return followed is not None and (followed.is_asked or followed.is_answering or not followed.has_ended)

    def error_of(self, name: str) -> str:
        """Why a model's last fetch failed; empty where it did not, and where there is no store."""
        followed = self._followed.get(name)
        return "" if followed is None else followed.error

    def ready(self, child: Child) -> None:
        """The fetcher takes work."""
        self._fetcher.ready(child)

    def progress(self, message: FetchProgress) -> None:
        """A fetch moves on."""
        followed = self._find(message.job)
        if followed is None:
            return
        followed.heard_at = self._clock.monotonic()
        followed.done_bytes, followed.total_bytes = message.done_bytes, message.total_bytes
        if message.total_bytes:
            done, total = message.done_bytes / _MEBIBYTE, message.total_bytes / _MEBIBYTE
            _log.info(
                "event=fetching model=%s url=%s done_mb=%.1f of_mb=%.1f",
                followed.config.name,
                followed.config.store,
                done,
                total,
            )
            tell_people(_log, "Fetching %s: %.1f of %.1f MiB", followed.config.name, done, total)

    def done(self, message: FetchDone) -> None:
        """A fetch has ended."""
        followed = self._find(message.job)
        if followed is None:
            return
        problems = message.problems[:_MOST_PROBLEMS]
        for text in problems:
            if text not in followed.problems:
                _log.warning(
                    "event=store_content model=%s url=%s %s",
                    followed.config.name,
                    followed.config.store,
                    text,
                )
        if problems != followed.problems:
            followed.problems = problems
            self.is_changed = True
        if message.fetched_bytes:
            _log.info(
                "event=fetched model=%s url=%s versions=%s mb=%.1f",
                followed.config.name,
                followed.config.store,
                ",".join(map(str, message.versions)) or "none",
                message.fetched_bytes / _MEBIBYTE,
            )
        self._ended(followed, message.error, message.took_s)

    def exited(self, child: Child, reason: str) -> None:
        """A fetcher has ended; what it was doing has failed."""
        if not self._fetcher.exited(child):
            return
        for followed in self._followed.values():
            if followed.job:
                text = f"the process that fetches ended: {reason}"
                self._ended(followed, ErrorRecord(StoreUnavailable.__name__, text), 0.0)

    def notes(self) -> dict[str, list[str]]:
        """What is worth knowing of each model's store; the same as long as nothing happens."""
        found: dict[str, list[str]] = {}
        for name, followed in self._followed.items():
            texts = [f"{followed.config.store}: {text}" for text in followed.problems]
            if followed.error:
                texts.insert(0, f"{followed.config.store}: {followed.error}")
            elif not followed.has_ended:
                texts.insert(0, f"{followed.config.store}: being fetched")
            if texts:
                found[name] = texts
        return found

    def details(self) -> dict[str, list[str]]:
        """What goes on at this moment: bytes that are here, and when a store that failed is asked again."""
        found: dict[str, list[str]] = {}
        for name, followed in self._followed.items():
            if followed.job and followed.total_bytes:
                done, total = followed.done_bytes / _MEBIBYTE, followed.total_bytes / _MEBIBYTE
                found[name] = [f"{followed.config.store}: {done:.1f} of {total:.1f} MiB are here"]
            elif followed.error and not followed.job and followed.retry_at:
                moment = datetime.fromtimestamp(followed.retry_at).astimezone()
                found[name] = [f"{followed.config.store}: tried again at {moment:%H:%M:%S}"]
        return found

    def note_snapshot(self, _epoch: int) -> None:
        """What has changed until now is in a snapshot."""
        self.is_changed = False

    def _find(self, job: int) -> _Followed | None:
        return next((followed for followed in self._followed.values() if followed.job == job), None)

    def _run_due(self) -> None:
        """Begin each fetch whose time has come."""
        now = self._clock.monotonic()
        for followed in list(self._followed.values()):
            if not followed.job and followed.due_at is not None and followed.due_at <= now:
                self._begin(followed)

    def _begin(self, followed: _Followed) -> None:
        config, name = followed.config, followed.config.name
        if self._is_stopping or config.store is None:
            return
        followed.job, self._next_job = self._next_job, self._next_job + 1
        followed.is_answering, followed.is_asked = followed.is_asked, False
        followed.due_at = None
        followed.heard_at = self._clock.monotonic()
        followed.done_bytes = followed.total_bytes = 0
        try:
            make_store_dir(self._settings.store_dir)
        except ConfigError as error:
            self._ended(followed, ErrorRecord.of(error), 0.0)
            return
        serving, failed = self._catalogue.served_of(name)
        fetch = Fetch(
            job=followed.job,
            model=name,
            url=config.store,
            policy=policy_document(config.version_policy),
            serving=serving,
            failed=failed,
            store_dir=self._settings.store_dir,
            mirror=config.store.mirror_of(name),
            in_use=tuple(entry.config.base_path.name for entry in self._followed.values()),
            limit_bytes=self._settings.store_limit_mb * _MEBIBYTE,
        )
        if not self._fetcher.send(fetch):
            refused = StoreUnavailable("the process that fetches could not be spawned")
            self._ended(followed, ErrorRecord.of(refused), 0.0)
        elif not self._is_watching:
            self._is_watching = True
            self._timers.call_after(_LOOK_S, self._end_hanging)

    def _ended(self, followed: _Followed, error: ErrorRecord | None, took_s: float) -> None:
        config, before = followed.config, followed.error
        was_asked, is_first = followed.is_answering, not followed.has_ended
        followed.job, followed.has_ended, followed.is_answering = 0, True, False
        followed.error = "" if error is None else error.message
        if error is None:
            followed.failures = 0
            pause_s = max(self._settings.poll_wait_s, took_s) if self._settings.poll_wait_s > 0 else None
        else:
            pause_s = min(_FIRST_PAUSE_S * 2 ** min(followed.failures, 10), _LONGEST_PAUSE_S)
            followed.failures += 1
            followed.retry_at = self._clock.time() + pause_s
        if followed.error != before:
            self.is_changed = True
            if error is not None:
                tell_everybody(
                    _log,
                    logging.WARNING,
                    "event=fetch_failed model=%s url=%s error=%s: %s; what is here goes on serving",
                    config.name,
                    config.store,
                    error.name,
                    error.message,
                )
            else:
                tell_everybody(
                    _log, logging.INFO, "event=store_back model=%s url=%s", config.name, config.store
                )
        if pause_s is not None and followed.due_at is None:
            followed.due_at = self._clock.monotonic() + pause_s
        if followed.due_at is not None:
            self._timers.call_at(followed.due_at, self._run_due)
        self.is_changed |= is_first
        if was_asked and error is not None:
            text = f"model={config.name}: {error.message}"
            self._catalogue.note_failure(load_failure(text))
        if was_asked:
            self._request.look_now()
        else:
            self._request.ask()

    def _end_hanging(self) -> None:
        """End the fetcher if nothing was heard of a fetch for too long; the others go on with the next one."""
        self._is_watching = any(followed.job for followed in self._followed.values())
        if not self._is_watching:
            return
        self._timers.call_after(_LOOK_S, self._end_hanging)
        oldest = min(
            (entry for entry in self._followed.values() if entry.job), key=lambda entry: entry.heard_at
        )
        if self._clock.monotonic() - oldest.heard_at > STANDSTILL_S:
            self._fetcher.end(f"fetching {oldest.config.name} made no progress within {STANDSTILL_S:g} s")


def merged(*notes: dict[str, list[str]]) -> dict[str, list[str]]:
    """Notes of several parts as one."""
    found: dict[str, list[str]] = {}
    for part in notes:
        for name, texts in part.items():
            found[name] = [*found.get(name, ()), *texts]
    return found
