# SPDX-License-Identifier: Apache-2.0
"""The pages for those who change the code name files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "ovms_mp/ARCHITECTURE.md", ROOT / ".github/CONTRIBUTING.md"]
ROOMS = ("ovms_mp", "tests", "perf", "protos", "deploy", ".github", ".ci")
FILES = {
    f"/{path.relative_to(ROOT)}"
    for room in ROOMS
    for path in (ROOT / room, *(ROOT / room).rglob("*"), ROOT / "pyproject.toml", ROOT / "setup.cfg")
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_file_that_a_page_names_is_there(page: Path) -> None:
    named = set(re.findall(r"`([a-z_0-9/.]+\.(?:py|md|toml|cfg)|[a-z_0-9/.]+/)`", page.read_text()))
    assert len(named) > 5
    missing = [
        name for name in named if not any(f"{file}/".endswith(f"/{name.rstrip('/')}/") for file in FILES)
    ]
    assert missing == []
