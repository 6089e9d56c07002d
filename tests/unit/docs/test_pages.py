# SPDX-License-Identifier: Apache-2.0
"""The pages for users: links lead somewhere, blocks are what they say, derived tables are the code's.

What a page shows as output is compared by ``integration/test_readme_examples.py``, for pages whose every block runs.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovms_mp.commands.completion import PARSERS
from ovms_mp.config.file import parse_config_file
from ovms_mp.docs import DIRECTORY, PAGES
from ovms_mp.errors import ConfigError
from ovms_mp.front.docs.html import slug
from tests.support.readme import RUNNABLE, blocks, runnable_pages
from tests.support.write_tables import TABLES, marked

if TYPE_CHECKING:
    from ovms_mp.config.argument_parser import Parser
    from tests.support.readme import Block

ROOT = Path(__file__).parents[3]
FILES = sorted(
    {
        ROOT / "README.md",
        *DIRECTORY.glob("*.md"),
        *(ROOT / "deploy").glob("*.md"),
        *(ROOT / ".github").glob("*.md"),
        ROOT / "ovms_mp" / "ARCHITECTURE.md",
        ROOT / "perf" / "RECORD.md",
    }
)
SHIPPED = sorted(DIRECTORY.glob("*.md"))
_FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^(?:\$ )?ovms_mp ((?:[^\n#\\]|\\\n)*)", re.MULTILINE)
BASH = "/bin/bash"
_LINES = 60
"""A page that is longer says something in a table or a picture."""


def by_name(path: Path) -> str:
    return path.stem


def all_blocks(page: Path) -> list[Block]:
    return blocks(page.read_text())


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
    text = page.read_text()
    if len(text.splitlines()) > _LINES:
        assert "\n|---" in text or "\n```\n" in text


@pytest.mark.parametrize("page", [ROOT / "README.md", *SHIPPED], ids=by_name)
def test_blocks_are_in_the_language_that_they_name(page: Path) -> None:
    for block in all_blocks(page):
        match block.language:
            case "sh":
                done = subprocess.run(
                    [BASH, "-n"], input=block.text, capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, f"{block.text}\n{done.stderr}"
            case "json":
                json.loads(block.text)
            case "toml":
                tomllib.loads(block.text)
            case "python":
                compile(block.text, page.name, "exec")
            case _:
                assert block.language in ("", "text", "yaml", "ini"), block.text


@pytest.mark.parametrize("page", [ROOT / "README.md", *SHIPPED], ids=by_name)
def test_commands_have_the_flags_that_there_are(page: Path) -> None:
    for block in all_blocks(page):
        if block.language != "sh":
            continue
        for found in _COMMAND.finditer(block.text):
            words = shlex.split(re.split(r"[|>;]|&&", found[1].replace("\\\n", " "))[0])
            command = words[0] if words and not words[0].startswith("-") else ""
            parser = PARSERS[command]()
            if command == "demo":
                parser.read_known(words[1:])
            elif (wrong := error_of(parser, words[1:] if command else words)) is not None:
                assert f"ovms_mp: error: {wrong}" in page.read_text(), words


def error_of(parser: Parser, words: list[str]) -> str | None:
    try:
        parser.read(words)
    except ConfigError as error:
        return error.message
    return None


@pytest.mark.parametrize("page", [ROOT / "README.md", *SHIPPED], ids=by_name)
def test_examples_of_configuration_files_are_right(page: Path, tmp_path: Path) -> None:
    for block in all_blocks(page):
        if block.language == "json" and "model_config_list" in block.text:
            path = tmp_path / "config.json"
            path.write_text(block.text)

            models, notices = parse_config_file(path, is_strict=True)
            assert models
            assert notices == ()


def test_some_pages_are_run() -> None:
    assert {page.name for page in runnable_pages(DIRECTORY)} >= {"TUTORIAL.md", "HOW_TO.md"}
    assert RUNNABLE not in (DIRECTORY / "SETTINGS.md").read_text()
