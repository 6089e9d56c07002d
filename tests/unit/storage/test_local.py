# SPDX-License-Identifier: Apache-2.0
"""Local repositories: which directories are versions, and which file of each is read (behaviour.md 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovms_mp.storage.local import find_model_file, list_versions

if TYPE_CHECKING:
    from pathlib import Path


def fill(directory: Path, *names: str) -> Path:
    """A directory with these files; a name that ends in "/" is a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = directory / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    return directory


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.xml", "model.bin"], "model.xml"),
        (["model.xml", "model.bin", "sub/file"], "model.xml"),
        (["something.xml", "something.bin", "mapping_config.json"], "something.xml"),
        (["some file.xml", "some file.bin"], "some file.xml"),
        (["a.xml", "b.xml", "b.bin"], "b.xml"),
        (["b.xml", "b.bin", "a.xml", "a.bin"], "a.xml"),
        (["model.onnx"], "model.onnx"),
        (["model.onnx", "z.xml", "z.bin"], "z.xml"),
        (["z.xml", "model.onnx"], "model.onnx"),
        (["b.onnx", "a.onnx"], "a.onnx"),
        (["model.v2.xml", "model.v2.bin"], "model.v2.xml"),
        ([], None),
        (["model.xml"], None),
        (["model.bin"], None),
        (["somefile.bin", "otherfile.xml"], None),
        (["2/model.xml", "2/model.bin"], None),
        (["model.xml/", "model.bin"], None),
        (["model.xml", "model.bin/"], None),
        (["model.onnx/"], None),
        (["model.XML", "model.BIN"], None),
        (["model.pb"], None),
    ],
)
def test_the_file_to_read(tmp_path: Path, names: list[str], chosen: str | None) -> None:
    found = find_model_file(fill(tmp_path / "1", *names))

    assert found == (None if chosen is None else tmp_path / "1" / chosen)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("1", 1),
        ("3", 3),
        ("10", 10),
        ("20240131", 20240131),
        (str(2**63 - 1), 2**63 - 1),
        (str(2**63), None),
        ("9" * 40, None),
        ("0", None),
        ("01", None),
        ("3abc", None),
        ("-1", None),
        ("+1", None),
        ("1.0", None),
        ("1_0", None),
        ("one", None),
        (" 1", None),
        ("1 ", None),
        ("1\n", None),
        ("\N{ARABIC-INDIC DIGIT ONE}", None),
    ],
)
def test_names_of_versions(tmp_path: Path, name: str, version: int | None) -> None:
    fill(tmp_path / name, "model.onnx")
    listing = list_versions(tmp_path)

    assert listing.exists
    if version is None:
        assert listing.model_files == {}
        assert list(listing.problems) == [name]
        assert "positive integers" in listing.problems[name]
    else:
        assert listing.model_files == {version: tmp_path / name / "model.onnx"}
        assert listing.problems == {}


def test_files_and_hidden_directories_are_passed_over_without_a_word(tmp_path: Path) -> None:
    fill(tmp_path, "3.txt", "4", "readme", ".git/", ".hidden/model.onnx", "2/model.onnx")
    listing = list_versions(tmp_path)

    assert list(listing.model_files) == [2]
    assert listing.problems == {}


def test_nested_versions_are_not_looked_for(tmp_path: Path) -> None:
    fill(tmp_path, "dir1/", "dir2/2/model.onnx", "3/model.onnx", "4/2/model.onnx")
    listing = list_versions(tmp_path)

    assert list(listing.model_files) == [3]
    assert set(listing.problems) == {"dir1", "dir2", "4"}
    assert "holds no model" in listing.problems["4"]


def test_versions_are_ascending_by_number(tmp_path: Path) -> None:
    fill(tmp_path, "10/m.onnx", "9/m.onnx", "2/m.xml", "2/m.bin", "1/m.xml")
    listing = list_versions(tmp_path)

    assert set(listing.model_files) == {2, 9, 10}
    assert "a NAME.xml with its NAME.bin, or a NAME.onnx" in listing.problems["1"]


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    target = fill(tmp_path / "elsewhere", "model.onnx")
    base = fill(tmp_path / "base")
    (base / "5").symlink_to(target)
    (base / "6").symlink_to(tmp_path / "nowhere")
    listing = list_versions(base)

    assert listing.model_files == {5: base / "5" / "model.onnx"}
    assert listing.problems == {}


@pytest.mark.parametrize("is_file", [False, True])
def test_a_base_path_that_is_no_directory(tmp_path: Path, is_file: bool) -> None:
    path = tmp_path / "base"
    if is_file:
        path.write_bytes(b"")
    listing = list_versions(path)

    assert not listing.exists
    assert listing.model_files == {}


def test_an_empty_base_path(tmp_path: Path) -> None:
    listing = list_versions(tmp_path)

    assert listing.exists
    assert (listing.model_files, listing.problems) == ({}, {})


def test_a_base_path_that_cannot_be_listed_is_a_problem(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    listing = list_versions(loop)

    assert listing.model_files == {}
    assert list(listing.problems) == [str(loop)]
    assert "cannot be listed" in listing.problems[str(loop)]
