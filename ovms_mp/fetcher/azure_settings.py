# SPDX-License-Identifier: Apache-2.0
"""Which account and credential of Azure Storage the environment names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from azure.core.exceptions import AzureError

from ovms_mp.errors import StoreRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.model.store_url import StoreUrl

_OPTIONS: Mapping[str, Any] = {
    "connection_timeout": 5,
    "read_timeout": 15,
    "retry_total": 0,  # Who downloads tries again.
    "max_single_get_size": 1 << 20,
    "max_chunk_get_size": 1 << 20,
}
_ACCOUNTS = ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME")
_IDENTITIES = ("AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE", "IDENTITY_ENDPOINT")


def opened(
    client: Any, url: StoreUrl, environment: Mapping[str, str], service: str, **identity_options: str
) -> Any:
    """A client of the library; nothing is asked of the store yet.

    Args:
        client: Its class.
        url: Names the container or share.
        environment: Variables: a connection string, or an account with or without a credential.
        service: ``blob`` or ``file``.
        identity_options: What the client takes besides where there is no connection string.

    Raises:
        StoreRefused: The credentials cannot be read.
    """
    try:
        if connection := environment.get("AZURE_STORAGE_CONNECTION_STRING"):
            return client.from_connection_string(connection, url.bucket, **_OPTIONS)
        account = _account_url(environment, service)
        return client(
            account, url.bucket, credential=_credential(environment), **identity_options, **_OPTIONS
        )
    except (ValueError, AzureError) as error:
        raise StoreRefused(f"the settings for Azure cannot be used: {error}") from None


def _account_url(environment: Mapping[str, str], service: str) -> str:
    """The URL of the account's service ``blob`` or ``file``, where no connection string says it.

    Raises:
        StoreRefused: Nothing names the account.
    """
    account = next((environment[name] for name in _ACCOUNTS if environment.get(name)), "")
    if not account:
        raise StoreRefused(
            "nothing says which storage account to use; set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT"
        )
    return account if "://" in account else f"https://{account}.{service}.core.windows.net"


def _credential(environment: Mapping[str, str]) -> Any:
    """The library's credential: an account's key, a SAS, an identity, or None for public containers."""
    if key := environment.get("AZURE_STORAGE_KEY"):
        return key
    if sas := environment.get("AZURE_STORAGE_SAS_TOKEN"):
        from azure.core.credentials import AzureSasCredential

        return AzureSasCredential(sas.lstrip("?"))
    if any(environment.get(name) for name in _IDENTITIES):
        from azure.identity import DefaultAzureCredential

        return DefaultAzureCredential()
    return None
