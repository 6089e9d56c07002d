# SPDX-License-Identifier: Apache-2.0
"""The page's files: all are there, nothing in them comes from elsewhere, and no text of theirs is made markup."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ovms_mp.front.page import static_files
from ovms_mp.front.page.static_files import BEGIN, file_routes

DIRECTORY = Path(static_files.__file__).parent / "static"
FILES = sorted(DIRECTORY.iterdir())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|new Function|srcdoc|javascript:"
)
EXPORT = re.compile(r"export (?:async )?(?:function|class|const) (\w+)")


def test_every_file_has_a_route() -> None:
    templates = {route.template for route in file_routes("page")}

    assert templates == {BEGIN, *(BEGIN + path.name for path in FILES if path.name != "index.html")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_is_asked_of_another_place(path: Path) -> None:
    links = set(re.findall(r"https?://[^\s\"'`)]+", path.read_text()))

    assert {link for link in links if "www.w3.org/" not in link and "github.com/kserve/" not in link} == set()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_text_becomes_markup(path: Path) -> None:
    assert MARKUP.findall(path.read_text()) == []
    assert len(path.read_text().splitlines()) < 400


def test_what_scripts_import_is_there() -> None:
    names = {path.name for path in FILES}
    for path in SCRIPTS:
        text = path.read_text()
        for imported, source in re.findall(r"import \{([^}]*)\} from \"\./([^\"]+)\"", text):
            assert source in names, path.name
            exported = set(EXPORT.findall((DIRECTORY / source).read_text()))
            wanted = {name.partition(" as ")[0].strip() for name in imported.split(",")}
            assert wanted <= exported, f"{path.name}: {source}"


def test_markup_has_nothing_inline() -> None:
    text = (DIRECTORY / "index.html").read_text()

    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text)
