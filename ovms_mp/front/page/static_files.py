# SPDX-License-Identifier: Apache-2.0
"""The page's own files, as they were installed: read once, never from a path that a client names.

Scripts and styles come from this server only, nothing is inline, and text never becomes markup: whatever a model's
name or an error's text holds, it stays text.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ovms_mp.front.endpoints import Answer, Endpoint, FixedRoute

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.endpoints import RestRequest

BEGIN = "/ui/"
INDEX = "index.html"
_DIRECTORY = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = (
    # Always asked for again, and answered with 304: a new release shows at once, and no name needs a digest in it.
    ("Cache-Control", "no-cache"),
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)


class _File:
    """One file, in memory."""

    def __init__(self, path: Path) -> None:
        self._body = path.read_bytes()
        self._type = _TYPES[path.suffix]
        # Weak, as the body may be compressed on its way.
        self._tag = f'W/"{hashlib.sha256(self._body).hexdigest()[:16]}"'
        self._headers = (*_HEADERS, ("ETag", self._tag))

    async def answer(self, request: RestRequest, context: CallContext) -> Answer:
        """The file, or that it is still the one that the browser has."""
        known = [tag.strip() for tag in (request.header("If-None-Match") or "").split(",")]
        if self._tag in known or "*" in known:
            return Answer(b"", 304, self._type, self._headers)
        return Answer(self._body, 200, self._type, self._headers)


class _FileRoute(FixedRoute):
    """The page or a file beside it, which programs need not be told of."""

    def operations(self) -> Iterable[tuple[str, str, Endpoint]]:
        """None."""
        return ()


def file_routes(protocol: str) -> Sequence[FixedRoute]:
    """The page at :data:`BEGIN`, and its files below that.

    Args:
        protocol: Whose endpoints they are.
    """

    def endpoint(path: Path) -> Endpoint:
        return Endpoint(_File(path).answer, protocol, "PageFile", is_open=True, compresses=True)

    others = [path for path in sorted(_DIRECTORY.iterdir()) if path.suffix in _TYPES and path.name != INDEX]
    return (
        _FileRoute(BEGIN, {"GET": endpoint(_DIRECTORY / INDEX)}),
        *(_FileRoute(BEGIN + path.name, {"GET": endpoint(path)}) for path in others),
    )
