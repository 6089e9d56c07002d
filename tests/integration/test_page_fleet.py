# SPDX-License-Identifier: Apache-2.0
"""The live page of a server that is part of a fleet: what it shows of that, to whom, and what it says of bad news.

What screen readers are told is kept in ``tests/data/page``; ``--update-page`` writes it anew.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal, NamedTuple

import pytest

from tests.support import rest_client
from tests.support.browser import Watched, axe_source, open_browser, watched
from tests.support.fleet_page import HOSTILE, status, tell
from tests.support.page import compare, readable
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

    from tests.support.models import ModelZoo

pytestmark = pytest.mark.replaces_processes  # Chromium's own come and go.

KEY = "user-key-0123456789abcdef"
SECTION = "section:has(#fleet-title)"
ROWS = ".servers tbody tr"


class Place(NamedTuple):
    """A server with a key, and where it learns of its fleet."""

    server: Server
    file: Path


@pytest.fixture(scope="module")
def place(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("fleet-page")
    keys, file = directory / "keys", directory / "fleet.json"
    keys.write_text(f"{KEY}\n")
    keys.chmod(0o600)
    arguments = [
        *("model", "--model_name", "tiny", "--model_path", str(zoo.base_path("tiny"))),
        *("--api_key_file", str(keys), "--fleet_file", str(file)),
    ]
    with Server(arguments, directory / "log", is_patient=False) as server:
        yield Place(server, file)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from open_browser()


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    return axe_source(tmp_path_factory.mktemp("axe"))


@contextlib.contextmanager
def opened(
    browser: Browser, place: Place, width: int = 1280, scheme: Literal["light", "dark"] = "light"
) -> Iterator[Watched]:
    """The page, by a browser that has the key."""
    with watched(browser, f"http://127.0.0.1:{place.server.rest_port}", width, scheme) as shown:
        shown.page.set_extra_http_headers({"Authorization": f"Bearer {KEY}"})
        shown.show()
        yield shown


def test_nothing_of_the_fleet_is_told_without_the_key(place: Place) -> None:
    tell(place.file, status(3))
    answers = {
        path: rest_client.request(place.server.rest_port, "GET", path)
        for path in ("/ui/", "/ui/events", "/ui/fleet.json", "/ui/fleet.js", "/v1/status", "/metrics")
    }

    assert answers["/ui/events"].status == 401
    assert not [
        path for path, answer in answers.items() if b"sightings" in answer.body or b"10.0.0." in answer.body
    ]


def test_three_servers(browser: Browser, place: Place, axe: str, request: pytest.FixtureRequest) -> None:
    tell(place.file, status(3))
    with opened(browser, place) as shown:
        section = shown.page.locator(SECTION)
        shown.page.locator(ROWS).nth(2).wait_for()

        assert shown.violations(axe) == []
        assert not shown.overflows()
        assert readable(shown.page, ROWS) == 3
        assert shown.page.locator("img").count() == 0
        assert HOSTILE in section.inner_text()
        compare("fleet", lambda: shown.outline(SECTION), request)

        # It is live; and what is old, or cannot be read, is said and shown as such.
        tell(place.file, status(5))
        shown.page.locator(ROWS).nth(4).wait_for()
        tell(place.file, status(2), age_s=90)
        section.get_by_text("as of 1 min ago: the fleet's controller has told this server nothing").wait_for()
        place.file.write_text("{")
        section.get_by_text("What the fleet tells cannot be read").wait_for()

        assert shown.page.locator(ROWS).count() == 2
        assert place.server.log().count("event=fleet_status_refused") == 1


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (360, "light")])
def test_thirty_servers_stay_readable(
    browser: Browser, place: Place, axe: str, width: int, scheme: Literal["light", "dark"]
) -> None:
    tell(place.file, status(30, models=12))
    with opened(browser, place, width, scheme) as shown:
        shown.page.locator(ROWS).nth(29).wait_for()

        assert shown.violations(axe) == []
        assert not shown.overflows()
        assert readable(shown.page, ROWS) == 30
        models = shown.page.locator(ROWS).first.locator("details")
        models.locator("summary").click()
        models.get_by_text("model-11").wait_for()
