# SPDX-License-Identifier: Apache-2.0
"""Files of keys: what is read of them, and what is wrong with others, by line and never by content."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from ovms_mp.config.api_keys import read_keys
from ovms_mp.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

LONG = "k" * 32
SECRET = "-".join(["mine", "0123456789abc"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.touch(0o600)
    return path


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (LONG, ["line-1"]),
        (f"{LONG}\n", ["line-1"]),
        (f"\ufeff# comment\r\n\r\n  alice\t{LONG}  \r\n{LONG}2\n#{LONG}3\n", ["alice", "line-4"]),
        (f"a@b.example {LONG}=\nc {LONG}/+~\n", ["a@b.example", "c"]),
    ],
)
def test_each_line_is_a_key(file: Path, text: str, names: list[str]) -> None:
    file.write_text(text)
    found = read_keys(str(file), "api_key_file")

    assert [key.name for key in found.keys] == names
    assert not found.remarks


def test_a_key_is_kept_as_its_digest(file: Path) -> None:
    file.write_text(f"alice {SECRET}\n")
    (key,) = read_keys(str(file), "api_key_file").keys

    assert key.digest == hashlib.sha256(SECRET.encode()).digest()
    assert SECRET not in repr(key)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no key"),
        ("# nothing\n\n", "has no key"),
        (f"a b {SECRET}\n", "line 1 has 3 words"),
        (f"{LONG}\n{SECRET} # mine\n", "line 2 has 3 words"),
        (f"# x\nn\u00e4me {SECRET}\n", "the name of line 2 is none"),
        (f"a/b {SECRET}\n", "the name of line 1 is none"),
        (f"{SECRET} alice\n", f"line 1 has a word of {len(SECRET)} characters before one of 5"),
        (f"{SECRET}\u00e4\n", "the key of line 1 has a character"),
        (f"{SECRET}\x00\n", "the key of line 1 has a character"),
        (SECRET * 40, "the key of line 1 has 720 characters"),
        (f"a {SECRET}\nb {SECRET}\n", "line 2 has the same key as line 1"),
        (f"a {LONG}\na {SECRET}\n", "line 2 has the same name as line 1"),
        ("".join(f"{number:032}\n" for number in range(1001)), "line 1001 is one key more than the 1000"),
        ("x" * (2 << 20), "too long"),
    ],
)
def test_what_is_wrong_is_told_by_its_line(file: Path, text: str, reason: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_keys(str(file), "api_key_file")

    assert reason in caught.value.message
    assert caught.value.message.startswith(f"--api_key_file {file}")
    assert SECRET not in caught.value.message


def test_there_must_be_a_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match=str(path)):
            read_keys(str(path), "admin_api_key_file")


@pytest.mark.parametrize(
    ("mode", "text", "remark"),
    [(0o644, LONG, "can be read by every user"), (0o640, LONG, ""), (0o600, "short", "the key of line 1")],
)
def test_what_is_not_good_is_remarked(file: Path, mode: int, text: str, remark: str) -> None:
    file.write_text(text)
    file.chmod(mode)
    remarks = read_keys(str(file), "api_key_file").remarks

    assert len(remarks) == bool(remark)
    assert all(remark in text for text in remarks)
