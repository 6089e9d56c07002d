# SPDX-License-Identifier: Apache-2.0
"""An object store in memory, which can misbehave; in place of somebody else's service."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ovms_mp.errors import OvmsError, StoreChanged, StoreUnavailable
from ovms_mp.fetcher.store import StoredObject

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from ovms_mp.model.store_url import StoreUrl


@dataclass
class MemoryStore:
    """One bucket, which opens itself.

    Attributes:
        cuts: So many reads break off, each after at most ``cut_after`` bytes.
        failure: What every request is answered with.
        reads: (key, start, stop) of all reads.
        lies: Bytes that are sent in place of an object's.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    cuts: int = 0
    cut_after: int = 1000
    failure: OvmsError | None = None
    reads: list[tuple[str, int, int]] = field(default_factory=list)
    lies: dict[str, bytes] = field(default_factory=dict)

    def open(self, _url: StoreUrl) -> Self:
        return self

    def forget(self, _url: StoreUrl) -> None:
        """It is open all the time."""

    def put(self, **versions: bytes) -> None:
        """Models by version: ``v1=b"..."`` makes ``m/1/model.onnx``."""
        for version, content in versions.items():
            self.objects[f"m/{version.removeprefix('v')}/model.onnx"] = content

    def list(self, prefix: str) -> Iterator[StoredObject]:
        if self.failure is not None:
            raise self.failure
        for key, content in sorted(self.objects.items()):
            if key.startswith(prefix):
                yield StoredObject(key, key, len(content), self._md5(key))

    def read(self, found: StoredObject, start: int, stop: int) -> Iterator[bytes]:
        if self.failure is not None:
            raise self.failure
        self.reads.append((found.key, start, stop))
        if found.key not in self.objects or self._md5(found.key) != found.tag:
            raise StoreChanged(f"{found.name} was replaced")
        content = self.lies.get(found.key, self.objects[found.key])[start:stop]
        if self.cuts:
            self.cuts -= 1
            yield content[: self.cut_after]
            raise StoreUnavailable("the connection was cut")
        yield content

    def md5_of(self, found: StoredObject) -> str:
        return found.tag

    def _md5(self, key: str) -> str:
        return hashlib.md5(self.objects[key], usedforsecurity=False).hexdigest()
