# SPDX-License-Identifier: Apache-2.0
"""Google Cloud Storage, by Google's library.

Credentials are Google's application default ones: the file that GOOGLE_APPLICATION_CREDENTIALS names (a service
account, or workload identity federation), what gcloud left, or the machine's. Where there are none, requests have none,
which public buckets allow. STORAGE_EMULATOR_HOST names another endpoint, which is asked without credentials.
"""

from __future__ import annotations

import base64
import io
import os
from typing import TYPE_CHECKING, Any

import google.auth
import requests
import urllib3.exceptions
from google.api_core.exceptions import (
    Forbidden,
    GoogleAPICallError,
    NotFound,
    PreconditionFailed,
    RequestRangeNotSatisfiable,
    Unauthorized,
)
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.cloud import storage

from ovms_mp.errors import OvmsError, StoreChanged, StoreNotFound, StoreRefused, StoreUnavailable
from ovms_mp.fetcher.store import StoredObject

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ovms_mp.model.store_url import StoreUrl

_TIMEOUT_S = (5.0, 15.0)
"""To connect, and between two pieces of an answer."""
_REQUEST_BYTES = 4 << 20
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
_PROJECT = "ovms_mp"
_LIBRARY_SETTINGS = {
    # Reading needs no project. Without a name of one the library asks another service of Google for it, which is not
    # within reach of every cluster.
    "GOOGLE_CLOUD_PROJECT": _PROJECT,
    # For traces that nobody makes here, a thread would ask about the bucket itself, which takes a right of its own.
    "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA": "true",
}
"""Variables that only its library can be told these things by; what the user has set stands."""
_FIELDS = "items(name,size,generation,md5Hash),nextPageToken"
_FAILURES = (
    GoogleAPICallError,
    GoogleAuthError,
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    OSError,
)


class GcsStore:
    """One bucket."""

    def __init__(self, url: StoreUrl, environment: Mapping[str, str]) -> None:
        """Look for credentials; nothing is asked of the store yet.

        Args:
            url: Names the bucket.
            environment: Variables; the library reads its own ones itself.

        Raises:
            StoreRefused: The credentials cannot be read.
        """
        self._name = url.bucket
        self._client = _client(environment)
        self._bucket = self._client.bucket(url.bucket)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """See :class:`~ovms_mp.fetcher.store.Store`."""
        try:
            for blob in self._client.list_blobs(
                self._name, prefix=prefix or None, fields=_FIELDS, timeout=_TIMEOUT_S, retry=None
            ):
                # Composed objects have none.
                md5 = base64.b64decode(blob.md5_hash).hex() if blob.md5_hash else ""
                key, size = str(blob.name), int(blob.size or 0)
                yield StoredObject(key, key, size, str(blob.generation), md5)
        except _FAILURES as error:
            raise self._failure(error) from None

    def read(self, found: StoredObject, start: int, stop: int) -> Iterator[bytes]:
        """See :class:`~ovms_mp.fetcher.store.Store`."""
        blob = self._bucket.blob(found.key)
        for position in range(start, stop, _REQUEST_BYTES):
            received = io.BytesIO()
            try:
                blob.download_to_file(
                    received,
                    start=position,
                    end=min(stop, position + _REQUEST_BYTES) - 1,
                    raw_download=True,
                    if_generation_match=int(found.tag),
                    checksum=None,
                    timeout=_TIMEOUT_S,
                    retry=None,
                )
            except _FAILURES as error:
                yield received.getvalue()  # What came before it broke off need not come again.
                raise self._failure(error, found) from None
            yield received.getvalue()

    def md5_of(self, found: StoredObject) -> str:
        """See :class:`~ovms_mp.fetcher.store.Store`."""
        return found.md5

    def _failure(self, error: Exception, found: StoredObject | None = None) -> OvmsError:
        """An exception of the library as one of ours."""
        where = f"bucket {self._name}"
        if found is not None and isinstance(
            error, (NotFound, PreconditionFailed, RequestRangeNotSatisfiable)
        ):
            return StoreChanged(f"{found.name} was replaced or removed while it was downloaded")
        if isinstance(error, NotFound):
            return StoreNotFound(f"{where} does not exist")
        if isinstance(error, (Unauthorized, Forbidden)):
            return StoreRefused(f"{where}: {error.message}; check the credentials and their rights")
        if isinstance(error, GoogleAuthError) and not isinstance(error, TransportError):
            return StoreRefused(f"{where}: the credentials cannot be used: {error}")
        if isinstance(error, GoogleAPICallError):
            return StoreUnavailable(f"{where}: {error.code}: {error.message}")
        return StoreUnavailable(f"{where} cannot be reached: {error}")


def _client(environment: Mapping[str, str]) -> Any:
    """The library's client, which has no types.

    Raises:
        StoreRefused: The credentials cannot be read.
    """
    if environment.get("STORAGE_EMULATOR_HOST"):
        return storage.Client.create_anonymous_client()
    for name, value in _LIBRARY_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        credentials, _ = google.auth.default(scopes=[_SCOPE])
    except DefaultCredentialsError as error:
        if environment.get("GOOGLE_APPLICATION_CREDENTIALS"):
            raise StoreRefused(f"GOOGLE_APPLICATION_CREDENTIALS cannot be used: {error}") from None
        return storage.Client.create_anonymous_client()
    return storage.Client(project=_PROJECT, credentials=credentials)
