# SPDX-License-Identifier: Apache-2.0
"""Azure Files, by Microsoft's library. A share has directories, which are listed one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.storage.fileshare import ShareClient

from ovms_mp.errors import StoreChanged
from ovms_mp.fetcher.azure_failures import failure
from ovms_mp.fetcher.azure_settings import opened
from ovms_mp.fetcher.store import StoredObject

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ovms_mp.model.store_url import StoreUrl

_MOST_LEVELS = 16


class FileStore:
    """One share."""

    def __init__(self, url: StoreUrl, environment: Mapping[str, str]) -> None:
        """See :func:`~ovms_mp.fetcher.azure_settings.opened`."""
        self._where = f"share {url.bucket}"
        # What the service wants to hear of an identity.
        self._share: ShareClient = opened(ShareClient, url, environment, "file", token_intent="backup")  # noqa: S106

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """See :class:`~ovms_mp.fetcher.store.Store`."""
        directory, _, beginning = prefix.rpartition("/")
        try:
            yield from self._below(directory, beginning, 0)
        except ResourceNotFoundError as error:
            if error.error_code == "ShareNotFound":
                raise failure(error, self._where) from None
        except (AzureError, OSError) as error:
            raise failure(error, self._where) from None

    def _below(self, directory: str, beginning: str, level: int) -> Iterator[StoredObject]:
        client = self._share.get_directory_client(directory)
        entries = client.list_directories_and_files(
            name_starts_with=beginning or None, include=["Etag", "timestamps"]
        )
        for entry in entries:
            key = f"{directory}/{entry.name}" if directory else str(entry.name)
            if not entry.is_directory:
                yield StoredObject(key, key, int(entry.size), f"{entry.etag or entry.last_modified}")
            elif level < _MOST_LEVELS:
                yield from self._below(key, "", level + 1)

    def read(self, found: StoredObject, start: int, stop: int) -> Iterator[bytes]:
        """See :class:`~ovms_mp.fetcher.store.Store`."""
        try:
            stream = self._share.get_file_client(found.key).download_file(offset=start, length=stop - start)
            if str(stream.properties.etag).strip('"') != found.tag.strip('"'):
                raise StoreChanged(f"{found.name} was replaced while it was downloaded")
            yield from stream.chunks()
        except (AzureError, OSError) as error:
            raise failure(error, self._where, found) from None

    def md5_of(self, found: StoredObject) -> str:
        """See :class:`~ovms_mp.fetcher.store.Store`; listings have none."""
        return ""
