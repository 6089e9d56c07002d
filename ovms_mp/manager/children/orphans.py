# SPDX-License-Identifier: Apache-2.0
"""REST fronts that outlived their arbiter: they became children of this process, a subreaper. See prctl(2)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


class Orphans:
    """Collects their exit statuses, so that no zombie is left. Owned by the supervisor."""

    def __init__(self) -> None:
        self._pids: set[int] = set()

    def add(self, pid: int) -> None:
        """Remember a REST front that has exited; its arbiter reaps it, or this process must."""
        self._pids.add(pid)

    def reap(self, living: Collection[int]) -> None:
        """Reap those that can be.

        Args:
            living: Process numbers of children that live.
        """
        for pid in list(self._pids):
            if pid in living:
                # The number has been given to a new child; its status is not for here.
                self._pids.discard(pid)
                continue
            try:
                done, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                # The arbiter's to reap, and forgotten once it has.
                if not Path(f"/proc/{pid}").exists():
                    self._pids.discard(pid)
                continue
            if done:
                self._pids.discard(pid)


def reap_all() -> None:
    """Reap whatever has ended; nothing of ours lives any more."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
