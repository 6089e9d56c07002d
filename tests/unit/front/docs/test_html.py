# SPDX-License-Identifier: Apache-2.0
"""The documentation for browsers: what is rendered, and what its paths answer."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ovms_mp.docs import PAGES
from ovms_mp.errors import ServiceNotFound
from ovms_mp.front.docs.html import HEADERS, index_html, page_html, slug
from ovms_mp.front.docs.rest import routes
from ovms_mp.front.protocols import all_routes


def answer(path: str) -> Any:
    (to_docs, pages) = routes(cast(Any, None))
    endpoint = to_docs.find("GET", b"") if path == "/docs" else pages.find("GET", path.encode())
    assert endpoint is not None
    request = SimpleNamespace(raw_path=path.encode(), path=path, verb="GET")

    async def ask() -> Any:
        first = await endpoint.handler(cast(Any, request), cast(Any, None))
        assert await endpoint.handler(cast(Any, request), cast(Any, None)) == first
        return first

    return asyncio.run(ask())


@pytest.mark.parametrize("topic", PAGES)
def test_links_of_a_page_lead_to_what_is_served(topic: str) -> None:
    text = page_html(topic).decode()

    anchors = {name: set(re.findall(r'id="([^"]+)"', page_html(name).decode())) for name in PAGES}
    for address in re.findall(r'href="([^"]+)"', text):
        if address.startswith(("https://", "http://")) or address == "./":
            continue
        page, _, anchor = address.partition("#")
        assert page in PAGES or not page, address
        if anchor:
            assert anchor in anchors[page or topic], address


def test_a_page_has_nothing_from_elsewhere() -> None:
    for topic in PAGES:
        text = page_html(topic).decode()
        assert not re.search(r"<(?:script|img|link|iframe)|<[^>]*\s(?:src|on\w+|style)=|@import|url\(", text)
        assert text.count("<h1") == 1
        assert "<!-- " not in text


def test_the_style_is_the_one_that_the_policy_allows() -> None:
    style = re.search(r"<style>(.*?)</style>", index_html().decode(), re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in dict(HEADERS)["Content-Security-Policy"]
    assert "default-src 'none'" in dict(HEADERS)["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("heading", "expected"),
    [("A b", "a-b"), ("What's `x_y`?", "whats-x_y"), ("1. Do-it, now", "1-do-it-now")],
)
def test_anchors_are_those_of_github(heading: str, expected: str) -> None:
    assert slug(heading) == expected


def test_paths() -> None:
    moved = answer("/docs")
    assert (moved.status, moved.headers) == (308, (("Location", "docs/"),))
    assert answer("/docs/").body == index_html()
    assert answer("/docs/settings").body == page_html("settings")
    for path in ("/docs/SETTINGS.md", "/docs/../setup.cfg", "/docs/%2e%2e", "/docs/settings/"):
        with pytest.raises(ServiceNotFound, match="there are /docs/tutorial"):
            answer(path)


def test_the_pages_are_switched_off_by_their_name() -> None:
    front = cast(Any, SimpleNamespace())
    with_pages = {route.template for route in all_routes(front)}

    assert with_pages - {route.template for route in all_routes(front, without=("docs",))} == {
        "/docs",
        "/docs/{path:path}",
    }
