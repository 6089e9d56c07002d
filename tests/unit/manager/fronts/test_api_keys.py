# SPDX-License-Identifier: Apache-2.0
"""Files of keys over time: taken when they are whole, and left when they are wrong."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest

from ovms_mp.config.access import AccessConfig
from ovms_mp.errors import BootError
from ovms_mp.manager.fronts.api_keys import ApiKeys

if TYPE_CHECKING:
    from pathlib import Path

A, B = "a" * 32, "b" * 32


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"alice {A}\n")
    return path


@pytest.fixture
def keys(file: Path) -> ApiKeys:
    return ApiKeys(AccessConfig(api_key_file=str(file)))


def names(keys: ApiKeys) -> list[str]:
    return [record.name for record in keys.records()]


def replace(file: Path, text: str) -> None:
    """As a careful writer, or Kubernetes, does it."""
    fresh = file.with_name("fresh")
    fresh.write_text(text)
    os.replace(fresh, file)


def test_both_files_have_their_keys(tmp_path: Path, file: Path) -> None:
    admins = tmp_path / "admins"
    admins.write_text(f"root {B}\n")
    keys = ApiKeys(AccessConfig(api_key_file=str(file), admin_api_key_file=str(admins)))

    assert [(record.name, record.is_admin) for record in keys.records()] == [("alice", False), ("root", True)]


def test_without_files_there_is_nothing_to_look_at() -> None:
    keys = ApiKeys(AccessConfig())
    keys.look()

    assert not keys
    assert keys.records() == ()


def test_a_new_file_is_taken_at_the_second_look(file: Path, keys: ApiKeys) -> None:
    replace(file, f"bob {B}\n")
    keys.look()
    assert (names(keys), keys.is_changed) == (["alice"], False)
    keys.look()
    assert (names(keys), keys.is_changed) == (["bob"], True)

    keys.note_snapshot(1)
    keys.look()
    assert not keys.is_changed


@pytest.mark.parametrize("text", ["", "three words here\n", None])
def test_a_wrong_file_leaves_the_keys(
    file: Path, keys: ApiKeys, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    if text is None:
        file.unlink()
    else:
        replace(file, text)
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            keys.look()

    assert (names(keys), keys.is_changed) == (["alice"], False)
    (line,) = [entry.getMessage() for entry in caplog.records]
    assert line.startswith("event=keys_refused the keys stay as they were: --api_key_file")

    replace(file, f"bob {B}\n")
    keys.look()
    keys.look()
    assert names(keys) == ["bob"]


def test_a_file_that_was_wrong_meanwhile_stops_the_start(file: Path) -> None:
    file.write_text("")
    with pytest.raises(BootError, match="has no key"):
        ApiKeys(AccessConfig(api_key_file=str(file)))


def test_what_comes_and_goes_is_named_in_the_log(
    file: Path, keys: ApiKeys, caplog: pytest.LogCaptureFixture
) -> None:
    replace(file, f"bob {B}\n")
    with caplog.at_level(logging.INFO):
        keys.look()
        keys.look()
    text = " ".join(entry.getMessage() for entry in caplog.records)

    assert "keys=1 added=bob removed=alice" in text
    assert B not in text
