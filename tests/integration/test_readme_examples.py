# SPDX-License-Identifier: Apache-2.0
"""The examples of the README and of all pages print what is shown; ``tests/support/reader.py`` runs them.

Pages with programs of others' clients: ``tests/clients/test_pages.py``. What the tutorial has its reader do on the
live page is done in a Chromium, where there is one.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from ovms_mp.docs import DIRECTORY, PAGES
from tests.support.browser import drop, has_browser, open_browser
from tests.support.reader import ROOT, Reader
from tests.support.readme import Block, blocks

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser

TUTORIAL = DIRECTORY / PAGES["tutorial"].file


def is_run_here(path: Path) -> bool:
    """Whether a page has programs, none of which needs another environment."""
    programs = [block for block in blocks(path.read_text()) if block.language in ("sh", "python")]
    return any(not block.not_run for block in programs) and "clients" not in {
        block.run_in for block in programs
    }


RUN = [
    path
    for path in (ROOT / "README.md", *sorted(DIRECTORY.glob("*.md")))
    if path != TUTORIAL and is_run_here(path)
]
ORANGE = (255, 128, 0)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_the_examples_print_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    with ExitStack() as cleanup:
        Reader(tmp_path, cleanup).follow(blocks(page.read_text()))


@pytest.mark.timeout(180)
@pytest.mark.replaces_processes  # Chromium's own come and go.
def test_the_tutorial_does_what_it_shows(tmp_path: Path) -> None:
    def on_the_page(rest_port: str) -> None:
        for browser in open_browser() if has_browser() else ():
            drop_the_image(browser, rest_port, tmp_path / "orange.jpg")

    with ExitStack() as cleanup:
        Reader(tmp_path, cleanup).follow(blocks(TUTORIAL.read_text()), at_the_end=on_the_page)


def drop_the_image(browser: Browser, rest_port: str, image: Path) -> None:
    """Do what the table of the step about the page says."""
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{rest_port}/")
    page.get_by_role("link", name="colours").first.click()
    page.get_by_label("Values").first.select_option("image")
    drop(page, ".drop", image)
    page.get_by_text(image.name).wait_for()
    page.get_by_label("Colours").select_option("BGR")
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator(".waterfall").wait_for()

    rows = [row.split("\t") for row in page.locator(".highest tbody tr").all_inner_texts()]
    found = {int(row[0]): float(row[-1]) for row in rows}
    assert all(abs(found[channel] - value) <= 3 for channel, value in enumerate(ORANGE)), found


def test_a_changed_output_is_noticed(tmp_path: Path) -> None:
    command = Block("sh", "ovms_mp demo --export demo\n", "", "")
    with ExitStack() as cleanup, pytest.raises(AssertionError, match="the page shows"):
        Reader(tmp_path, cleanup).follow([command, Block("text", "demo/digits.json\n", "", "sh")])
