# SPDX-License-Identifier: Apache-2.0
"""Azure Blob Storage, by Microsoft's library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from azure.core import MatchConditions
from azure.core.exceptions import AzureError
from azure.storage.blob import ContainerClient

from ovms_mp.fetcher.azure_failures import failure
from ovms_mp.fetcher.azure_settings import opened
from ovms_mp.fetcher.store import StoredObject

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ovms_mp.model.store_url import StoreUrl


class BlobStore:
    """One container."""

    def __init__(self, url: StoreUrl, environment: Mapping[str, str]) -> None:
        """See :func:`~ovms_mp.fetcher.azure_settings.opened`."""
        self._where = f"container {url.bucket}"
        self._container: ContainerClient = opened(ContainerClient, url, environment, "blob")

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """See :class:`~ovms_mp.fetcher.store.Store`."""
        try:
            for blob in self._container.list_blobs(name_starts_with=prefix or None):
                # Whoever uploads may leave it out.
                md5 = bytes(blob.content_settings.content_md5 or b"").hex()
                key, tag = str(blob.name), str(blob.etag).strip('"')
                yield StoredObject(key, key, int(blob.size), tag, md5)
        except (AzureError, OSError) as error:
            raise failure(error, self._where) from None

    def read(self, found: StoredObject, start: int, stop: int) -> Iterator[bytes]:
        """See :class:`~ovms_mp.fetcher.store.Store`."""
        try:
            yield from self._container.download_blob(
                found.key,
                offset=start,
                length=stop - start,
                etag=f'"{found.tag}"',
                match_condition=MatchConditions.IfNotModified,
            ).chunks()
        except (AzureError, OSError) as error:
            raise failure(error, self._where, found) from None

    def md5_of(self, found: StoredObject) -> str:
        """See :class:`~ovms_mp.fetcher.store.Store`."""
        return found.md5
