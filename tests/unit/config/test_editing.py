# SPDX-License-Identifier: Apache-2.0
"""Adding models to a configuration file and removing them."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from pathlib import Path

import pytest

from ovms_mp.config import editing
from ovms_mp.config.editing import add_model, remove_model
from ovms_mp.config.file import parse_config_file
from ovms_mp.config.json_members import ListText
from ovms_mp.errors import ConfigError

TEXT = """\
{
    "model_config_list": [
        {"config": {"name": "a", "base_path": "/a", "batch_size": 1e1, "comment": "mine"}},
        {"config": {"name": "b", "base_path": "/b"}}
    ],
    "unknown": {"z": 1, "a": 2}
}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(TEXT)
    return path


def entry(name: str, **more: object) -> dict[str, object]:
    return {"name": name, "base_path": f"/{name}", **more}


def names(path: Path) -> list[str]:
    return [model.name for model in parse_config_file(path)[0]]


def test_only_the_entry_is_new(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(TEXT.replace("1e1", '"4"'))
    before = path.read_text()

    edit = add_model(path, entry("ü", nireq=2))

    line = '        {"config": {"name": "ü", "base_path": "/ü", "nireq": 2}}\n'
    assert path.read_text() == before.replace('"/b"}}\n', '"/b"}},\n' + line)
    assert (edit.path, edit.is_new, edit.notices) == (path, False, ())
    remove_model(path, "ü")
    assert path.read_text() == before


def test_what_is_wrong_already_is_in_nobodys_way(file: Path) -> None:
    add_model(file, entry("c"))
    remove_model(file, "b")

    assert "1e1" in file.read_text()
    assert '"b"' not in file.read_text()


def test_a_file_that_is_missing_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new.json"
    before = os.umask(0o027)
    try:
        assert add_model(path, entry("a")).is_new
    finally:
        os.umask(before)

    assert names(path) == ["a"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(ConfigError, match="does not exist"):
        remove_model(tmp_path / "other.json", "a")
    assert os.listdir(tmp_path) == ["new.json"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (entry("a"), r"has a model 'a' already, at \$\.model_config_list\[0\]"),
        (entry("c", shape="(x)"), r"cannot be served.*\n.*config\.shape: "),
        (entry("c", base_path="../c"), "contains `..`"),
        ({"name": "c"}, "base_path"),
        (entry("c", stateful=True), "stateful"),
    ],
)
def test_a_wrong_entry_changes_nothing(file: Path, body: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        add_model(file, body)

    assert file.read_text() == TEXT
    assert os.listdir(file.parent) == ["config.json"]


def test_an_unknown_name_is_answered_with_the_nearest(file: Path) -> None:
    with pytest.raises(ConfigError, match="has no model 'bb'; did you mean 'b'"):
        remove_model(file, "bb")
    with pytest.raises(ConfigError, match="has no model 'zzz'; it has 'a', 'b'"):
        remove_model(file, "zzz")


def test_all_of_a_name_are_removed(file: Path) -> None:
    """The second one would count then."""
    file.write_text(TEXT.replace('"name": "b"', '"name": "a"'))

    remove_model(file, "a")

    assert names(file) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_config_list": 1}', '{"a": 1, "a": 2}'])
def test_what_is_no_configuration_is_left_alone(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match="was left as it is"):
        add_model(file, entry("c"))

    assert file.read_text() == text


def test_mode_and_mark_are_kept_and_links_are_followed(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    file.chmod(0o604)
    link = file.parent / "link.json"
    link.symlink_to("config.json")

    assert add_model(link, entry("c")).path == file

    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o604
    assert file.read_bytes().startswith(b"\xef\xbb\xbf{")


def test_notices_are_those_of_the_new_entry(file: Path) -> None:
    edit = add_model(file, entry("c", batch_size=2, shape="(1,2)"))

    assert len(edit.notices) == 1
    assert "batch_size" in edit.notices[0]


def test_who_holds_the_lock_is_waited_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "_LOCK_DEADLINE_S", 0.0)
    held = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="has locked"):
            add_model(file, entry("c"))
    finally:
        os.close(held)
    add_model(file, entry("c"))


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file or directory.*nowhere"):
        add_model(tmp_path / "nowhere" / "config.json", entry("a"))


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.json"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(ConfigError, match=r"regular|directory"):
        add_model(path, entry("a"))


def test_what_somebody_writes_meanwhile_is_not_lost(file: Path) -> None:
    """Editors of people know of no lock."""
    is_first = True

    def change(text: str, found: ListText) -> str:
        nonlocal is_first
        if is_first:
            file.write_text(TEXT.replace('"/a"', '"/z"'))
        is_first = False
        return found.appended(text, json.dumps({"config": entry("c")}))

    editing._edit(file, change, "", added="c")

    assert '"/z"' in file.read_text()
    assert '"/c"' in file.read_text()


def test_a_file_that_others_write_all_the_time_is_left_to_them(file: Path) -> None:
    def change(text: str, found: ListText) -> str:
        file.write_text(text + " ")
        return text

    with pytest.raises(ConfigError, match="is being written by somebody else"):
        editing._edit(file, change, "")
    assert os.listdir(file.parent) == ["config.json"]


def test_a_file_that_may_not_be_written_is_left_alone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its directory would let it be replaced."""
    file.chmod(0o444)
    monkeypatch.setattr(os, "access", lambda *_: False)  # As for everybody but root.
    with pytest.raises(ConfigError, match="is read-only"):
        add_model(file, entry("c"))

    assert file.read_text() == TEXT
