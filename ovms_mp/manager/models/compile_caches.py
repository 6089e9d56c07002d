# SPDX-License-Identifier: Apache-2.0
"""Where trials leave what they compiled, so that the workers need not compile the same again.

That is the user's directory (``--cache_dir``), which is kept, or a private one for each deployment, which is removed
after its first load: in a thread, as unlinking some hundred megabytes takes as many milliseconds.
"""

from __future__ import annotations

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ovms_mp.manager.children.owned_directory import OwnedDirectory

if TYPE_CHECKING:
    from ovms_mp.config.server import EngineConfig
    from ovms_mp.manager.models.deployment import Deployment

_log = logging.getLogger(__name__)


def cache_directory_of(engine: EngineConfig) -> str:
    """The user's directory for compiled models, or the part of it that is for the libraries which OpenVINO is given.

    What is compiled depends on them, and what is kept is found by the model and its settings only.
    """
    files = [path for path in (engine.cpu_extension, engine.plugins_xml) if path]
    if not engine.cache_dir or not files:
        return engine.cache_dir
    facts: list[object] = []
    for path in files:
        try:
            state = os.stat(path)
        except OSError:
            return ""  # The workers will say what is wrong with it.
        facts.append((path, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino))
    return os.path.join(engine.cache_dir, "with-" + hashlib.sha256(repr(facts).encode()).hexdigest()[:16])


class CompileCaches:
    """Owns the private directories."""

    def __init__(self, cache_dir: str) -> None:
        """Prepare; no directory exists yet.

        Args:
            cache_dir: The user's directory; empty for private ones.
        """
        self._cache_dir = cache_dir
        self._private: dict[int, OwnedDirectory] = {}
        self._removers = ThreadPoolExecutor(1, "cache-remover")
        self._has_told = False

    def assign(self, deployment: Deployment, *, is_tried: bool) -> None:
        """Give a deployment its directory; without a trial only the user's, as nothing else reads it again."""
        deployment.cache_directory = self._cache_dir
        deployment.is_cache_kept = bool(self._cache_dir)
        if is_tried and not self._cache_dir:
            deployment.cache_directory = self._private_directory(deployment.handle)

    def remove(self, deployment: Deployment) -> None:
        """Remove a private directory."""
        owned = self._private.pop(deployment.handle, None)
        if owned is not None:
            self._removers.submit(owned.close)

    def close(self) -> None:
        """Remove all private directories; no process uses them any more."""
        while self._private:
            self._private.popitem()[1].close()
        self._removers.shutdown()

    def _private_directory(self, handle: int) -> str:
        """A fresh directory, or none where the temporary directory takes none: compiling twice is slower, not wrong."""
        try:
            owned = self._private.get(handle) or OwnedDirectory()
        except OSError as error:
            if not self._has_told:
                _log.warning(
                    "event=no_cache models are compiled twice, for their trial and to be served, as there is no "
                    "directory for what was compiled: %s; set TMPDIR or --cache_dir to one that can be written to",
                    error,
                )
            self._has_told = True
            return ""
        self._private[handle] = owned
        return str(owned.path)
