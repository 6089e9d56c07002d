# SPDX-License-Identifier: Apache-2.0
"""The documentation's paths: each page is rendered when it is first asked for, in a thread, and kept."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ovms_mp.docs import PAGES
from ovms_mp.errors import ServiceNotFound
from ovms_mp.front.endpoints import Answer, Endpoint, FixedRoute

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.endpoints import RestRequest, Route
    from ovms_mp.front.served_protocol import HasService

BEGIN = "/docs/"
_NAME = "docs"
_MOVED = 308
_TYPE = "text/html; charset=utf-8"


def routes(front: HasService) -> Sequence[Route]:
    """The paths of this room."""
    pages = Pages()
    return (
        FixedRoute(BEGIN.removesuffix("/"), {"GET": Endpoint(pages.lead, _NAME, "ToDocs", is_open=True)}),
        PageRoute(Endpoint(pages.page, _NAME, "GetDocs", is_open=True, compresses=True)),
    )


class PageRoute:
    """``/docs/`` and what is below it."""

    template = f"{BEGIN}{{path:path}}"

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def find(self, verb: str, raw_path: bytes) -> Endpoint | None:
        """See :class:`~ovms_mp.front.endpoints.Route`."""
        return self._endpoint if verb == "GET" else None

    def allowed(self, raw_path: bytes) -> tuple[str, ...]:
        """See :class:`~ovms_mp.front.endpoints.Route`."""
        return ("GET", "HEAD")

    def operations(self) -> Iterable[tuple[str, str, Endpoint]]:
        """See :class:`~ovms_mp.front.endpoints.Route`."""
        return [("GET", f"{BEGIN}{{topic}}", self._endpoint)]


class Pages:
    """Handlers."""

    def __init__(self) -> None:
        self._rendering: dict[str, asyncio.Future[bytes]] = {}

    async def lead(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /docs``, which lacks the slash that links are relative to."""
        return Answer(b"", _MOVED, _TYPE, (("Location", "docs/"),))

    async def page(self, request: RestRequest, context: CallContext) -> Answer:
        """``GET /docs/`` and ``/docs/{topic}``.

        Raises:
            ServiceNotFound: There is no such page.
        """
        topic = request.raw_path.decode("latin-1").removeprefix(BEGIN)
        if topic and topic not in PAGES:
            raise ServiceNotFound(
                f"no page {request.path[:200]!r}; there are {BEGIN}{f', {BEGIN}'.join(PAGES)}"
            )
        if topic not in self._rendering:
            self._rendering[topic] = asyncio.ensure_future(asyncio.to_thread(_render, topic))
        try:
            body = await asyncio.shield(self._rendering[topic])
        except OSError:
            self._rendering.pop(topic, None)  # The next one may find the file again.
            raise
        from ovms_mp.front.docs.html import HEADERS

        return Answer(body, 200, _TYPE, HEADERS)


def _render(topic: str) -> bytes:
    # Imported when somebody reads: most servers are never asked.
    from ovms_mp.front.docs.html import index_html, page_html

    return page_html(topic) if topic else index_html()
