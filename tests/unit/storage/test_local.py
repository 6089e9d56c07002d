# SPDX-License-Identifier: Apache-2.0
"""Local repositories: which directories are versions, and which file of each is read."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovms_mp.storage import local, tree
from ovms_mp.storage.local import list_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
        (["model.xml", "model.bin", "sub/file"], "model.xml"),
        (["some file.xml", "some file.bin"], "some file.xml"),
        (["z.xml", "model.onnx"], "model.onnx"),
        (["saved_model.pb", "variables/variables.index", "assets/"], "."),
        (["frozen.pb"], "frozen.pb"),
        ([], None),
        (["2/model.xml", "2/model.bin"], None),
        (["model.xml/", "model.bin"], None),
        (["model.xml", "model.bin/"], None),
        (["model.onnx/"], None),
        (["sub/saved_model.pb"], None),
    ],
)
def test_the_file_to_read(tmp_path: Path, names: list[str], chosen: str | None) -> None:
    fill(tmp_path / "1", *names)
    listing = list_versions(tmp_path)

    assert listing.model_files == ({} if chosen is None else {1: tmp_path / "1" / chosen})
    assert set(listing.problems) == (set() if chosen else {"1"})


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
        ("01", 1),
        ("007", 7),
        ("0" * 50 + "12", 12),
        ("00", None),
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
    fill(tmp_path, "dir1/", "dir2/2/model.onnx", "3/model.onnx", "4/2/model.onnx", "model.onnx")
    listing = list_versions(tmp_path)

    assert list(listing.model_files) == [3]
    assert set(listing.problems) == {"dir1", "dir2", "4"}
    assert "holds no model" in listing.problems["4"]


def test_versions_are_ascending_by_number(tmp_path: Path) -> None:
    fill(tmp_path, "10/m.onnx", "9/m.onnx", "2/m.xml", "2/m.bin", "1/m.xml")
    listing = list_versions(tmp_path)

    assert set(listing.model_files) == {2, 9, 10}
    assert list(listing.versions) == [2, 9, 10]
    assert "m.xml is without m.bin" in listing.problems["1"]


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    target = fill(tmp_path / "elsewhere", "model.onnx")
    base = fill(tmp_path / "base")
    (base / "5").symlink_to(target)
    (base / "6").symlink_to(tmp_path / "nowhere")
    listing = list_versions(base)

    assert listing.model_files == {5: base / "5" / "model.onnx"}
    assert listing.problems == {}


@pytest.mark.parametrize("where", ["absent", "absent/below", "file/below", "dangling"])
def test_a_base_path_that_is_not_there(tmp_path: Path, where: str) -> None:
    fill(tmp_path, "file")
    (tmp_path / "dangling").symlink_to("nowhere")
    listing = list_versions(tmp_path / where)

    assert not listing.exists
    assert listing.is_certain
    assert (listing.versions, listing.problems) == ({}, {})


def test_an_empty_base_path(tmp_path: Path) -> None:
    listing = list_versions(tmp_path)

    assert listing.exists
    assert (listing.model_files, listing.problems) == ({}, {})


def test_a_base_path_that_cannot_be_listed_is_a_problem(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    listing = list_versions(loop)

    assert listing.model_files == {}
    assert not listing.is_certain
    assert list(listing.problems) == [str(loop)]
    assert "cannot be listed" in listing.problems[str(loop)]


# A base path that is a model itself.


@pytest.mark.parametrize(
    ("name", "beside", "problem"),
    [
        ("m.onnx", [], None),
        ("m.xml", ["m.bin"], None),
        ("m.xml", ["other.bin"], "needs m.bin beside it"),
        ("m.pdmodel", ["m.pdiparams"], None),
        ("m.pdmodel", [], "needs m.pdiparams beside it"),
        ("m.pb", [], None),
        ("m.tflite", [], None),
        ("a file.v2.tflite", ["b.onnx"], None),
        ("readme.md", ["m.onnx"], "is not a model: expected is"),
        ("m.bin", ["m.xml"], "is not a model"),
    ],
)
def test_a_base_path_that_is_a_file(
    tmp_path: Path, name: str, beside: list[str], problem: str | None
) -> None:
    fill(tmp_path, name, *beside)
    listing = list_versions(tmp_path / name)

    assert listing.exists
    assert listing.is_certain
    if problem is None:
        assert listing.model_files == {1: tmp_path / name}
        assert listing.problems == {}
    else:
        assert listing.versions == {}
        assert problem in listing.problems[name]


def test_the_parts_of_a_model_file_belong_to_it_and_nothing_else_does(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "m.onnx",
        "m.onnx.data",
        "m.onnx_data",
        "m.bin",
        "mapping_config.json",
        "mm.onnx",
        "x/y",
        "a",
    )
    listing = list_versions(tmp_path / "m.onnx")

    names = [name for name, *_ in listing.versions[1].fingerprint]
    assert names == ["m.bin", "m.onnx", "m.onnx.data", "m.onnx_data", "mapping_config.json"]


def test_the_path_of_a_saved_model_file_is_its_directory(tmp_path: Path) -> None:
    fill(tmp_path, "saved_model.pb", "variables/variables.index")
    listing = list_versions(tmp_path / "saved_model.pb")

    assert listing.model_files == {1: tmp_path}
    assert len(listing.versions[1].fingerprint) == 2


@pytest.mark.parametrize(
    ("names", "chosen", "told"),
    [
        (["m.onnx"], "m.onnx", "m.onnx"),
        (["m.xml", "m.bin", "readme.md", "doc/"], "m.xml", "m.xml"),
        (["saved_model.pb", "fingerprint.pb", "variables/a", "assets/b"], ".", "saved_model.pb"),
        (["b.onnx", "a.onnx"], None, "a.onnx, b.onnx"),
        (["m.onnx", "1/m.onnx"], "1/m.onnx", None),
        (["m.onnx", "1/"], None, "1"),
    ],
)
def test_a_model_in_the_base_path_itself_is_version_1_when_it_is_alone(
    tmp_path: Path, names: list[str], chosen: str | None, told: str | None
) -> None:
    listing = list_versions(fill(tmp_path, *names))

    assert listing.model_files == ({} if chosen is None else {1: tmp_path / chosen})
    assert list(listing.problems) == ([] if told is None else [told])
    if told and told != "1":
        assert f"1/{told.split(',')[0]}" in listing.problems[told]


def test_of_several_models_in_a_version_the_first_is_taken_and_that_is_said(tmp_path: Path) -> None:
    fill(tmp_path / "1", "m.onnx", "m.xml", "m.bin")
    listing = list_versions(tmp_path)

    assert listing.model_files == {1: tmp_path / "1" / "m.xml"}
    assert listing.problems == {"1": "holds several models; m.xml is taken, not m.onnx"}


# What a version looks like.


@pytest.mark.parametrize(
    "change",
    [
        lambda version: (version / "m.onnx").write_bytes(b"longer"),
        lambda version: os.utime(version / "m.onnx", ns=(1, 1)),
        lambda version: (version / "other").replace(version / "m.onnx"),
        lambda version: fill(version, "mapping_config.json"),
        lambda version: fill(version, "a/b/c"),
        lambda version: fill(version, ".m.onnx.Ab12Cd"),
        lambda version: (version / "sub" / "weights").unlink(),
    ],
)
def test_every_change_of_its_files_changes_the_fingerprint(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    version = fill(tmp_path / "1", "m.onnx", "sub/weights", "other")
    before = list_versions(tmp_path).versions[1]
    assert list_versions(tmp_path).versions[1] == before
    change(version)

    assert list_versions(tmp_path).versions[1].fingerprint != before.fingerprint


def test_the_fingerprint_tells_name_size_time_and_inode(tmp_path: Path) -> None:
    version = fill(tmp_path / "1", "m.onnx", "sub/weights", ".git/x", ".hidden")
    (version / "m.onnx").write_bytes(b"12345")
    (version / "link").symlink_to("m.onnx")
    state = (version / "m.onnx").stat()
    found = list_versions(tmp_path).versions[1]

    assert [entry[0] for entry in found.fingerprint] == [".hidden", "link", "m.onnx", "sub/weights"]
    assert found.fingerprint[1:3] == tuple(
        (name, 5, state.st_mtime_ns, state.st_ino) for name in ("link", "m.onnx")
    )


def test_the_last_change_is_that_of_the_inode_which_cannot_be_set_back(tmp_path: Path) -> None:
    version = fill(tmp_path / "1", "m.onnx", "n.bin")
    before = list_versions(tmp_path).versions[1].changed_at
    os.utime(version / "m.onnx", (1, 1))
    found = list_versions(tmp_path).versions[1]

    assert found.changed_at == max((version / name).stat().st_ctime for name in ("m.onnx", "n.bin"))
    assert found.changed_at >= before
    assert abs(found.changed_at - time.time()) < 60


def test_a_version_that_is_renamed_into_place_is_as_old_as_its_files(tmp_path: Path) -> None:
    files = fill(tmp_path / "made", "m.onnx")
    (tmp_path / "base").mkdir()
    changed_at = (files / "m.onnx").stat().st_ctime
    files.rename(tmp_path / "base" / "1")

    assert list_versions(tmp_path / "base").versions[1].changed_at == changed_at


def test_links_in_circles_end(tmp_path: Path) -> None:
    version = fill(tmp_path / "1", "m.onnx", "sub/weights")
    for name, target in (
        ("self", "."),
        ("up", ".."),
        ("sub/again", "../sub"),
        ("loop", "loop"),
        ("lost", "x"),
    ):
        (version / name).symlink_to(target)
    listing = list_versions(tmp_path)

    assert listing.is_certain
    assert listing.model_files == {1: version / "m.onnx"}
    assert len(listing.versions[1].fingerprint) < 20


def test_a_version_of_too_many_files_is_served_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "MAX_FILES", 10)
    fill(tmp_path / "1", "m.onnx", *(f"sub/{number}" for number in range(20)))
    listing = list_versions(tmp_path)

    assert listing.model_files == {1: tmp_path / "1" / "m.onnx"}
    assert len(listing.versions[1].fingerprint) == 10
    assert "more than 10 files" in listing.problems["1"]


def test_a_thousand_versions_are_listed_quickly(tmp_path: Path) -> None:
    fill(tmp_path, "file")
    for number in range(1, 1001):
        os.mkdir(f"{tmp_path}/{number}")
        os.link(f"{tmp_path}/file", f"{tmp_path}/{number}/m.onnx")
    start = time.process_time()
    listing = list_versions(tmp_path)
    took_s = time.process_time() - start

    assert len(listing.versions) == 1000
    assert took_s < 2, "it takes about 0.03 s; nobody's machine is that slow"


# What may lie there.


@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_what_is_no_file_is_neither_opened_nor_a_model(tmp_path: Path, kind: str) -> None:
    fill(tmp_path / "1", "m.xml")
    fill(tmp_path / "2", "m.onnx")
    places = [tmp_path / "1" / "m.bin", tmp_path / "2" / "other", tmp_path / "3", tmp_path / "base"]
    for place in places:
        if kind == "fifo":
            os.mkfifo(place)
        else:
            os.mknod(place, stat.S_IFSOCK | 0o600)
    listing = list_versions(tmp_path)

    assert list(listing.versions) == [2]
    assert [name for name, *_ in listing.versions[2].fingerprint] == ["m.onnx"]
    assert set(listing.problems) == {"1"}
    listing = list_versions(tmp_path / "base")
    assert (listing.exists, listing.versions) == (True, {})
    assert "neither a directory nor a file" in listing.problems["base"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    os.makedirs(os.fsencode(tmp_path) + b"/v\xff")
    for name in (b"m\xff.onnx", b"data\xfe"):
        for version in (b"/1/", b"/2/"):
            path = os.fsencode(tmp_path) + version + name
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb"):
                pass
    fill(tmp_path / "2", "m.onnx")
    listing = list_versions(tmp_path)

    assert listing.model_files == {2: tmp_path / "2" / "m.onnx"}
    assert set(listing.problems) == {"1", "v\\xff"}
    for files in listing.versions.values():
        assert [name for name, *_ in files.fingerprint] == ["data\\xfe", "m.onnx", "m\\xff.onnx"]
    json.dumps([*listing.problems.items()]).encode()


def test_kubernetes_links(tmp_path: Path) -> None:
    fill(tmp_path, "..2026_11/1/m.onnx", "..2026_11/2/m.onnx")
    (tmp_path / "..data").symlink_to("..2026_11")
    for name in ("1", "2"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    listing = list_versions(tmp_path)

    assert listing.model_files == {number: tmp_path / str(number) / "m.onnx" for number in (1, 2)}
    assert listing.problems == {}


# Everything may change while one looks.


def failing(name: str, function: str, error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a system call fail for paths with this last part, as file systems of others do."""
    real = getattr(os, function)

    def fail(path: object, *args: object, **kwargs: object) -> object:
        if os.fspath(path).endswith("/" + name):  # type: ignore[call-overload]  # every caller gives a path
            raise OSError(error, os.strerror(error))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, function, fail)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("where", ["1", "base"])
