# SPDX-License-Identifier: Apache-2.0
"""The README says what the code does."""

from __future__ import annotations

from pathlib import Path

from ovms_mp.config import MODEL_KEYS, settings_table

README = Path(__file__).parents[2] / "README.md"


def test_settings_table_is_the_declared_one() -> None:
    text = README.read_text()
    table = text.partition("<!-- settings -->")[2].partition("<!-- /settings -->")[0].strip()
    assert table == settings_table()


def test_every_model_key_is_documented() -> None:
    text = README.read_text()
    assert [key for key in MODEL_KEYS if f"`{key}`" not in text] == []


def test_commands_of_newcomers_are_there_word_for_word() -> None:
    text = README.read_text()
    assert "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/ovms_mp demo --once" in text
    command = "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest"
    assert command in text
    assert command in (README.parent / ".ci" / "run").read_text()
