# SPDX-License-Identifier: Apache-2.0
"""Downloads the files of a version in parts, several at once.

A part that breaks off goes on where it was. Parts that are complete are noted in a file, with what they are parts of,
so that a download goes on after this process has ended; those of an object that was replaced meanwhile count for
nothing.
"""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from ovms_mp.errors import StoreContentInvalid, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ovms_mp.fetcher.plan import PlannedVersion
    from ovms_mp.fetcher.progress import Progress
    from ovms_mp.fetcher.store import Store, StoredObject

PART_BYTES = 4 << 20
AT_ONCE = 4
_TRIES = 4
"""In a row, none of which brings a single byte."""
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_HASHED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    found: StoredObject
    start: int
    stop: int


class _Journal:
    """The file that says which parts are there."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self.known: set[tuple[str, str, int]] = set()
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            lines = []
        for line in lines:
            try:
                self.known.add(msgspec.json.decode(line, type=tuple[str, str, int]))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue  # Half a line: the machine went down.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  # closed by close()

    def note(self, part: _Part) -> None:
        entry = (part.name, part.found.tag, part.start)
        with self._lock:
            self._file.write(b"\n" + msgspec.json.encode(entry) + b"\n")
            self.known.add(entry)

    def close(self) -> None:
        self._file.close()


class VersionDownload:
    """The download of one version."""

    def __init__(
        self, store: Store, planned: PlannedVersion, directory: Path, journal: Path, progress: Progress
    ) -> None:
        """Prepare.

        Args:
            store: Where from.
            planned: What.
            directory: Where to; made if it is not there.
            journal: The file for what is there.
            progress: Is told of what comes.
        """
        self._store = store
        self._planned = planned
        self._directory = directory
        self._journal_path = journal
        self._progress = progress
        self._stop = threading.Event()

    def run(self) -> int:
        """Download what is missing and verify all of it; the bytes that were downloaded.

        Raises:
            OvmsError: One of the ``Store...`` errors.
            OSError: The files cannot be written.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        journal = _Journal(self._journal_path)
        missing: list[_Part] = []
        try:
            for part in self._parts():
                if (part.name, part.found.tag, part.start) in journal.known and self._is_there(part):
                    self._progress.add(part.stop - part.start)
                else:
                    missing.append(part)
            self._fetch_all(missing, journal)
        finally:
            journal.close()
        try:
            for name, found in self._planned.files.items():
                self._verify(name, found)
        except StoreContentInvalid:
            self._journal_path.unlink(missing_ok=True)
            raise
        return sum(part.stop - part.start for part in missing)

    def _parts(self) -> Iterator[_Part]:
        for name, found in self._planned.files.items():
            for start in range(0, found.size, PART_BYTES) or (0,):
                yield _Part(name, found, start, min(found.size, start + PART_BYTES))

    def _is_there(self, part: _Part) -> bool:
        try:
            return os.stat(self._directory / part.name).st_size >= part.stop
        except OSError:
            return False

    def _fetch_all(self, missing: list[_Part], journal: _Journal) -> None:
        with ThreadPoolExecutor(AT_ONCE, "part") as pool:
            futures = [pool.submit(self._fetch, part, journal) for part in missing]
            done, others = wait(futures, return_when=FIRST_EXCEPTION)
            self._stop.set()
            for future in others:
                future.cancel()
        for future in (*done, *others):
            if not future.cancelled():
                future.result()

    def _fetch(self, part: _Part, journal: _Journal) -> None:
        path = self._directory / part.name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if part.stop == part.found.size:
                os.ftruncate(descriptor, part.found.size)  # Whatever was there before.
            self._fill(descriptor, part)
            if part.found.size > PART_BYTES:
                os.fdatasync(descriptor)  # Smaller files are synced together, at the end.
        finally:
            os.close(descriptor)
        journal.note(part)

    def _fill(self, descriptor: int, part: _Part) -> None:
        """Write a part, from where it broke off at each further try."""
        position, failures = part.start, 0
        while position < part.stop:
            began_at = position
            try:
                for chunk in self._store.read(part.found, position, part.stop):
                    os.pwrite(descriptor, chunk[: part.stop - position], position)
                    position += len(chunk)
                    self._progress.add(len(chunk))
                if position > part.stop:
                    raise StoreContentInvalid(f"{part.name}: the store sent more than was asked for")
                if position < part.stop:
                    raise StoreUnavailable(f"{part.name}: the download broke off")
            except StoreUnavailable:
                failures = 0 if position > began_at else failures + 1
                pause_s = min(_FIRST_PAUSE_S * 2**failures, _LONGEST_PAUSE_S)
                if failures >= _TRIES or self._stop.wait(pause_s):
                    raise

    def _verify(self, name: str, found: StoredObject) -> None:
        path = self._directory / name
        size = os.stat(path).st_size
        if size != found.size:
            raise StoreContentInvalid(
                f"{name} has {size} bytes after its download, and {found.size} in the store"
            )
        expected = self._store.md5_of(found)
        if not expected:
            return
        digest = hashlib.md5(usedforsecurity=False)
        with open(path, "rb") as file:
            while block := file.read(_HASHED_BYTES):
                digest.update(block)
                self._progress.tick()
        if digest.hexdigest() != expected:
            raise StoreContentInvalid(f"{name} was damaged on its way: its checksum is not the store's")
