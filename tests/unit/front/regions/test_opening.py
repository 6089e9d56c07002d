# SPDX-License-Identifier: Apache-2.0
"""Which files are opened as a client's shared memory, and which are not."""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from ovms_mp.errors import RegionForbidden, RegionUnusable
from ovms_mp.front.regions.opening import open_file

if TYPE_CHECKING:
    from pathlib import Path

STRANGER = 12345
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "memory"
    path.write_bytes(b"0123456789")
    return path


def refusal(key: str, directory: Path) -> str:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises((RegionUnusable, RegionForbidden)) as error:
        open_file(key, str(directory))
    assert len(os.listdir("/proc/self/fd")) == before
    return error.value.message


@pytest.mark.parametrize("key", ["memory", "/memory"])
def test_a_file_of_ours_is_opened_for_reading_and_writing(key: str, file: Path) -> None:
    opened = open_file(key, str(file.parent))
    try:
        assert opened.size == 10
        assert opened.identity == (file.stat().st_dev, file.stat().st_ino)
        assert os.pread(opened.descriptor, 4, 2) == b"2345"
        assert os.pwrite(opened.descriptor, b"x", 0) == 1
        assert not os.get_inheritable(opened.descriptor)
    finally:
        os.close(opened.descriptor)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        ".",
        "..",
        "/..",
        "//memory",
        "a/memory",
        "memory/",
        "../memory",
        "/dev/shm/memory",  # noqa: S108
        "mem\0ory",
    ],
)
def test_a_key_is_the_name_of_a_file(key: str, file: Path) -> None:
    assert "a key is the name of a file in /dev/shm" in refusal(key, file.parent)


def test_a_key_that_is_no_text_is_told(file: Path) -> None:
    assert "the key is no text" in refusal("\ud800", file.parent)


def test_what_cannot_be_opened_says_why(file: Path) -> None:
    assert refusal("none", file.parent).endswith("'none': No such file or directory")
    assert refusal("n" * 256, file.parent).endswith("File name too long")
    assert refusal("memory", file.parent / "nowhere").endswith("No such file or directory")
    assert len(refusal("n" * 100_000, file.parent)) < 600


def test_links_are_not_followed(file: Path) -> None:
    (file.parent / "link").symlink_to(file)
    (file.parent / "dangling").symlink_to("nowhere")
    for key in ("link", "dangling"):
        assert "it is a symbolic link, not a file" in refusal(key, file.parent)


def test_only_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for key, kind in (("directory", "a directory"), ("fifo", "a FIFO"), ("socket", "a socket")):
            assert f"it is {kind}, not a file" in refusal(key, tmp_path)


@as_root
def test_devices_are_not_opened(tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("devices cannot be made here")
    assert "it is a device, not a file" in refusal("null", tmp_path)


def test_a_file_with_another_name_may_be_somebody_elses_affair(file: Path) -> None:
    os.link(file, file.parent / "again")
    assert "the file has 2 names, expected one" in refusal("memory", file.parent)


@as_root
@pytest.mark.parametrize(
    ("group", "mode", "is_allowed"),
    [(0, 0o660, True), (0, 0o670, True), (0, 0o640, False), (0, 0o620, False), (0, 0o606, False),
     (STRANGER, 0o660, False), (STRANGER, 0o666, False)],
)  # fmt: skip
def test_a_file_of_another_user_must_be_open_to_a_group_of_ours(
    file: Path, group: int, mode: int, is_allowed: bool
) -> None:
    os.chown(file, STRANGER, group)
    file.chmod(mode)
    if is_allowed:
        os.close(open_file("memory", str(file.parent)).descriptor)
    else:
        text = refusal("memory", file.parent)
        assert f"belongs to user {STRANGER} and group {group} with mode {mode:04o}" in text
        assert f"must belong to the server's user {os.geteuid()}" in text


@as_root
def test_a_file_of_our_user_may_have_any_group(file: Path) -> None:
    os.chown(file, os.geteuid(), STRANGER)
    file.chmod(0o600)
    os.close(open_file("memory", str(file.parent)).descriptor)
