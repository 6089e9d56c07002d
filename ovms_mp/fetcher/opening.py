# SPDX-License-Identifier: Apache-2.0
"""Opens a store by its URL. Libraries are imported when they are needed: each takes a good part of a second."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ovms_mp.errors import StoreNotSupported

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.fetcher.store import Store
    from ovms_mp.model.store_url import StoreUrl

_EXTRAS = {"gs": "gcs", "az": "azure", "azfs": "azure"}


class StoreOpener:
    """Opens stores with the credentials of the environment. Called by several threads.

    PERF: a client of boto3 takes 60 ms of processor time to be made, and the listing of a small bucket 2 ms.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._lock = threading.Lock()
        self._open_ones: dict[tuple[str, str, str], Store] = {}

    def open(self, url: StoreUrl) -> Store:
        """The store of a URL, which stays open until it is forgotten.

        Raises:
            StoreNotSupported: Its library is not installed.
            StoreRefused: The credentials are malformed.
        """
        key = (url.scheme, url.endpoint, url.bucket)
        with self._lock:
            store = self._open_ones.get(key)
            if store is None:
                store = self._open_ones[key] = self._opened(url)
            return store

    def forget(self, url: StoreUrl) -> None:
        """Look for credentials anew the next time, as files with them may be replaced."""
        with self._lock:
            self._open_ones.pop((url.scheme, url.endpoint, url.bucket), None)

    def _opened(self, url: StoreUrl) -> Store:
        try:
            return self._open(url)
        except ImportError as error:
            extra = _EXTRAS.get(url.scheme)
            remedy = f"pip install 'ovms_mp[{extra}]'" if extra else "pip install boto3"
            raise StoreNotSupported(
                f"{url.scheme}:// needs the library {error.name}, which is not installed: {remedy}"
            ) from None

    def _open(self, url: StoreUrl) -> Store:
        if url.scheme == "s3":
            from ovms_mp.fetcher.s3 import S3Store

            return S3Store(url, self._environment)
        if url.scheme == "gs":
            from ovms_mp.fetcher.gcs import GcsStore

            return GcsStore(url, self._environment)
        if url.scheme == "az":
            from ovms_mp.fetcher.azure_blob import BlobStore

            return BlobStore(url, self._environment)
        if url.scheme == "azfs":
            from ovms_mp.fetcher.azure_files import FileStore

            return FileStore(url, self._environment)
        raise StoreNotSupported(f"{url.scheme}:// is not supported yet; copy the model to a local directory")