def test_what_cannot_be_looked_at_may_still_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, where: str
) -> None:
    fill(tmp_path / "base", "1/m.onnx", "2/m.onnx")
    failing(where, "scandir", error, monkeypatch)
    listing = list_versions(tmp_path / "base")

    assert listing.exists
    assert not listing.is_certain
    assert set(listing.versions) == ({2} if where == "1" else set())
    assert os.strerror(error) in next(iter(listing.problems.values()))


def test_a_link_that_leads_where_we_may_not_look_matters_only_if_it_is_a_version(tmp_path: Path) -> None:
    fill(tmp_path / "base", "1/m.onnx")
    for name in ("latest", "2"):
        (tmp_path / "base" / name).symlink_to("x" * 300)  # Fails with ENAMETOOLONG, for root too.
    assert not list_versions(tmp_path / "base").is_certain
    (tmp_path / "base" / "2").unlink()
    listing = list_versions(tmp_path / "base")

    assert (listing.is_certain, listing.problems, set(listing.versions)) == (True, {}, {1})


@pytest.mark.parametrize("where", ["1", "base"])
def test_what_goes_while_one_looks_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    fill(tmp_path / "base", "1/m.onnx", "2/m.onnx")
    failing(where, "scandir", errno.ENOENT, monkeypatch)
    listing = list_versions(tmp_path / "base")

    assert listing.is_certain
    assert listing.problems == {}
    assert (listing.exists, set(listing.versions)) == ((True, {2}) if where == "1" else (False, set()))


