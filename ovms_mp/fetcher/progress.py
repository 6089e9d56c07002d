# SPDX-License-Identifier: Apache-2.0
"""How far a fetch is; counted by its threads, and read by the one that talks to the manager."""

from __future__ import annotations

import threading


class Progress:
    """Bytes that are here and bytes that are to come; all of it may be called from any thread."""

    def __init__(self) -> None:
        """Nothing has moved yet."""
        self._lock = threading.Lock()
        self._done_bytes = 0
        self._total_bytes = 0
        self._has_moved = False

    def expect(self, total_bytes: int) -> None:
        """So much is to be downloaded, parts that are already here among it."""
        with self._lock:
            self._total_bytes, self._has_moved = total_bytes, True

    def add(self, count: int) -> None:
        """So many bytes are here."""
        with self._lock:
            self._done_bytes += count
            self._has_moved = True

    def tick(self) -> None:
        """Something has moved that is no byte of a download, e.g. a page of a listing has come."""
        self.add(0)

    def take(self) -> tuple[int, int] | None:
        """(done, total) in bytes if anything has moved since the last call, else None."""
        with self._lock:
            if not self._has_moved:
                return None
            self._has_moved = False
            return self._done_bytes, self._total_bytes
