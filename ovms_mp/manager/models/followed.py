# SPDX-License-Identifier: Apache-2.0
"""What is mirrored from an object store, and what has become of that."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovms_mp.model.store_url import StoreUrl
    from ovms_mp.model.versions import VersionPolicy

_MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """What is mirrored.

    Attributes:
        name: The model's; empty for the configuration file.
        url: Where it is.
        policy: Which versions are wanted.
    """

    name: str
    url: StoreUrl
    policy: VersionPolicy

    def __str__(self) -> str:
        """As people name it."""
        return self.name or "the configuration file"

    @property
    def mirror(self) -> str:
        """Name of its directory."""
        return self.url.mirror_of(self.name)

    @property
    def label(self) -> str:
        """As events name it."""
        return f"model={self.name}" if self.name else "configuration file"


@dataclass(slots=True)
class Followed:
    """A store of a model, or of the configuration file.

    Attributes:
        job: The fetch that runs; 0 for none.
        due_at: When the next one begins, in monotonic seconds; None for when somebody asks.
        is_asked: Somebody waits for what the next one finds.
        is_answering: Somebody waits for what this one finds.
        has_ended: Some fetch has ended, well or not.
        begun_at: When the one that runs began, in monotonic seconds.
        versions: What the last fetch left to be served.
        failures: Fetches in a row that failed.
        retry_at: When the next one is due after a failure, in seconds of the wall clock.
    """

    source: Source
    job: int = 0
    due_at: float | None = 0.0
    is_asked: bool = False
    is_answering: bool = False
    has_ended: bool = False
    versions: tuple[int, ...] = ()
    begun_at: float = 0.0
    heard_at: float = 0.0
    done_bytes: int = 0
    total_bytes: int = 0
    error: str = ""
    failures: int = 0
    retry_at: float = 0.0
    problems: tuple[str, ...] = field(default=())

    def notes(self) -> list[str]:
        """What is worth knowing; the same as long as nothing happens."""
        url = self.source.url
        texts = [f"{url}: {text}" for text in self.problems]
        if self.error:
            texts.insert(0, f"{url}: {self.error}")
        elif not self.has_ended:
            texts.insert(0, f"{url}: being fetched")
        return texts

    def details(self) -> list[str]:
        """What goes on at this moment: bytes that are here, and when a store that failed is asked again."""
        url = self.source.url
        if self.job and self.total_bytes:
            done, total = self.done_bytes / _MEBIBYTE, self.total_bytes / _MEBIBYTE
            return [f"{url}: {done:.1f} of {total:.1f} MiB are here"]
        if self.error and not self.job and self.retry_at:
            moment = datetime.fromtimestamp(self.retry_at).astimezone()
            return [f"{url}: tried again at {moment:%H:%M:%S}"]
        return []
