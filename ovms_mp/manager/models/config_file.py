# SPDX-License-Identifier: Apache-2.0
"""The configuration file over time.

A changed file is taken entry by entry: one that cannot be served leaves that model as it was. A file that is no
configuration leaves everything as it was; it is read again a few times, as it may be half written.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING

from ovms_mp.config.file import MAX_BYTES, read_config_file
from ovms_mp.defects import report
from ovms_mp.errors import INTERNAL_ERROR_TEXT, ConfigError
from ovms_mp.files import read_regular
from ovms_mp.log import tell_people
from ovms_mp.wire.records import ConfigRefusal, ErrorRecord, bounded_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Self

    from ovms_mp.config.file import ConfigDocument
    from ovms_mp.config.model import RefusedModel
    from ovms_mp.config.server import ServerConfig
    from ovms_mp.manager.clock import Clock
    from ovms_mp.model.store_url import StoreUrl

_log = logging.getLogger(__name__)

_TRIES = 4
_TRY_AGAIN_S = 0.1
_MOST_TOLD = 10


class ConfigFile:
    """The file that the models came from. Owned by the manager's loop."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        is_strict: bool,
        refused: Sequence[RefusedModel] = (),
        store_dir: str = "",
        origin: StoreUrl | None = None,
    ) -> None:
        """Take the file as read, unless it comes from a store.

        Args:
            path: The file.
            clock: The manager's.
            is_strict: Any error is one of the whole file.
            refused: What could not be served when it was read at the start.
            store_dir: Where models from object stores are downloaded to.
            origin: What it is a mirror of, which is followed by others; None for a file that people write to.
        """
        self.path = path
        self._clock = clock
        self._is_strict = is_strict
        self._store_dir = store_dir
        self._origin = origin
        self._digest = self._look() if origin is None else b""
        self._tries = 0
        self._again_at = 0.0
        self.refusal: ConfigRefusal | None = self._entries_refusal(refused)
        """What is wrong with the file as it is now; None when it is what is being served."""

    @classmethod
    def of(cls, config: ServerConfig, clock: Clock) -> Self | None:
        """The file that a server was started with; None where its model was given by flags."""
        if config.config_path is None:
            return None
        return cls(
            config.config_path,
            clock,
            is_strict=config.is_strict,
            refused=config.refused,
            store_dir=config.repository.store_dir,
            origin=config.config_store,
        )

    def read_if_changed(self, *, is_asked: bool) -> tuple[ConfigDocument | None, float | None]:
        """Read the file if it is another than before, or the last one was refused and somebody asks.

        Returns:
            What it says, or None when there is nothing to do; and when to call again, in monotonic seconds, or None.
        """
        digest = self._look()
        if digest == self._digest and not (self._tries or (is_asked and self.refusal is not None)):
            return None, None
        if digest != self._digest:
            self._digest = digest
            self._tries = 0
        elif self._tries and self._clock.monotonic() < self._again_at:
            return None, self._again_at
        try:
            document = self._read()
        except ConfigError as error:
            self._tries += 1
            if self._tries < _TRIES:
                self._again_at = self._clock.monotonic() + _TRY_AGAIN_S
                return None, self._again_at
            self._tries = 0
            reason = ErrorRecord(type(error).__name__, bounded_text(error.client_message))
            self.refusal = ConfigRefusal(self._clock.time(), is_whole=True, error=reason)
            for line in error.message.split("\n"):
                _log.error("event=config_refused everything stays as it was: %s", line)
            return None, None
        self._tries = 0
        self.refusal = self._entries_refusal(document.refused)
        for notice in document.notices:
            _log.warning("event=configuration %s", notice)
        name = self._origin or self.path
        _log.info("event=config_read path=%s models=%d", name, len(document.models))
        count = len(document.models)
        tell_people(_log, "Read %s: %d %s", name, count, "model" if count == 1 else "models")
        return document, None

    def _read(self) -> ConfigDocument:
        """Read the file.

        Raises:
            ConfigError: It is wrong, or reading it raised what nobody has foreseen.
        """
        try:
            return read_config_file(
                self.path, is_strict=self._is_strict, store_dir=self._store_dir, origin=self._origin
            )
        except ConfigError:
            raise
        except Exception as error:
            report("manager.config", error, f"{self.path} as it is now")
            raise ConfigError(f"{self.path}: {INTERNAL_ERROR_TEXT}") from None

    @property
    def is_being_read(self) -> bool:
        """Whether it may be half written and will be read again in a moment."""
        return self._tries > 0

    def _look(self) -> bytes:
        """A digest of the file; empty while it cannot be read."""
        try:
            return hashlib.sha256(read_regular(self.path, MAX_BYTES)).digest()
        except OSError:
            return b""

    def _entries_refusal(self, refused: Sequence[RefusedModel]) -> ConfigRefusal | None:
        if not refused:
            return None
        told = "; ".join(entry.client_text for entry in refused[:_MOST_TOLD])
        more = "; and more" if len(refused) > _MOST_TOLD else ""
        reason = bounded_text(f"the rest of the file is followed; refused is {told}{more}")
        return ConfigRefusal(
            self._clock.time(), is_whole=False, error=ErrorRecord(ConfigError.__name__, reason)
        )
