# SPDX-License-Identifier: Apache-2.0
"""Keys: a call that needs one is refused before its body is read.

A front knows keys by their SHA-256 only, as the manager has read them, and compares digests: how long that takes tells
nothing of a key. Whatever is not declared to be open needs a key, also what there is not: without one all paths that do
not exist look like those that do.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, NoReturn

from ovms_mp.errors import PermissionRefused, Unauthenticated
from ovms_mp.front.access.refusals import NOT_ADMIN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ovms_mp.front.access.refusals import KeyRefusals
    from ovms_mp.front.call_context import CallContext
    from ovms_mp.wire.records import KeyRecord

_HEADER = "authorization"
_SCHEME = "bearer"
_BUCKET_BYTES = 8
_LONGEST_VALUE = 1024
_HOW = "send `authorization: Bearer KEY`"


class Keys:
    """The keys that clients may send, and the check that asks for them."""

    def __init__(self, *, needs_key: bool, needs_admin_key: bool, refusals: KeyRefusals) -> None:
        """Know no key yet, and so refuse what needs one.

        Args:
            needs_key: Whether any call that is not open needs a key.
            needs_admin_key: Whether calls that change the server need an administrator's.
            refusals: Says in the log that calls are refused.
        """
        self._needs_key = needs_key
        self._needs_admin_key = needs_admin_key
        self._refusals = refusals
        self._buckets: dict[bytes, list[KeyRecord]] = {}

    def replace(self, keys: Iterable[KeyRecord]) -> None:
        """Take these instead of those that were known."""
        buckets: dict[bytes, list[KeyRecord]] = {}
        for key in keys:
            buckets.setdefault(key.digest[:_BUCKET_BYTES], []).append(key)
        self._buckets = buckets

    def check(self, context: CallContext) -> None:
        """Let a call in that needs no key or has the right one, whose name it gets.

        Raises:
            Unauthenticated: It has none, or none that is known.
            PermissionRefused: It needs another one.
        """
        needs_admin_key = context.changes_server and self._needs_admin_key
        if context.is_open and self._needs_key:
            context.load_format = ""  # Probes are told what they ask for, and nothing else of the server.
        if context.is_open or not (self._needs_key or needs_admin_key):
            return
        values = [value for name, value in context.metadata if name == _HEADER]
        if not values:
            self._refuse(context, "missing", f"this call needs an API key; {_HOW}", "")
        scheme, _, key = str(values[0]).strip().partition(" ")
        if len(values) > 1 or scheme.lower() != _SCHEME or len(key) > _LONGEST_VALUE:
            self._refuse(context, "malformed", f"the authorization is no API key; {_HOW}", "invalid_request")
        found = self._find(hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest())
        if found is None:
            self._refuse(
                context, "unknown", "the API key is not one that this server accepts", "invalid_token"
            )
        if needs_admin_key and not found.is_admin:
            context.caller = found.name
            context.reply_with("www-authenticate", 'Bearer error="insufficient_scope"')
            self._refusals.note(context, NOT_ADMIN)
            raise PermissionRefused(
                "this call changes the server and needs an administrator's API key (--admin_api_key_file)"
            )
        context.caller = found.name

    def _find(self, digest: bytes) -> KeyRecord | None:
        """A key's record; an administrator's before others'."""
        found: KeyRecord | None = None
        for key in self._buckets.get(digest[:_BUCKET_BYTES], ()):
            # SAFETY: all of the digest is compared; the bucket tells of a key what its SHA-256 begins with.
            if hmac.compare_digest(key.digest, digest) and (found is None or key.is_admin):
                found = key
        return found

    def _refuse(self, context: CallContext, reason: str, text: str, error: str) -> NoReturn:
        context.reply_with("www-authenticate", f'Bearer error="{error}"' if error else "Bearer")
        self._refusals.note(context, reason)
        raise Unauthenticated(text)
