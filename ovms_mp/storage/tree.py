# SPDX-License-Identifier: Apache-2.0
"""The files below the directory of one version, as far as they are looked at."""

from __future__ import annotations

import errno
import os
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING

from ovms_mp.model.formats import may_be_of_model

if TYPE_CHECKING:
    from pathlib import Path

MAX_DEPTH = 16
"""Levels of directories below a version that are looked into; real models have one or two."""
MAX_FILES = 10_000
MAX_DIRECTORIES = 1_000
"""Files and directories of a version that are looked at; a SavedModel has a few dozen."""

IS_NOTHING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""Gone meanwhile, or a link that leads nowhere."""
_IS_NOT_FOR_US = IS_NOTHING | {errno.EACCES, errno.EPERM}
"""The same below a version, where e.g. a volume's ``lost+found`` is nobody's business."""


class Tree:
    """The regular files of a version, by relative name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.device = os.stat(directory).st_dev
        self.files: dict[str, os.stat_result] = {}
        self.has_more = False
        self.count = 0
        self._seen: set[tuple[int, int]] = set()

    def walk(self, directory: str, prefix: str, depth: int = 0) -> None:
        """Add everything below a directory. Each directory is entered once, however many links lead to it.

        Raises:
            OSError: Something could not be looked at.
        """
        with os.scandir(directory) as iterator:
            # What may be the model first, so that nothing beside it can use up what is looked at.
            entries = sorted(
                iterator, key=lambda entry: (depth > 0 or not may_be_of_model(entry.name), entry.name)
            )
        for entry in entries:
            # Of what is hidden only files count, which a copy may write to before it renames them. Hidden directories
            # and links are where visible links lead (Kubernetes' ``..data``), or not the model's (``.git``).
            if entry.name.startswith(".") and not entry.is_file(follow_symlinks=False):
                continue
            # What may be the model must not be overlooked, whoever may not look.
            is_needed = depth == 0 and may_be_of_model(entry.name)
            state = self.add(prefix + entry.name, entry, is_needed=is_needed)
            if state is None or not S_ISDIR(state.st_mode):
                continue
            if depth >= MAX_DEPTH or not self._is_new(state):
                continue
            try:
                self.walk(entry.path, f"{prefix}{entry.name}/", depth + 1)
            except OSError as error:
                if error.errno not in _IS_NOT_FOR_US:
                    raise

    def _is_new(self, state: os.stat_result) -> bool:
        identity = (state.st_dev, state.st_ino)
        if identity in self._seen:
            return False
        if len(self._seen) >= MAX_DIRECTORIES:
            self.has_more = True
            return False
        self._seen.add(identity)
        return True

    def add(
        self, name: str, entry: os.DirEntry[str] | str, *, is_needed: bool = False
    ) -> os.stat_result | None:
        """Note an entry if it is a regular file; its state, None when there is nothing.

        Raises:
            OSError: It cannot be looked at, and is needed or the file system's trouble is not a matter of permission.
        """
        self.count += 1
        try:
            state = os.stat(entry) if isinstance(entry, str) else entry.stat()
        except OSError as error:
            if error.errno in (IS_NOTHING if is_needed else _IS_NOT_FOR_US):
                return None
            raise
        if S_ISREG(state.st_mode):
            if len(self.files) < MAX_FILES:
                self.files[name] = state
            else:
                self.has_more = True
        return state

    def excess_text(self) -> str:
        """What to say of a version that has more than is looked at."""
        return f"holds more than {MAX_FILES} files or {MAX_DIRECTORIES} directories; only those are looked at"
