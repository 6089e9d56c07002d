# SPDX-License-Identifier: Apache-2.0
"""Chromium without a window, and what is watched while it shows a page."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Dialog, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_AXE = Path(__file__).parent / "axe"
_INSTALL_WITHIN_S = 120
_WATCH_TASKS = """
window.longTasks = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.longTasks.push(entry.duration);
}).observe({ entryTypes: ["longtask"] });
"""
_DROP = """async ([element, name, octets]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(octets)], name));
  element.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: data }));
}"""
_NUMBER = re.compile(r"\d[\d,.]*( (µs|ms|s|min|h|B|KiB|MiB|GiB|%)(?!\w))*|\u2013")


def has_browser() -> bool:
    """Whether there is one to open."""
    return any(map(shutil.which, _NAMES)) and importlib.util.find_spec("playwright") is not None


def open_browser() -> Iterator[Browser]:
    """A browser for a fixture; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    # Chromium's own sandbox is not for root, and containers have little /dev/shm.
    arguments = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


def axe_source(directory: Path) -> str:
    """The checks of axe-core; skips where npm or its registry is not there."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    shutil.copytree(_AXE, directory, dirs_exist_ok=True)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=_INSTALL_WITHIN_S, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not install axe-core within {_INSTALL_WITHIN_S} s")
    if done.returncode:
        pytest.skip(f"npm could not install axe-core: {done.stderr[-500:]}")
    return (directory / "node_modules/axe-core/axe.min.js").read_text()


class Watched:
    """A page of which all that goes wrong is kept."""

    def __init__(self, browser: Browser, origin: str, width: int = 1280, scheme: str = "light") -> None:
        self.origin = origin
        self.complaints: list[str] = []
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]  # a literal
        self.page.set_default_timeout(20_000)
        self.page.add_init_script(_WATCH_TASKS)
        self.page.on(
            "console", lambda told: self.complaints.append(told.text) if told.type == "error" else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", lambda request: self._look_at(request.url))

    def _dismiss(self, dialog: Dialog) -> None:
        self.complaints.append(dialog.message)
        dialog.dismiss()

    def _look_at(self, url: str) -> None:
        if not url.startswith((self.origin, "blob:", "data:")):
            self.complaints.append(f"asks another place: {url}")

    def show(self, address: str = "") -> None:
        """Open the page, and wait until it has seen a second go by."""
        self.page.goto(f"{self.origin}/ui/{address}")
        self.page.locator("#status.good, #status.bad").wait_for()
        self.page.locator("h1").wait_for(state="attached")

    def longest_task_ms(self) -> float:
        """The longest that the main thread was busy at a stretch; 0 where that was never over 50 ms."""
        longest: float = self.page.evaluate("Math.max(0, ...window.longTasks)")
        return longest

    def overflows(self) -> bool:
        """Whether the page scrolls sideways."""
        wide: bool = self.page.evaluate("document.documentElement.scrollWidth > innerWidth")
        return wide

    def outline(self, *selectors: str) -> str:
        """What a screen reader is told of these parts, with ``N`` for whatever is counted or measured."""
        parts = [self.page.locator(selector).first.aria_snapshot() for selector in selectors]
        # Between two tries a version that has failed is tried again, or is being tried.
        return _NUMBER.sub("N", "\n".join(parts)).replace(" (it is tried again)", "") + "\n"

    def violations(self, axe: str) -> list[str]:
        """What axe finds."""
        self.page.evaluate(axe)
        found: dict[str, Any] = self.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        return [
            f"{violation['id']}: {[node['target'] for node in violation['nodes'][:3]]}"
            for violation in found["violations"]
        ]

    def close(self) -> None:
        """Close it."""
        self.page.close()


def drop(page: Page, selector: str, file: Path) -> None:
    """Drag a file onto an element of a page."""
    page.evaluate(_DROP, [page.locator(selector).element_handle(), file.name, list(file.read_bytes())])


@contextlib.contextmanager
def watched(browser: Browser, origin: str, width: int = 1280, scheme: str = "light") -> Iterator[Watched]:
    """A page that must have had nothing to complain of when it is closed."""
    page = Watched(browser, origin, width, scheme)
    try:
        yield page
        assert page.complaints == []
    finally:
        page.close()
