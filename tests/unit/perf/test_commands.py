# SPDX-License-Identifier: Apache-2.0
"""``python -m perf`` knows every measurement, and its rooms import one way."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from perf import CHECKOUT
from perf.__main__ import COMMANDS, main

ROOMS = ("processes", "models", "report", "fleet", "load", "floors", "subjects", "measurements")
"""Each imports from itself and from those before it."""
MODULES = sorted(CHECKOUT.glob("perf/*/*.py"))
MOST_LINES = 400
PAGES = (
    "README.md",
    "perf/RECORD.md",
    ".github/CONTRIBUTING.md",
    ".github/pull_request_template.md",
    ".ci/run",
)


def is_command(path: Path) -> bool:
    """Whether a module is run by name, not as a program."""
    functions = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
    return "main" in functions and '__name__ == "__main__"' not in path.read_text()


def test_every_measurement_is_a_command() -> None:
    found = {f"perf.{path.parent.name}.{path.stem}" for path in MODULES if is_command(path)}

    assert found == set(COMMANDS.values())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_it_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = importlib.import_module(COMMANDS[name])

    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])

    words = " ".join(capsys.readouterr().out.split())
    assert words.startswith(f"usage: python -m perf {name} ")
    assert command.__doc__ is not None
    assert command.__doc__.partition("\n")[0] in words


def test_the_list_has_every_command_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])

    listed = re.findall(r"^  (\w+) +[A-Z].*\.$", capsys.readouterr().out, re.MULTILINE)
    assert listed == list(COMMANDS)


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["changs"])

    assert "changs" in capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_commands_that_there_are(page: str) -> None:
    text = (CHECKOUT / page).read_text()

    assert set(re.findall(r"-m perf ([a-z]\w*)", text)) <= set(COMMANDS)
    assert not re.findall(r"-m perf\.[a-z]", text)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_rooms_import_one_way(path: Path) -> None:
    allowed = {"CHECKOUT", *ROOMS[: ROOMS.index(path.parent.name) + 1]}
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module is not None
            and node.module.split(".")[0] == "perf"
        ):
            room = node.module.split(".")[1] if "." in node.module else node.names[0].name
            assert room in allowed, f"{path}:{node.lineno}: imports {node.module}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_a_file_has_one_job(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES
