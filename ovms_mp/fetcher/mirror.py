# SPDX-License-Identifier: Apache-2.0
"""A model's mirror: the local directory with the versions of one base path in a store.

::

    <store_dir>/<mirror>/1/...               a version, complete; .fetched in it says of what
                         .partial/2/...      a version that is being downloaded, or was when something broke
                         .partial/2.parts    which parts of its files are there
                         .lock               held by who changes anything here
                         .served             touched whenever the model is looked at

Whatever is named like a version was complete when it got that name, and never changes afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
from typing import TYPE_CHECKING

from ovms_mp.errors import StoreUnavailable
from ovms_mp.model.formats import version_number

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ovms_mp.fetcher.plan import PlannedVersion

RECORD = ".fetched"
LOCK = ".lock"
SERVED = ".served"
PARTIAL = ".partial"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_LONGEST_RECORD = 1024


class Mirror:
    """Changed only by who holds its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path / PARTIAL

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the directory and hold its lock.

        Raises:
            StoreUnavailable: Another server of this machine has it.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self.path / LOCK, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreUnavailable("another server on this machine is downloading the same") from None
            (self.path / SERVED).touch()
            yield

    def versions(self) -> set[int]:
        """Those that are here."""
        with os.scandir(self.path) as iterator:
            names = [entry.name for entry in iterator if entry.is_dir(follow_symlinks=False)]
        return {number for name in names if (number := version_number(name)) and name == str(number)}

    def has(self, number: int, planned: PlannedVersion) -> bool:
        """Whether a version is here as the store has it; also if somebody damaged it."""
        directory = self.path / str(number)
        try:
            with open(directory / RECORD) as file:
                if file.read(_LONGEST_RECORD) != planned.digest():
                    return False
            return all(
                os.stat(directory / name).st_size == found.size for name, found in planned.files.items()
            )
        except (OSError, UnicodeDecodeError):
            return False

    def partial(self, number: int) -> tuple[Path, Path]:
        """Where a version is downloaded to, and the file that says which parts are there."""
        self._partial.mkdir(mode=0o700, exist_ok=True)
        return self._partial / str(number), self._partial / f"{number}.parts"

    def put(self, number: int, planned: PlannedVersion) -> None:
        """Make a complete download the version, in place of what was there; at no moment is there none.

        Raises:
            OSError: The file system refuses.
        """
        directory, parts = self.partial(number)
        _remove_others(directory, planned)
        (directory / RECORD).write_text(planned.digest())
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            ctypes.CDLL(None).syncfs(descriptor)
        finally:
            os.close(descriptor)
        target = self.path / str(number)
        if target.exists():
            _exchange(directory, target)
            shutil.rmtree(directory, ignore_errors=True)
        else:
            os.rename(directory, target)
        parts.unlink(missing_ok=True)

    def remove(self, number: int) -> None:
        """Take a version away at once; its files are removed behind its back."""
        gone = self._partial / f"removed-{number}"
        self._partial.mkdir(mode=0o700, exist_ok=True)
        shutil.rmtree(gone, ignore_errors=True)
        os.rename(self.path / str(number), gone)
        shutil.rmtree(gone, ignore_errors=True)

    def forget_partial(self, but: set[int]) -> None:
        """Remove downloads that are not wanted any more."""
        try:
            names = os.listdir(self._partial)
        except FileNotFoundError:
            return
        kept = {str(number) for number in but}
        for name in names:
            if name.partition(".")[0] not in kept:
                path = self._partial / name
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _remove_others(directory: Path, planned: PlannedVersion) -> None:
    """Remove files that an earlier download of the same version left."""
    for root, _, names in os.walk(directory):
        prefix = os.path.relpath(root, directory)
        for name in names:
            if os.path.normpath(f"{prefix}/{name}") not in planned.files:
                os.unlink(os.path.join(root, name))


def _exchange(one: Path, other: Path) -> None:
    """Exchange two directories by their names, in one step where the file system can (renameat2(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
        raise OSError(number, os.strerror(number), str(other))
    aside = one.with_name(f"replaced-{other.name}")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(other, aside)
    os.rename(one, other)
    os.rename(aside, one)
