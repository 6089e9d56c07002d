# SPDX-License-Identifier: Apache-2.0
"""Certificates that are replaced while the server runs: their files are looked at each second.

Certificate and key change one after the other, so a pair that does not go together is not taken, and looked at again
until it does. Whoever replaces a directory's link (Kubernetes) changes all files at once. Looking is done in a thread
of its own, as the files may be on a disk that is slow, and two handshakes are made with what is new.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.errors import ConfigError
from ovms_mp.tls.material import read_material

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovms_mp.tls.material import Material, TlsFiles

_log = logging.getLogger(__name__)

_INTERVAL_S = 1.0

_Stamp = tuple[int, int, int, int, int]


class Rotation:
    """Watches the files of one server process."""

    def __init__(self, files: TlsFiles, take: Callable[[Material], None]) -> None:
        """Read the files for the first time.

        Args:
            files: What is watched.
            take: Called with what is new, also now; from the thread later on.

        Raises:
            ConfigError: They cannot be used.
        """
        self._files = files
        self._take = take
        self._refusal = ""
        self._stamps = self._read_stamps()
        self._current = read_material(files)
        take(self._current)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="tls-rotation", daemon=True)

    def start(self) -> None:
        """Look each second from now on, to the end of the process or :meth:`stop`."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, at the end of the look that it may be at."""
        self._stopped.set()
        self._thread.join(_INTERVAL_S)

    def _watch(self) -> None:
        while not self._stopped.wait(_INTERVAL_S):
            contain("tls.rotation", "this look", self.look)

    def look(self) -> None:
        """Take what has changed, if it can be used."""
        stamps = self._read_stamps()
        if stamps == self._stamps and not self._refusal:
            return
        try:
            material = read_material(self._files)
            if material != self._current:
                self._take(material)
                _log.info("event=tls_reloaded new handshakes use the new certificates")
                for warning in material.warnings:
                    _log.warning("event=tls_reloaded %s", warning)
        except ConfigError as error:
            if error.message != self._refusal:
                self._refusal = error.message
                _log.warning(
                    "event=tls_not_reloaded %s; the former certificates stay in use, and this is tried again each "
                    "second",
                    error.message,
                )
            return
        # Only now: what fails is tried again.
        self._current, self._stamps, self._refusal = material, stamps, ""

    def _read_stamps(self) -> tuple[_Stamp | None, ...]:
        """What changes when a file does, or a link on the way to it; None for one that is not there."""
        return tuple(_stamp(path) for path in self._files.paths())


def _stamp(path: str) -> _Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
