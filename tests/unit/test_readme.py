# SPDX-License-Identifier: Apache-2.0
"""The README and the pages beside it say what the code does. Its examples: ``integration/test_readme_examples.py``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ovms_mp.codes import ExitCode
from ovms_mp.config.declared import settings_table
from ovms_mp.config.file import parse_config_file
from ovms_mp.config.model_keys import model_settings_table
from tests.support.readme import blocks

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SETTINGS = ROOT / "deploy" / "SETTINGS.md"
OPERATING = ROOT / "deploy" / "OPERATING.md"
PAGES = (README, SETTINGS, OPERATING)
MOST_LINES = 220


@pytest.mark.parametrize(
    ("mark", "declared"), [("settings", settings_table()), ("model settings", model_settings_table())]
)
def test_tables_are_the_declared_ones(mark: str, declared: str) -> None:
    text = SETTINGS.read_text()
    table = text.partition(f"<!-- {mark} -->")[2].partition(f"<!-- /{mark} -->")[0].strip()
    assert table == declared


@pytest.mark.parametrize("page", [README, OPERATING], ids=lambda page: page.stem)
def test_examples_of_configuration_files_are_right(page: Path, tmp_path: Path) -> None:
    examples = [block.text for block in blocks(page.read_text()) if "model_config_list" in block.text]
    assert examples
    for example in examples:
        path = tmp_path / "config.json"
        path.write_text(example)

        models, notices = parse_config_file(path, is_strict=True)
        assert len(models) == 3
        assert notices == ()


def test_commands_of_newcomers_are_there_word_for_word() -> None:
    text = README.read_text()
    script = (ROOT / ".ci" / "run").read_text()
    for command in (
        "python3 -m venv .venv && . .venv/bin/activate\npip install .\n",
        "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest",
    ):
        assert command in text
    assert command in script


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in [heading.lower().replace(" ", "-") for heading in headings], target


def test_exit_codes_are_the_declared_ones() -> None:
    table = OPERATING.read_text().partition("## Exit codes\n")[2].partition("\n## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == {*map(int, ExitCode)}


def test_the_tests_needs_are_those_that_ci_installs() -> None:
    needed = re.search(r"Debian: `([a-z0-9 -]+)`", README.read_text())
    installed = re.search(r"^ *for tool in (.*); do$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert needed is not None
    assert installed is not None
    assert needed[1].split() == [tool.partition(":")[2] for tool in installed[1].split()]


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= MOST_LINES
