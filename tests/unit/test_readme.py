# SPDX-License-Identifier: Apache-2.0
"""The README is a front page that stays short. Its examples: ``integration/test_readme_examples.py``."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
MOST_LINES = 120


def test_commands_of_newcomers_are_there_word_for_word() -> None:
    text = README.read_text()
    script = (ROOT / ".ci" / "run").read_text()
    for command in (
        "python3 -m venv .venv && . .venv/bin/activate\npip install .\n",
        "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest",
    ):
        assert command in text
    assert command in script


def test_the_tests_needs_are_those_that_ci_installs() -> None:
    needed = re.search(r"Debian: `([a-z0-9 -]+)`", README.read_text())
    installed = re.search(r"^ *for tool in (.*); do$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert needed is not None
    assert installed is not None
    assert needed[1].split() == [tool.partition(":")[2] for tool in installed[1].split()]


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= MOST_LINES