@pytest.mark.parametrize(
    ("error", "is_certain"), [(errno.EACCES, True), (errno.ENOENT, True), (errno.EIO, False)]
)
def test_a_directory_below_a_version_that_is_not_ours_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, is_certain: bool
) -> None:
    fill(tmp_path / "base" / "1", "m.onnx", "lost+found/")
    failing("lost+found", "scandir", error, monkeypatch)
    listing = list_versions(tmp_path / "base")

    assert listing.is_certain is is_certain
    assert set(listing.versions) == ({1} if is_certain else set())


def test_a_version_that_is_swapped_while_it_is_listed_is_not_taken_for_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old target of a link is opened, removed, and then listed: nothing is in it."""
    fill(tmp_path, "..old/1/m.onnx", "..new/1/m.onnx", "base/")
    link = tmp_path / "base" / "1"
    link.symlink_to(tmp_path / "..old" / "1")
    real = os.scandir

    def swap_then_list(path: object) -> object:
        if os.fspath(path) == str(link) and (tmp_path / "..old" / "1" / "m.onnx").exists():  # type: ignore[call-overload]  # a path
            iterator = real(path)  # type: ignore[call-overload]  # a path
            fresh = tmp_path / "fresh"
            fresh.symlink_to(tmp_path / "..new" / "1")
            fresh.rename(link)
            (tmp_path / "..old" / "1" / "m.onnx").unlink()
            return iterator
        return real(path)  # type: ignore[call-overload]  # a path

    monkeypatch.setattr(os, "scandir", swap_then_list)
    listing = list_versions(tmp_path / "base")

    assert listing.is_certain
    assert listing.model_files == {1: link / "m.onnx"}
    assert listing.versions[1].fingerprint[0][3] == (tmp_path / "..new" / "1" / "m.onnx").stat().st_ino


def adding_at_each_look(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Add a file to a directory whenever it is listed; counts that."""
    real = os.scandir
    count = itertools.count()

    def add_then_list(path: object) -> object:
        if os.fspath(path) == str(directory):  # type: ignore[call-overload]  # a path
            fill(directory, f"file{next(count)}")
        return real(path)  # type: ignore[call-overload]  # a path

    monkeypatch.setattr(os, "scandir", add_then_list)
    return count


