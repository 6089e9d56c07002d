# SPDX-License-Identifier: Apache-2.0
"""One fetch: a mirror becomes what its store holds and its policy wants. A configuration file is mirrored like a model.

::

    list --> what vanished is removed --> what is wanted is downloaded beside, verified, renamed --> the rest is removed

A listing that failed removes nothing. What the policy does not want stays until something that it wants is served,
unless the store has it no more.
"""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ovms_mp.defects import report
from ovms_mp.errors import INTERNAL_ERROR_TEXT, OvmsError, StoreContentInvalid, StoreDirFull
from ovms_mp.fetcher.mirror import Mirror
from ovms_mp.fetcher.parts import VersionDownload
from ovms_mp.fetcher.plan import Plan, PlannedVersion, plan_versions
from ovms_mp.fetcher.progress import Progress
from ovms_mp.fetcher.room import directory_size, make_room
from ovms_mp.fetcher.store import object_of, objects_below
from ovms_mp.model.store_url import FILE_NAME
from ovms_mp.model.versions import desired_versions, parse_policy
from ovms_mp.wire.messages import FetchDone
from ovms_mp.wire.records import ErrorRecord, bounded_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.fetcher.opening import StoreOpener
    from ovms_mp.fetcher.secrets import Secrets
    from ovms_mp.fetcher.store import Store, StoredObject
    from ovms_mp.wire.messages import Fetch

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Job:
    """Runs in a thread of its own."""

    def __init__(self, fetch: Fetch, opener: StoreOpener, secrets: Secrets) -> None:
        """Prepare.

        Args:
            fetch: What the manager wants.
            opener: Opens the store.
            secrets: What may not be said of it.
        """
        self._fetch = fetch
        self._opener = opener
        self._secrets = secrets
        self._mirror = Mirror(Path(fetch.store_dir, fetch.mirror))
        self.progress = Progress()
        self._fetched_bytes = 0
        self._took_s = 0.0
        self._problems: list[str] = []

    def run(self) -> FetchDone:
        """Do it; the answer."""
        error: OvmsError | None = None
        try:
            self._run()
        except OvmsError as found:
            error = found
            self._opener.forget(self._fetch.url)
        except OSError as found:
            error = self._of_the_file_system(found)
        except Exception as found:
            report("fetcher.job", found, f"the fetch for {self._fetch.model}")
            error = OvmsError(INTERNAL_ERROR_TEXT)
        return FetchDone(
            job=self._fetch.job,
            versions=self._versions(),
            fetched_bytes=self._fetched_bytes,
            took_s=self._took_s,
            problems=tuple(self._secrets.scrubbed(text) for text in self._problems),
            error=None
            if error is None
            else ErrorRecord(type(error).__name__, bounded_text(self._secrets.scrubbed(error.message))),
        )

    def _versions(self) -> tuple[int, ...]:
        try:
            return tuple(sorted(self._mirror.versions()))
        except OSError:
            return ()

    def _of_the_file_system(self, error: OSError) -> OvmsError:
        where = f"--store_dir {self._fetch.store_dir}: {error.strerror or error}"
        if error.errno in _NO_SPACE:
            return StoreDirFull(f"{where}; make room there, or give a directory on another disk")
        return StoreDirFull(f"{where}; the download cannot be written")

    def _run(self) -> None:
        with self._mirror.locked():
            store = self._opener.open(self._fetch.url)
            began_at = time.monotonic()
            plan = self._planned(store)
            self._took_s = time.monotonic() - began_at
            self._problems = plan.problems
            self._synchronize(store, plan)

    def _planned(self, store: Store) -> Plan:
        limit = self._fetch.file_limit_bytes
        if not limit:
            return plan_versions(self._listed(store))
        found = object_of(store, self._fetch.url.path)
        if found.size > limit:
            raise StoreContentInvalid(
                f"{self._fetch.url.path} has {found.size} bytes; a configuration file may have {limit}"
            )
        return Plan({1: PlannedVersion({FILE_NAME: found})})

    def _listed(self, store: Store) -> Iterator[StoredObject]:
        for found in objects_below(store, self._fetch.url.path):
            self.progress.tick()
            yield found

    def _synchronize(self, store: Store, plan: Plan) -> None:
        mirror, available = self._mirror, set(plan.versions)
        for number in mirror.versions() - available:
            mirror.remove(number)
        policy = parse_policy(self._fetch.policy)
        wanted = {
            *desired_versions(available, policy),
            *desired_versions(available - set(self._fetch.failed), policy),
        }
        missing = [number for number in wanted if not mirror.has(number, plan.versions[number])]
        mirror.forget_partial(but=set(missing))
        if missing:
            self._download(store, plan, missing)
        serving = set(self._fetch.serving)
        if serving & wanted:  # Before that, what is here may be all that can serve.
            for number in mirror.versions() - wanted - serving:
                mirror.remove(number)

    def _download(self, store: Store, plan: Plan, missing: list[int]) -> None:
        total = sum(plan.versions[number].size for number in missing)
        fetch = self._fetch
        here = sum(directory_size(self._mirror.partial(number)[0]) for number in missing)
        needed = max(0, total - here)
        make_room(Path(fetch.store_dir), {*fetch.in_use, fetch.mirror}, needed, fetch.limit_bytes)
        self.progress.expect(total)
        failure: OvmsError | None = None
        for number in sorted(missing, reverse=True):
            directory, journal = self._mirror.partial(number)
            planned = plan.versions[number]
            try:
                self._fetched_bytes += VersionDownload(
                    store, planned, directory, journal, self.progress
                ).run()
            except OvmsError as error:
                failure = failure or type(error)(f"version {number}: {error.message}")
                continue
            self._mirror.put(number, planned)
        if failure is not None:
            raise failure
