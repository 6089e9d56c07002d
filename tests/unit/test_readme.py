# SPDX-License-Identifier: Apache-2.0
"""The README says what the code does."""

from __future__ import annotations

from pathlib import Path

from ovms_mp.config import settings_table
from ovms_mp.config_file import parse_config_file
from ovms_mp.model_keys import model_settings_table

README = Path(__file__).parents[2] / "README.md"


def test_settings_table_is_the_declared_one() -> None:
    text = README.read_text()
    table = text.partition("<!-- settings -->")[2].partition("<!-- /settings -->")[0].strip()
    assert table == settings_table()


def test_model_settings_table_is_the_declared_one() -> None:
    text = README.read_text()
    table = text.partition("<!-- model settings -->")[2].partition("<!-- /model settings -->")[0].strip()
    assert table == model_settings_table()


def test_the_example_of_a_configuration_file_is_right(tmp_path: Path) -> None:
    text = README.read_text().partition("## Configuration file")[2]
    example = text.partition("```json\n")[2].partition("```")[0]
    path = tmp_path / "config.json"
    path.write_text(example)

    models, notices = parse_config_file(path, is_strict=True)
    assert len(models) > 1
    assert notices == ()


def test_commands_of_newcomers_are_there_word_for_word() -> None:
    text = README.read_text()
    assert "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/ovms_mp demo --once" in text
    command = "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest"
    assert command in text
    assert command in (README.parent / ".ci" / "run").read_text()
