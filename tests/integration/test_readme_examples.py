# SPDX-License-Identifier: Apache-2.0
"""The examples of the README and of all pages print what is shown; ``tests/support/reader.py`` runs them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from ovms_mp.docs import DIRECTORY
from tests.support.reader import ROOT, Reader
from tests.support.readme import Block, blocks

if TYPE_CHECKING:
    from pathlib import Path

PAGES = [
    path
    for path in (ROOT / "README.md", *sorted(DIRECTORY.glob("*.md")))
    if any(block.language in ("sh", "python") and not block.not_run for block in blocks(path.read_text()))
]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_print_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    with ExitStack() as cleanup:
        Reader(tmp_path, cleanup).follow(blocks(page.read_text()))


def test_a_changed_output_is_noticed(tmp_path: Path) -> None:
    command = Block("sh", "ovms_mp demo --export demo\n", "", "")
    with ExitStack() as cleanup, pytest.raises(AssertionError, match="the page shows"):
        Reader(tmp_path, cleanup).follow([command, Block("text", "demo/digits.json\n", "", "sh")])
