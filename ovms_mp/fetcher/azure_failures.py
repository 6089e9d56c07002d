# SPDX-License-Identifier: Apache-2.0
"""Exceptions of Microsoft's libraries as ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceModifiedError,
    ResourceNotFoundError,
)

from ovms_mp.errors import OvmsError, StoreChanged, StoreNotFound, StoreRefused, StoreUnavailable

if TYPE_CHECKING:
    from ovms_mp.fetcher.store import StoredObject

_NO_RIGHTS = (401, 403)
_OUT_OF_RANGE = 416


def failure(error: Exception, where: str, found: StoredObject | None = None) -> OvmsError:
    """An exception of the library as one of ours.

    Args:
        error: What was raised.
        where: Container or share, for people.
        found: What was being read, if anything.
    """
    status = error.status_code if isinstance(error, HttpResponseError) else None
    is_gone = isinstance(error, (ResourceNotFoundError, ResourceModifiedError)) or status == _OUT_OF_RANGE
    if found is not None and is_gone:
        return StoreChanged(f"{found.name} was replaced or removed while it was downloaded")
    if isinstance(error, ResourceNotFoundError):
        return StoreNotFound(f"{where} does not exist")
    text = str(error).partition("\n")[0]
    if isinstance(error, ClientAuthenticationError) or status in _NO_RIGHTS:
        return StoreRefused(f"{where}: {text}; check the credentials and their rights")
    if status is not None:
        return StoreUnavailable(f"{where}: {status}: {text}")
    return StoreUnavailable(f"{where} cannot be reached: {text}")
