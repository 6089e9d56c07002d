# SPDX-License-Identifier: Apache-2.0
"""The keywords of a client, for type checkers; :class:`~ovms_mp.client.session.Options` says what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    import ssl

    from ovms_mp.client.retries import Retries


class ClientOptions(TypedDict, total=False):
    """All may be left out."""

    api: str | None
    timeout: float
    retries: Retries
    api_key: str | None
    headers: Mapping[str, str]
    ca: str | None
    certificate: tuple[str, str] | None
    tls: ssl.SSLContext | None
    shared_memory: str | None
    max_answer_bytes: int
    connections: int
