# SPDX-License-Identifier: Apache-2.0
"""S3 and what speaks its protocol, by boto3.

Credentials are found as by every program that uses boto3: variables, AWS_PROFILE, roles of the machine or container,
web identity. Where there are none, requests are not signed, which public buckets allow. Beside that the variables of
OVMS: AWS_REGION, and S3_ENDPOINT as HOST:PORT or URL.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import boto3
import urllib3.exceptions
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.exceptions import (
    ConnectionError as EndpointError,
)

from ovms_mp.errors import OvmsError, StoreChanged, StoreNotFound, StoreRefused, StoreUnavailable
from ovms_mp.fetcher.store import StoredObject

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ovms_mp.model.store_url import StoreUrl

_CONNECT_WITHIN_S = 5
_READ_WITHIN_S = 15
_ATTEMPTS = 2
_MOST_KEPT = 64
"""Connections that are kept for the next request; all models of a bucket share them."""
_CHUNK_BYTES = 256 << 10
_DEFAULT_REGION = "us-east-1"
_IS_MD5 = re.compile(r"[0-9a-f]{32}")
_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, ProfileNotFound, CredentialRetrievalError)
_REFUSALS = frozenset(
    {
        "403",
        "AccessDenied",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "Forbidden",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
_OTHER_OBJECT = frozenset({"404", "412", "NoSuchKey", "PreconditionFailed", "InvalidRange", "416"})
_OTHER_REGION = frozenset(
    {"301", "PermanentRedirect", "IllegalLocationConstraintException", "TemporaryRedirect"}
)


class S3Store:
    """One bucket."""

    def __init__(self, url: StoreUrl, environment: Mapping[str, str]) -> None:
        """Look for credentials; nothing is asked of the store yet.

        Args:
            url: Names the bucket, and maybe the endpoint.
            environment: Variables; boto3 reads its own ones itself.

        Raises:
            StoreRefused: The credentials cannot be read.
        """
        self._bucket = url.bucket
        self._has_no_md5: set[str] = set()
        endpoint = url.endpoint or environment.get("S3_ENDPOINT", "").strip().rstrip("/")
        if endpoint and "://" not in endpoint:
            endpoint = f"http://{endpoint}"  # As OVMS does.
        try:
            session = boto3.session.Session(region_name=environment.get("AWS_REGION") or None)
            has_credentials = session.get_credentials() is not None
            self._region = session.region_name or _DEFAULT_REGION
            self._client = session.client(
                "s3",
                region_name=self._region,
                endpoint_url=endpoint or None,
                config=_client_config(has_credentials=has_credentials, has_endpoint=bool(endpoint)),
            )
        except (BotoCoreError, ValueError) as error:
            raise StoreRefused(f"the settings for S3 cannot be used: {error}") from None

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """See :class:`~ovms_mp.fetcher.store.Store`."""
        pages = iter(
            self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        )
        while True:
            try:
                page = next(pages, None)
            except (ClientError, BotoCoreError, urllib3.exceptions.HTTPError, OSError) as error:
                raise self._failure(error) from None
            if page is None:
                return
            for entry in page.get("Contents", ()):
                key = str(entry["Key"])
                yield StoredObject(key, key, int(entry["Size"]), str(entry["ETag"]).strip('"'))

    def read(self, found: StoredObject, start: int, stop: int) -> Iterator[bytes]:
        """See :class:`~ovms_mp.fetcher.store.Store`."""
        try:
            answer = self._client.get_object(
                Bucket=self._bucket,
                Key=found.key,
                Range=f"bytes={start}-{stop - 1}",
                IfMatch=f'"{found.tag}"',
            )
            if answer.get("SSECustomerAlgorithm") or str(answer.get("ServerSideEncryption", "")).startswith(
                "aws:kms"
            ):
                self._has_no_md5.add(found.key)
            body = answer["Body"]
            try:
                yield from body.iter_chunks(_CHUNK_BYTES)
            finally:
                body.close()
        except (ClientError, BotoCoreError, urllib3.exceptions.HTTPError, OSError) as error:
            raise self._failure(error, found) from None

    def md5_of(self, found: StoredObject) -> str:
        """See :class:`~ovms_mp.fetcher.store.Store`; an ETag is one unless it was uploaded in parts, or encrypted."""
        is_md5 = _IS_MD5.fullmatch(found.tag) and found.key not in self._has_no_md5
        return found.tag if is_md5 else ""

    def _failure(self, error: Exception, found: StoredObject | None = None) -> OvmsError:
        """An exception of the library as one of ours."""
        if isinstance(error, ClientError):
            return self._refusal(error, found)
        if isinstance(error, _CREDENTIALS):
            return StoreRefused(f"the credentials for S3 cannot be used: {error}")
        if isinstance(error, BotoCoreError) and not isinstance(error, (HTTPClientError, EndpointError)):
            return StoreUnavailable(f"bucket {self._bucket}: {error}")
        return StoreUnavailable(f"bucket {self._bucket} cannot be reached: {error}")

    def _refusal(self, error: ClientError, found: StoredObject | None) -> OvmsError:
        """What the store answered, as one of ours."""
        answer: Mapping[str, Any] = error.response
        code = str(answer.get("Error", {}).get("Code", ""))
        text = str(answer.get("Error", {}).get("Message", "")) or code
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = answer.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region")
        if (
            region
            and region != self._region
            and (code in _OTHER_REGION or code in _REFUSALS or code == "400")
        ):
            return StoreRefused(
                f"bucket {self._bucket} is in the region {region}, not {self._region}; set AWS_REGION={region}"
            )
        if code == "NoSuchBucket":
            return StoreNotFound(f"bucket {self._bucket} does not exist")
        if found is not None and code in _OTHER_OBJECT:
            return StoreChanged(f"{found.name} was replaced or removed while it was downloaded")
        if code in _REFUSALS or code == "401":
            return StoreRefused(
                f"bucket {self._bucket}: {code}: {text}; check the credentials and their rights"
            )
        if code == "404":
            return StoreNotFound(f"bucket {self._bucket} does not exist")
        return StoreUnavailable(f"bucket {self._bucket}: {code}: {text}")


def _client_config(*, has_credentials: bool, has_endpoint: bool) -> Config:
    return Config(
        connect_timeout=_CONNECT_WITHIN_S,
        read_timeout=_READ_WITHIN_S,
        retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
        max_pool_connections=_MOST_KEPT,
        # Ranges have no checksum of their own; files are verified as a whole.
        response_checksum_validation="when_required",
        # Other stores rarely have a DNS name for each bucket.
        s3={"addressing_style": "path"} if has_endpoint else {},
        **({} if has_credentials else {"signature_version": UNSIGNED}),
    )
