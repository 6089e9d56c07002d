# SPDX-License-Identifier: Apache-2.0
"""A private directory in the temporary directory that the next server removes if this one is killed.

Whose it is says a lock on it, which the kernel drops with the process, however that ends: a process number may be
another process's by then, and is 1 for every server that runs alone in a container. flock(2)
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import tempfile
from pathlib import Path

_log = logging.getLogger(__name__)

_PURPOSES = ("compiled", "sockets")
_TRIES = 10


class OwnedDirectory:
    """A directory that exists until :meth:`close`, or until its process has ended and another one sweeps."""

    def __init__(self, purpose: str = _PURPOSES[0]) -> None:
        """Make it.

        Args:
            purpose: One that :func:`sweep` knows; a part of its name.

        Raises:
            OSError: There is no temporary directory, or it takes none.
        """
        for _ in range(_TRIES):
            self.path = Path(tempfile.mkdtemp(prefix=f"ovms_mp-{purpose}-{os.getpid()}-"))
            # A server that starts now may have found it unlocked and be removing it; then this is not ours.
            descriptor = _lock(self.path)
            if descriptor is not None:
                self._descriptor = descriptor
                return
            shutil.rmtree(self.path, ignore_errors=True)
        raise OSError(errno.ENOLCK, "directories there cannot be locked", str(self.path.parent))

    def close(self) -> None:
        """Remove it with everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptor)


def sweep() -> None:
    """Remove the directories of processes of this user that have ended."""
    try:
        root = Path(tempfile.gettempdir())
        found = [path for purpose in _PURPOSES for path in root.glob(f"ovms_mp-{purpose}-*")]
    except OSError:
        return  # Nothing is writable, so nothing was left.
    for path in found:
        descriptor = _lock(path)
        if descriptor is None:
            continue
        _log.info("event=swept directory=%s its server has ended", path)
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _lock(path: Path) -> int | None:
    """Take a directory of this user; None when another process has it, or it is not there or not ours."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        state = os.fstat(descriptor)
        if state.st_uid == os.getuid() and os.path.samestat(state, os.stat(path, follow_symlinks=False)):
            return descriptor
    except OSError:
        pass  # Locked, removed meanwhile, or on a file system without locks.
    os.close(descriptor)
    return None