def test_a_base_path_that_changes_all_the_time_is_uncertain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "base", "1/m.onnx")
    count = adding_at_each_look(tmp_path / "base", monkeypatch)
    listing = list_versions(tmp_path / "base")

    assert not listing.is_certain
    assert set(listing.versions) == {1}
    assert next(count) == 3, "it was looked at three times"


@pytest.mark.parametrize("has_model", [False, True])
def test_a_version_that_changes_all_the_time_is_not_taken_for_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_model: bool
) -> None:
    fill(tmp_path / "1", *(["m.onnx"] if has_model else []))
    adding_at_each_look(tmp_path / "1", monkeypatch)
    listing = list_versions(tmp_path)

    assert listing.is_certain is has_model
    assert set(listing.versions) == ({1} if has_model else set())
    assert listing.problems == ({} if has_model else {"1": "cannot be listed: it is being changed"})


# Names that others use.


@pytest.mark.parametrize(
    ("directories", "taken", "problems"),
    [
        (("01",), {1: "01"}, {}),
        (
            ("01", "1"),
            {1: "1"},
            {"01": "is version 1, too; {root}/1/model.onnx is taken, and this is not served"},
        ),
        (
            ("001", "01"),
            {1: "001"},
            {"01": "is version 1, too; {root}/001/model.onnx is taken, and this is not served"},
        ),
        (("2", "010", "9"), {2: "2", 9: "9", 10: "010"}, {}),
    ],
)
def test_leading_zeros(
    directories: tuple[str, ...], taken: dict[int, str], problems: dict[str, str], tmp_path: Path
) -> None:
    for name in directories:
        fill(tmp_path / name, "model.onnx")
    listing = list_versions(tmp_path)

    assert listing.model_files == {number: tmp_path / name / "model.onnx" for number, name in taken.items()}
    assert listing.problems == {name: text.format(root=tmp_path) for name, text in problems.items()}


