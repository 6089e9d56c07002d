# SPDX-License-Identifier: Apache-2.0
"""Models and the configuration file from object stores: when each store is looked at, and what came of it.

A model's store is mirrored to a local directory, which is that model's base path for everything else: so what is
downloaded settles, is tried, loaded and switched to like files that somebody copied there, and what was downloaded once
serves whatever becomes of the store. So is the configuration file. This part only decides when to look, and keeps what
people want to know.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from ovms_mp.config.file import MAX_BYTES
from ovms_mp.config.store_dir import make_store_dir
from ovms_mp.defects import contain
from ovms_mp.errors import ConfigError, StoreUnavailable
from ovms_mp.log import tell_everybody, tell_people
from ovms_mp.manager.models.deployment import load_failure
from ovms_mp.manager.models.followed import Followed, Source
from ovms_mp.model.versions import Latest, policy_document
from ovms_mp.wire.messages import Fetch
from ovms_mp.wire.records import ErrorRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ovms_mp.config.model import ModelConfig
    from ovms_mp.config.server import RepositoryConfig
    from ovms_mp.manager.children.child import Child
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.models.catalogue import Catalogue
    from ovms_mp.manager.models.fetchers import FetcherProcess
    from ovms_mp.manager.models.rescan_request import RescanRequest
    from ovms_mp.manager.timers import Timers
    from ovms_mp.model.store_url import StoreUrl
    from ovms_mp.wire.messages import FetchDone, FetchProgress

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
STANDSTILL_S = 90.0
"""A fetch of which nothing was heard for so long hangs; the fetcher itself gives up before that."""
_LOOK_S = 5.0
_MEBIBYTE = 1 << 20
_MOST_PROBLEMS = 5


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
        config_store: StoreUrl | None = None,
        on_fetched: Callable[[FetchDone, float], None] = lambda _done, _took_s: None,
        on_moved: Callable[[int, int, int], None] = lambda _count, _done_bytes, _total_bytes: None,
    ) -> None:
        """Prepare; nothing is fetched yet.

        Args:
            settings: Where mirrors are, how large they may be, and how often to look.
            fetcher: Does the work.
            catalogue: Tells which versions serve, and which have failed.
            request: Asked for a look at what was downloaded.
            timers: The manager's.
            clock: The manager's.
            config_store: Where the configuration file is, if it is in a store.
            on_fetched: Called with what ends a fetch, and how long that took.
            on_moved: Called with how many fetches are under way, and how many bytes are here of how many.
        """
        self._on_fetched = on_fetched
        self._on_moved = on_moved
        self._settings = settings
        self._fetcher = fetcher
        self._catalogue = catalogue
        self._request = request
        self._timers = timers
        self._clock = clock
        self._followed: dict[str, Followed] = {}
        """By the model's name."""
        self._file = None if config_store is None else Followed(Source("", config_store, Latest(1)))
        self._next_job = 1
        self._is_watching = False
        self._is_stopping = False
        self.is_changed = False
        """Whether people have not heard of :meth:`notes` as they are."""

    def follow(self, configs: Sequence[ModelConfig]) -> None:
        """Look at the stores of these models from now on, at new ones at once."""
        wanted = {
            config.name: Source(config.name, config.store, config.version_policy)
            for config in configs
            if config.store is not None
        }
        for name in [name for name in self._followed if name not in wanted]:
            del self._followed[name]
        for name, source in wanted.items():
            known = self._followed.get(name)
            if known is None or known.source.url != source.url:
                self._followed[name] = Followed(source)
            elif known.source != source:
                known.source, known.due_at, known.is_asked = source, 0.0, True
        if not wanted and self._file is None:
            self._fetcher.dismiss()
        self._run_due()

    def fetch_now(self, name: str = "") -> None:
        """Look at a model's store, or at all, for somebody who waits for what is found."""
        for followed in self._all():
            if name in ("", followed.source.name):
                followed.is_asked, followed.due_at = True, 0.0
        self._run_due()

    def stop(self) -> None:
        """The server is stopping: end what runs, begin nothing more."""
        self._is_stopping = True
        self._followed.clear()
        self._file = None
        self._fetcher.end("the server stops", is_dismissed=True)

    @property
    def is_awaited(self) -> bool:
        """Whether something may come of a fetch that others wait for: the first one of a model, or one asked for."""
        return any(map(_is_awaited, self._all()))

    def awaited(self) -> set[str]:
        """The models of such fetches, by name."""
        return set(filter(self.is_awaited_for, self._followed))

    def is_awaited_for(self, name: str) -> bool:
        """The same for one model."""
        followed = self._followed.get(name)
        return followed is not None and _is_awaited(followed)

    def error_of(self, name: str) -> str:
        """Why a model's last fetch failed; empty where it did not, and where there is no store."""
        followed = self._followed.get(name)
        return "" if followed is None else followed.error

    @property
    def is_file_coming(self) -> bool:
        """Whether the configuration file is in a store that was not asked yet: what is here of it may be old."""
        return self._file is not None and not self._file.has_ended

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
        self._tell_moved()
        if message.total_bytes:
            done, total = message.done_bytes / _MEBIBYTE, message.total_bytes / _MEBIBYTE
            _log.info(
                "event=fetching %s url=%s done_mb=%.1f of_mb=%.1f",
                followed.source.label,
                followed.source.url,
                done,
                total,
            )
            tell_people(_log, "Fetching %s: %.1f of %.1f MiB", followed.source, done, total)

    def done(self, message: FetchDone) -> None:
        """A fetch has ended."""
        followed = self._find(message.job)
        if followed is not None:
            self._contain(followed, partial(self._take, followed, message))

    def _take(self, followed: Followed, message: FetchDone) -> None:
        self._on_fetched(message, self._clock.monotonic() - followed.begun_at)
        problems = message.problems[:_MOST_PROBLEMS]
        for text in problems:
            if text not in followed.problems:
                _log.warning(
                    "event=store_content %s url=%s %s",
                    followed.source.label,
                    followed.source.url,
                    text,
                )
        if problems != followed.problems:
            followed.problems = problems
            self.is_changed = True
        if message.fetched_bytes:
            _log.info(
                "event=fetched %s url=%s versions=%s mb=%.1f",
                followed.source.label,
                followed.source.url,
                ",".join(map(str, message.versions)) or "none",
                message.fetched_bytes / _MEBIBYTE,
            )
        is_new = bool(message.fetched_bytes) or message.versions != followed.versions
        followed.versions = message.versions
        self._ended(followed, message.error, message.took_s, is_new=is_new)

    def exited(self, child: Child, reason: str) -> None:
        """A fetcher has ended; what it was doing has failed."""
        if not self._fetcher.exited(child):
            return
        for followed in self._all():
            if followed.job:
                text = f"the process that fetches ended: {reason}"
                error = ErrorRecord(StoreUnavailable.__name__, text)
                self._contain(followed, partial(self._ended, followed, error, 0.0))

    def notes(self) -> dict[str, list[str]]:
        """What is worth knowing of each model's store; the same as long as nothing happens."""
        return {name: texts for name, followed in self._followed.items() if (texts := followed.notes())}

    def details(self) -> dict[str, list[str]]:
        """What goes on at this moment: bytes that are here, and when a store that failed is asked again."""
        return {name: texts for name, followed in self._followed.items() if (texts := followed.details())}

    def file_notes(self) -> list[str]:
        """Both about the configuration file."""
        return [] if self._file is None else [*self._file.notes(), *self._file.details()]

    def note_snapshot(self, _epoch: int) -> None:
        """What has changed until now is in a snapshot."""
        self.is_changed = False

    def _all(self) -> list[Followed]:
        return [*([] if self._file is None else [self._file]), *self._followed.values()]

    def _find(self, job: int) -> Followed | None:
        return next((followed for followed in self._all() if followed.job == job), None)

    def _run_due(self) -> None:
        """Begin each fetch whose time has come."""
        now = self._clock.monotonic()
        for followed in self._all():
            if not followed.job and followed.due_at is not None and followed.due_at <= now:
                self._contain(followed, partial(self._begin, followed))
        self._tell_moved()

    def _tell_moved(self) -> None:
        running = [followed for followed in self._all() if followed.job]
        here = sum(followed.done_bytes for followed in running)
        self._on_moved(len(running), here, sum(followed.total_bytes for followed in running))

    def _contain(self, followed: Followed, step: Callable[[], None]) -> None:
        """Do a step of a fetch. Where it raises, all of the fetch is done again."""
        if contain("manager.fetch", str(followed.source), step):
            return
        followed.is_asked, followed.is_answering = followed.is_asked or followed.is_answering, False
        followed.job, followed.due_at = 0, self._clock.monotonic() + _FIRST_PAUSE_S
        self._timers.call_at(followed.due_at, self._run_due)

    def _begin(self, followed: Followed) -> None:
        if self._is_stopping:
            return
        followed.job, self._next_job = self._next_job, self._next_job + 1
        followed.is_answering, followed.is_asked = followed.is_asked, False
        followed.due_at = None
        followed.begun_at = followed.heard_at = self._clock.monotonic()
        followed.done_bytes = followed.total_bytes = 0
        try:
            make_store_dir(self._settings.store_dir)
        except ConfigError as error:
            self._ended(followed, ErrorRecord.of(error), 0.0)
            return
        if not self._fetcher.send(self._fetch(followed)):
            refused = StoreUnavailable("the process that fetches could not be spawned")
            self._ended(followed, ErrorRecord.of(refused), 0.0)
        elif not self._is_watching:
            self._is_watching = True
            self._timers.call_after(_LOOK_S, self._end_hanging)

    def _fetch(self, followed: Followed) -> Fetch:
        source = followed.source
        serving, failed = self._catalogue.served_of(source.name)
        return Fetch(
            job=followed.job,
            model=source.name,
            url=source.url,
            policy=policy_document(source.policy),
            serving=serving,
            failed=failed,
            store_dir=self._settings.store_dir,
            mirror=source.mirror,
            in_use=tuple(entry.source.mirror for entry in self._all()),
            limit_bytes=self._settings.store_limit_mb * _MEBIBYTE,
            file_limit_bytes=0 if source.name else MAX_BYTES,
        )

    def _ended(
        self, followed: Followed, error: ErrorRecord | None, took_s: float, *, is_new: bool = False
    ) -> None:
        source, before = followed.source, followed.error
        was_asked, is_first = followed.is_answering, not followed.has_ended
        followed.job, followed.has_ended, followed.is_answering = 0, True, False
        self._tell_moved()
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
                    "event=fetch_failed %s url=%s error=%s: %s; what is here goes on serving",
                    source.label,
                    source.url,
                    error.name,
                    error.message,
                )
            else:
                tell_everybody(_log, logging.INFO, "event=store_back %s url=%s", source.label, source.url)
        if pause_s is not None and followed.due_at is None:
            followed.due_at = self._clock.monotonic() + pause_s
        if followed.due_at is not None:
            self._timers.call_at(followed.due_at, self._run_due)
        self.is_changed |= is_first
        if was_asked and error is not None:
            self._catalogue.note_failure(load_failure(f"{source.label}: {error.message}"))
        # A file that was awaited is read also where nothing else is looked at without being asked.
        if was_asked or (followed is self._file and (is_first or before)):
            self._request.look_now()
        elif is_new or is_first or followed.error != before:
            self._request.ask()

    def _end_hanging(self) -> None:
        """End the fetcher if nothing was heard of a fetch for too long; the others go on with the next one."""
        self._is_watching = any(followed.job for followed in self._all())
        if not self._is_watching:
            return
        self._timers.call_after(_LOOK_S, self._end_hanging)
        oldest = min((entry for entry in self._all() if entry.job), key=lambda entry: entry.heard_at)
        if self._clock.monotonic() - oldest.heard_at > STANDSTILL_S:
            self._fetcher.end(f"fetching {oldest.source} made no progress within {STANDSTILL_S:g} s")


def merged(*notes: dict[str, list[str]]) -> dict[str, list[str]]:
    """Notes of several parts as one."""
    found: dict[str, list[str]] = {}
    for part in notes:
        for name, texts in part.items():
            found[name] = [*found.get(name, ()), *texts]
    return found


def _is_awaited(followed: Followed) -> bool:
    return followed.is_asked or followed.is_answering or not followed.has_ended
