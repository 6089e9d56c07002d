# SPDX-License-Identifier: Apache-2.0
"""Every block of every page is run, or held against what would run it; how many are not run is written down here.

Those that run: ``integration/test_readme_examples.py``, ``integration/test_examples.py``,
``integration/test_systemd_pages.py``, ``clients/test_pages.py``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from markdown_it import MarkdownIt

from ovms_mp.docs import DIRECTORY
from ovms_mp.fleet.file import read_fleet
from tests.support.readme import NOT_RUN, RUN_IN, Block, blocks

pytest.importorskip("kubernetes_validate", reason="the extra test is not installed, but for unit tests")

from tests.support.block_checks import (  # It needs what was looked for.
    ROOT,
    unit_with,
    wrong_configuration,
    wrong_extras,
    wrong_flags,
    wrong_in_docker,
    wrong_in_kubectl,
    wrong_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = [
    ROOT / "README.md",
    *sorted(DIRECTORY.glob("*.md")),
    *sorted((ROOT / "deploy" / "examples").rglob("*.md")),
]
CHECKED_ONLY = {
    "docker": 10,
    "install": 8,
    "kubectl": 5,
    "gpu": 1,
    "long": 1,
    "store": 1,
    "user": 1,
}
"""Blocks that are not run, by why. One more needs a reason that a reviewer accepts."""
LANGUAGES = ("", "sh", "python", "text", "json", "yaml", "ini", "toml")
BASH = "/bin/bash"
ANALYZE = shutil.which("systemd-analyze") or ""


def by_path(path: Path) -> str:
    return str(path.relative_to(ROOT))


def every_block() -> Iterator[tuple[Path, Block]]:
    for page in PAGES:
        for block in blocks(page.read_text()):
            yield page, block


def test_what_is_only_checked_does_not_grow() -> None:
    assert Counter(block.not_run for _, block in every_block() if block.not_run) == CHECKED_ONLY


def test_marks_are_those_that_there_are() -> None:
    for page, block in every_block():
        assert not block.not_run or block.not_run in NOT_RUN, (page.name, block.not_run)
        assert not block.run_in or block.run_in in RUN_IN, (page.name, block.run_in)
    for page in PAGES:
        marks = page.read_text().count("<!-- not run: ") + page.read_text().count("<!-- run in: ")
        told = [block for block in blocks(page.read_text()) if block.not_run or block.run_in]
        assert marks <= len(told), f"{page.name} has a mark that belongs to no block"


@pytest.mark.parametrize("page", PAGES, ids=by_path)
def test_there_is_no_code_but_in_blocks(page: Path) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text())
    fences = [token for token in tokens if token.type == "fence"]

    assert [token.content for token in tokens if token.type == "code_block"] == []
    assert [token.content for token in fences] == [block.text for block in blocks(page.read_text())]
    assert {token.info for token in fences} <= set(LANGUAGES)


@pytest.mark.parametrize("page", PAGES, ids=by_path)
def test_blocks_are_in_the_language_that_they_name(page: Path) -> None:
    for block in blocks(page.read_text()):
        match block.language:
            case "sh":
                done = subprocess.run(
                    [BASH, "-n"], input=block.text, capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, f"{block.text}\n{done.stderr}"
            case "json":
                json.loads(block.text)
            case "python":
                compile(block.text, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=by_path)
def test_commands_have_the_flags_and_extras_that_there_are(page: Path) -> None:
    for block in blocks(page.read_text()):
        if block.language == "sh":
            assert [
                wrong for wrong in wrong_flags(block) if f"ovms_mp: error: {wrong}" not in page.read_text()
            ] == []
            assert list(wrong_extras(block)) == []


@pytest.mark.parametrize("page", PAGES, ids=by_path)
def test_what_is_not_run_is_right(page: Path, tmp_path: Path) -> None:
    for block in blocks(page.read_text()):
        if block.not_run == "docker":
            assert list(wrong_in_docker(block)) == []
        if block.not_run == "kubectl":
            assert list(wrong_in_kubectl(block)) == []
        if block.language == "yaml":
            assert list(wrong_manifest(block.text)) == []
        if block.language == "toml":
            assert read_fleet(block.text, tmp_path).specification.models


def test_options_of_the_image_are_those_of_its_file() -> None:
    named = set(re.findall(r"--build-arg (\w+)", (DIRECTORY / "CONTAINERS.md").read_text()))
    given = set(re.findall(r"^ARG (\w+)", (ROOT / "deploy/docker/Dockerfile").read_text(), re.MULTILINE))

    assert named <= given


@pytest.mark.parametrize("page", PAGES, ids=by_path)
def test_examples_of_configuration_files_are_right(page: Path, tmp_path: Path) -> None:
    for block in blocks(page.read_text()):
        if block.language == "json" and "model_config_list" in block.text:
            assert list(wrong_configuration(block.text, tmp_path / "config.json")) == []


@pytest.mark.skipif(not ANALYZE, reason="no systemd-analyze is installed")
@pytest.mark.parametrize("page", PAGES, ids=by_path)
def test_examples_of_units_are_right(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page.read_text())):
        if block.language == "ini":
            (tmp_path / str(number)).mkdir()
            unit = unit_with(block.text, tmp_path / str(number))
            done = subprocess.run(
                [ANALYZE, "verify", str(unit)],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "SYSTEMD_UNIT_PATH": f"{unit.parent}:"},
            )
            assert done.returncode == 0, done.stderr
            assert "page.conf" not in done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("docker run --rm ovms_mp devices", "docker run --rmm ovms_mp devices"),
        ("docker run ovms_mp --model_name a", "docker run ovms_mp --model_nmae a"),
        ("docker build -f deploy/docker/Dockerfile .", "docker build -f deploy/Dockerfile ."),
        ("docker exec C ovms_mp status", "docker exec C ovms_mp stauts"),
    ],
)
def test_a_slip_in_what_is_not_run_is_noticed(right: str, wrong: str) -> None:
    assert list(wrong_in_docker(Block("sh", right, "", ""))) == []
    assert list(wrong_in_docker(Block("sh", wrong, "", ""))) != []