def test_of_two_names_of_a_version_the_one_with_a_model_is_taken(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    fill(tmp_path / "01", "model.onnx")
    listing = list_versions(tmp_path)

    assert listing.model_files == {1: tmp_path / "01" / "model.onnx"}
    assert list(listing.problems) == ["1"]


def ir(*names: str) -> list[str]:
    return [f"{name}.{suffix}" for name in names for suffix in ("xml", "bin")]


TOKENIZERS = ir("openvino_tokenizer", "openvino_detokenizer")


@pytest.mark.parametrize("place", ["1", "."])
@pytest.mark.parametrize(
    ("names", "taken"),
    [
        ([*TOKENIZERS, *ir("openvino_model")], "openvino_model.xml"),
        ([*TOKENIZERS, *ir("model")], "model.xml"),
        ([*TOKENIZERS, *ir("zebra")], "zebra.xml"),
        ([*TOKENIZERS, "model.onnx"], "model.onnx"),
        (ir("openvino_tokenizer"), "openvino_tokenizer.xml"),
    ],
)
def test_a_tokenizer_is_not_the_model(place: str, names: list[str], taken: str, tmp_path: Path) -> None:
    fill(tmp_path / place, *names)
    listing = list_versions(tmp_path)

    assert listing.model_files == {1: tmp_path / place / taken}
    assert not any("several models" in text for text in listing.problems.values())


def test_openvino_model_is_preferred(tmp_path: Path) -> None:
    fill(tmp_path / "1", *ir("model", "openvino_model"))
    listing = list_versions(tmp_path)

    assert listing.model_files == {1: tmp_path / "1" / "openvino_model.xml"}
    assert listing.problems == {"1": "holds several models; openvino_model.xml is taken, not model.xml"}


@pytest.mark.parametrize("others", ["{:05d}.txt", "a/{:05d}.txt", "a/a/{:05d}", ".{:05d}.swp"])
def test_a_model_behind_a_crowd_of_other_files(
    others: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "MAX_FILES", 100)
    fill(tmp_path / "1", *ir("model"), *(others.format(number) for number in range(120)))
    listing = list_versions(tmp_path)

    assert listing.model_files == {1: tmp_path / "1" / "model.xml"}
    assert "holds more than 100 files" in listing.problems["1"]


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (
            ["model.savedmodel/saved_model.pb", "model.savedmodel/variables/x"],
            "holds no model itself, but model.savedmodel/saved_model.pb; move what is in model.savedmodel/ one",
        ),
        (
            ["1/model.xml", "1/model.bin"],
            "holds no model itself, but 1/model.xml; move what is in 1/ one level up",
        ),
        (["onnx/model.onnx", "README.md"], "holds no model itself, but onnx/model.onnx"),
        (["mod\udcff.onnx"], "holds no model whose name is UTF-8, only mod\\xff.onnx; rename it"),
        (["a/b/model.onnx"], "holds no model: there is no file in it (yet)"),
    ],
)
def test_a_version_without_a_model_says_where_one_is(files: list[str], text: str, tmp_path: Path) -> None:
    fill(tmp_path / "1", *files)
    listing = list_versions(tmp_path)

    assert listing.model_files == {}
    assert listing.problems["1"].startswith(text)


