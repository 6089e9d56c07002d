# SPDX-License-Identifier: Apache-2.0
"""The keys that clients may send, as their files have them now; fronts have them with each snapshot.

A file is taken when it has been the same for two looks, so that one that is being written is not. One that cannot be
read, or is wrong, leaves the keys as they were.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, TypeAlias

from ovms_mp.config.api_keys import read_keys
from ovms_mp.errors import BootError, ConfigError
from ovms_mp.wire.records import KeyRecord

if TYPE_CHECKING:
    from ovms_mp.config.access import AccessConfig
    from ovms_mp.config.api_keys import KeyFile

_log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 0.5
_Signature: TypeAlias = tuple[int, ...]


class _FollowedFile:
    """One file of keys."""

    def __init__(self, path: str, flag: str, *, is_admin: bool) -> None:
        """Read it.

        Raises:
            ConfigError: It is wrong.
        """
        self._path = path
        self._flag = flag
        self._is_admin = is_admin
        self._taken = self._seen = self._signature()
        self.records = self._records(read_keys(path, flag))

    def look(self) -> bool:
        """Read it again if it is another one than before, and whole; whether the keys are others now."""
        seen = self._signature()
        is_steady, self._seen = seen == self._seen, seen
        if seen == self._taken or not is_steady:
            return False
        self._taken = seen
        try:
            file = read_keys(self._path, self._flag)
        except ConfigError as error:
            _log.error("event=keys_refused the keys stay as they were: %s", error)
            return False
        for remark in file.remarks:
            _log.warning("event=configuration %s", remark)
        before, self.records = self.records, self._records(file)
        if self.records == before:
            return False
        _log.info(
            "event=keys_read flag=--%s keys=%d added=%s removed=%s",
            self._flag,
            len(self.records),
            _names(self.records, before),
            _names(before, self.records),
        )
        return True

    def _signature(self) -> _Signature:
        """What changes with the file; empty while there is none."""
        try:
            state = os.stat(self._path)
        except OSError:
            return ()
        return (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)

    def _records(self, file: KeyFile) -> tuple[KeyRecord, ...]:
        return tuple(KeyRecord(key.name, key.digest, self._is_admin) for key in file.keys)


class ApiKeys:
    """All keys. Owned by the manager's loop, which has :meth:`look` called every :data:`LOOK_INTERVAL_S`.

    Attributes:
        is_changed: Whether the newest snapshot does not have them as they are.
    """

    def __init__(self, access: AccessConfig) -> None:
        """Read the files.

        Raises:
            BootError: One is wrong.
        """
        self.is_changed = False
        try:
            self._files = [
                _FollowedFile(path, flag, is_admin=is_admin)
                for path, flag, is_admin in (
                    (access.api_key_file, "api_key_file", False),
                    (access.admin_api_key_file, "admin_api_key_file", True),
                )
                if path
            ]
        except ConfigError as error:  # It was right when the command line was read.
            raise BootError(error.message) from None

    def __bool__(self) -> bool:
        """Whether there are files to look at."""
        return bool(self._files)

    def records(self) -> tuple[KeyRecord, ...]:
        """Keys that clients may send."""
        return tuple(record for file in self._files for record in file.records)

    def note_snapshot(self, _epoch: int) -> None:
        """What has changed until now is in a snapshot."""
        self.is_changed = False

    def look(self) -> None:
        """Look at the files."""
        for file in self._files:
            self.is_changed |= file.look()


def _names(records: tuple[KeyRecord, ...], others: tuple[KeyRecord, ...]) -> str:
    """Names of those that are not among the others."""
    return ",".join(record.name for record in records if record not in others)[:500] or "none"
