# SPDX-License-Identifier: Apache-2.0
"""Every example does what its page says: its commands, run in a copy of its directory, print what is shown."""

from __future__ import annotations

import importlib.util
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests.support.reader import ROOT, Reader
from tests.support.readme import blocks

if TYPE_CHECKING:
    from pathlib import Path

DIRECTORY = ROOT / "deploy" / "examples"
EXAMPLES = sorted(page.parent for page in DIRECTORY.glob("*/README.md"))
NEEDS = {"images": "cv2", "text": "openvino_tokenizers"}
"""Packages of extras."""
SHIPPED = (".json", ".md", ".py")
PLOTS = {"load_test": ("bench.svg", "mixed.svg")}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_does_what_its_page_says(example: Path, tmp_path: Path) -> None:
    package = NEEDS.get(example.name)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    home = tmp_path / "copy"
    home.mkdir()
    for file in example.iterdir():
        if file.suffix in SHIPPED:
            shutil.copy(file, home)
    with ExitStack() as cleanup:
        Reader(home, cleanup).follow(blocks((home / "README.md").read_text()))
    for name in PLOTS.get(example.name, ()):
        assert ET.parse(home / name).getroot().tag.endswith("svg")  # noqa: S314  # our own


def test_the_table_has_every_example() -> None:
    table = (DIRECTORY / "README.md").read_text()
    assert len(EXAMPLES) == 8
    for example in EXAMPLES:
        assert f"[{example.name}]({example.name})" in table