def test_the_newest_of_too_many_versions_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovms_mp.storage.local._MAX_LOOKS", 20)
    monkeypatch.setattr(local._Looks.__init__, "__defaults__", (20, True))
    for number in range(1, 101):
        fill(tmp_path / str(number), "model.onnx")
    listing = list_versions(tmp_path)

    assert sorted(listing.versions) == list(range(81, 101))
    assert listing.problems[tmp_path.name].startswith("holds more than 20 files")
    assert listing.is_certain


# What else a base path may be.


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (
            ["resnet/1/m.xml", "resnet/1/m.bin"],
            "(resnet), not of one model's versions; give {0}/resnet, which has 1/m.xml",
        ),
        (
            ["b/1/m.onnx", "a/2/m.onnx", "a/10/m.onnx"],
            "(a, b), not of one model's versions; give {0}/a, which has 10/m.onnx",
        ),
        ([f"{name}/1/m.onnx" for name in "abcde"] + ["readme.md"], "(a, b, c and 2 more), not of"),
        (
            ["a/001/m.onnx", "b/", "c/1/"],
            "(a), not {1}; give {0}/a, which has 001/m.onnx",
        ),
    ],
)
def test_a_directory_of_models(tmp_path: Path, names: list[str], text: str) -> None:
    listing = list_versions(fill(tmp_path, *names))

    assert listing.versions == {}
    problem = listing.problems[tmp_path.name]
    assert problem.startswith("is a directory of models (")
    assert text.format(tmp_path, "of one model's versions") in problem
    assert "--config_path" in problem


@pytest.mark.parametrize(
    "names",
    [["1/m.onnx", "other/1/m.onnx"], ["other/1/readme.md"], ["v1/m.onnx"], [".hidden/1/m.onnx"], ["a/1"]],
)
def test_what_is_no_directory_of_models(tmp_path: Path, names: list[str]) -> None:
    listing = list_versions(fill(tmp_path, *names))

    assert not any("directory of models" in text for text in listing.problems.values())


def test_half_a_model_in_the_base_path_itself(tmp_path: Path) -> None:
    listing = list_versions(fill(tmp_path, "m.xml"))

    assert listing.problems == {tmp_path.name: "holds no model: m.xml is without m.bin (yet)"}


@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("where", ["1", "base"])
def test_what_the_system_refuses_is_not_reachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, where: str
) -> None:
    fill(tmp_path / "base", "1/m.onnx", "2/m.onnx")
    assert list_versions(tmp_path / "base").is_reachable
    failing(where, "scandir", error, monkeypatch)

    assert not list_versions(tmp_path / "base").is_reachable


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may be another user")
@pytest.mark.parametrize("mode", [0o000, 0o444, 0o666])
def test_a_version_whose_files_may_not_be_looked_at_may_still_be_there(mode: int) -> None:
    base = Path(tempfile.mkdtemp())
    try:
        base.chmod(0o755)
        fill(base, "1/m.onnx")
        (base / "1").chmod(mode)
        os.seteuid(65534)
        listing = list_versions(base)
    finally:
        os.seteuid(0)
        shutil.rmtree(base)

    assert (listing.versions, listing.is_certain, listing.is_reachable) == ({}, False, False)
    assert f"{base}/1 belongs to uid 0, gid 0, its mode is {mode:04o}" in listing.problems["1"]


def test_only_changing_all_the_time_is_reachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "1")
    adding_at_each_look(tmp_path / "1", monkeypatch)
    listing = list_versions(tmp_path)

    assert (listing.is_certain, listing.is_reachable) == (False, True)
