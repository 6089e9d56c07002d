# SPDX-License-Identifier: Apache-2.0
"""What the fetcher needs of an object store, and the objects below a base path in one.

A store is read by several threads at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from ovms_mp.errors import StoreContentInvalid, StoreNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_OBJECTS = 1_000_000
"""Objects below a base path that are listed."""
_MOST_ALIKE = 10_000
"""Objects whose names begin with another one's; stores list that one first."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object.

    Attributes:
        key: Its name in the bucket.
        name: The same below the base path.
        size: In bytes.
        tag: Changes with its content: ETag or generation.
        md5: Of its content, in hexadecimal digits; empty where the listing does not tell.
    """

    key: str
    name: str
    size: int
    tag: str
    md5: str = ""


class Store(Protocol):
    """One bucket, container or share. What goes wrong is one of the ``Store...`` errors."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects whose keys begin so, with the key for the name; page after page."""

    def read(self, found: StoredObject, start: int, stop: int) -> Iterator[bytes]:
        """Its bytes from ``start`` to before ``stop``, which are some.

        Raises:
            StoreUnavailable: It may work at another try.
            StoreChanged: It is not that object any more.
        """

    def md5_of(self, found: StoredObject) -> str:
        """MD5 of an object that was read, in hexadecimal digits; empty where the store does not tell."""


def object_of(store: Store, key: str) -> StoredObject:
    """The object of this key.

    Raises:
        StoreNotFound: There is none.
    """
    for found in islice(store.list(key), _MOST_ALIKE):
        if found.key == key:
            return found
    raise StoreNotFound(f"{key} does not exist")


def objects_below(store: Store, path: str) -> Iterator[StoredObject]:
    """The objects of a base path: those below it, or itself and its companions where it is a model file.

    Raises:
        StoreContentInvalid: There are too many to be listed.
    """
    prefix = f"{path}/" if path else ""
    count = 0
    for found in store.list(prefix):
        count += 1
        if count > MOST_OBJECTS:
            raise StoreContentInvalid(
                f"there are more than {MOST_OBJECTS} objects; give a path that has fewer"
            )
        yield replace(found, name=found.key[len(prefix) :])
    stem, dot, _ = path.rpartition(".")
    if not count and dot and "/" not in path[len(stem) :]:
        directory = len(path.rpartition("/")[0]) + 1 if "/" in path else 0
        siblings = [found for found in store.list(stem + dot) if "/" not in found.key[directory:]]
        if any(found.key == path for found in siblings):
            yield from (replace(found, name=found.key[directory:]) for found in siblings)
