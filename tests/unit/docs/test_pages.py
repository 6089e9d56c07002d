# SPDX-License-Identifier: Apache-2.0
"""The pages for users: links lead somewhere, every page has its topic, derived tables are the code's.

Their blocks: ``test_blocks.py``.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from ovms_mp.commands.completion import PARSERS
from ovms_mp.docs import DIRECTORY, PAGES
from ovms_mp.front.docs.html import slug
from tests.support.write_tables import TABLES, marked

ROOT = Path(__file__).parents[3]
FILES = sorted(
    {
        *ROOT.glob("*.md"),
        *(
            page
            for place in ("ovms_mp", "deploy", "perf", ".github")
            for page in (ROOT / place).rglob("*.md")
        ),
    }
)
SHIPPED = sorted(DIRECTORY.glob("*.md"))
OURS = [page for page in SHIPPED if not page.name.startswith(("FROM_", "CONTAINERS"))]
"""Pages that do not name the flags of other programs, but for these."""
NOT_OURS = {"cacert", "cert", "cpus", "ipc", "key", "no-deps", "now"}
_INLINE = re.compile(r"`([^`]+)`")
_FLAG = re.compile(r"(?<!\S)--([a-z][a-z_-]*)")
_FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def by_name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize(("file", "mark"), TABLES, ids=" ".join)
def test_tables_are_those_of_the_code(file: str, mark: str) -> None:
    """``python -m tests.support.write_tables`` writes them."""
    assert marked((DIRECTORY / file).read_text(), mark) == TABLES[file, mark]()


def test_every_page_has_its_topic() -> None:
    assert {page.file for page in PAGES.values()} == {path.name for path in SHIPPED}
    for page in PAGES.values():
        assert page.text().startswith("# ")


@pytest.mark.parametrize("page", FILES, ids=by_name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _FENCED.sub("", page.read_text())):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", _FENCED.sub("", file.read_text()), re.MULTILINE)
            assert anchor in [slug(heading.replace("`", "")) for heading in headings], (
                f"{page.name} links {target}"
            )


@pytest.mark.parametrize("page", SHIPPED, ids=by_name)
def test_a_page_shows_something_besides_sentences(page: Path) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text())
    assert any(token.type == "table_open" or (token.type == "fence" and not token.info) for token in tokens)


@pytest.mark.parametrize("page", OURS, ids=by_name)
def test_flags_in_sentences_are_those_that_there_are(page: Path) -> None:
    known = {
        flag.removeprefix("--")
        for parser in PARSERS.values()
        for action in parser()._actions
        for flag in action.option_strings
    }
    named = {
        flag for code in _INLINE.findall(_FENCED.sub("", page.read_text())) for flag in _FLAG.findall(code)
    }

    assert {flag for flag in named if flag.replace("-", "_") not in known} <= NOT_OURS
