# SPDX-License-Identifier: Apache-2.0
"""Entries of the configuration file that are not followed, and how clients hear of them.

A model that is served has a note in its status. One that is not has a status all the same: version 1, LOADING with an
error, as a version that cannot be loaded.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ovms_mp.manager.fronts.snapshots import unroutable
from ovms_mp.model.status import VersionStatus
from ovms_mp.wire.records import ModelRecord

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ovms_mp.config.model import RefusedModel

_log = logging.getLogger(__name__)


class Refusals:
    """Reasons by model. Owned by the catalogue."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def replace(self, refused: Sequence[RefusedModel]) -> bool:
        """Know these and no others; whether clients see another text than before."""
        before = self._texts
        self._texts = {}
        for entry in refused:
            for reason in entry.reasons:
                _log.error("event=model_refused model=%s reason=%s", entry.name, reason)
            if entry.name:
                text = f"its entry in the configuration file is refused: {entry.client_text}"
                self._texts.setdefault(entry.name, text)
        return self._texts != before

    def __contains__(self, name: str) -> bool:
        return name in self._texts

    def added_to(self, text: str, name: str) -> str:
        """What a version's status says, with the reason if its model has an entry that is refused."""
        return "; ".join(filter(None, (text, self._texts.get(name))))

    def records(self, known: Collection[str]) -> Iterator[ModelRecord]:
        """Records of the models of which nothing else is known."""
        for name, text in self._texts.items():
            if name not in known:
                status = VersionStatus(1).failed(text)
                version = unroutable(status.version, status.state, status.error_code, status.error_message)
                yield ModelRecord(name, 1, (version,))
