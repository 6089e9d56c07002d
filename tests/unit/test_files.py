# SPDX-License-Identifier: Apache-2.0
"""Reading what somebody may have replaced: regular files of a bounded size, and nothing else."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovms_mp.files import read_regular, refusal, refused_part

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that everybody may enter, and this process as a user who owns nothing in it."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    if os.geteuid() != 0:
        yield directory
    else:
        os.seteuid(NOBODY)
        yield directory
        os.seteuid(0)
    shutil.rmtree(directory)


def test_a_file_and_a_link_to_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")

    assert read_regular(tmp_path / "file", 5) == b"12345"
    assert read_regular(str(tmp_path / "link"), 10) == b"12345"


def test_what_is_too_long(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="at most 16 MiB") as caught:
        read_regular(tmp_path / "file", 16 << 20)

    assert caught.value.errno == errno.EFBIG


@pytest.mark.parametrize(
    "path", ["/dev/zero", "/dev/null", "/dev/full", "/dev/tty", "/proc", "fifo", "loop", "link"]
)
def test_what_is_no_file(tmp_path: Path, path: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("/dev/zero")
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=r".") as caught:
        read_regular(tmp_path / path, 100)

    assert caught.value.strerror
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        with pytest.raises(OSError, match=r"."):
            read_regular(tmp_path / "s", 100)


# Why something may not be read.


def as_owner(path: Path, mode: int) -> None:
    """Set a mode, whoever we are now."""
    user = os.geteuid()
    os.seteuid(os.getuid())
    path.chmod(mode)
    os.seteuid(user)


def made(directory: Path, *names: str) -> None:
    user = os.geteuid()
    os.seteuid(os.getuid())
    for name in names:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text("")
    os.seteuid(user)


def denied(path: Path) -> str:
    with pytest.raises(PermissionError) as caught:
        os.listdir(path) if path.is_dir() else path.read_bytes()
    return refusal(path, caught.value)


def test_a_file_without_permission(shared: Path) -> None:
    made(shared, "model.xml")
    as_owner(shared / "model.xml", 0o200)

    assert denied(shared / "model.xml") == (
        f"Permission denied: {shared}/model.xml belongs to uid {os.getuid()}, gid {os.getgid()}, its mode is 0200, and "
        f"the server runs as uid {os.geteuid()}, gid {os.getegid()}; allow it (chmod a+r), or run the server as a user "
        "who may read it"
    )


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o200])
def test_a_directory_on_the_way_without_permission(shared: Path, mode: int) -> None:
    made(shared, "m/1")
    as_owner(shared / "m", mode)
    text = refusal(shared / "m" / "1", PermissionError(errno.EACCES, "Permission denied"))
    as_owner(shared / "m", 0o755)

    assert f"{shared}/m belongs to" in text
    assert f"its mode is {mode:04o}" in text
    assert "chmod a+rx" in text


def test_a_directory_that_may_be_entered_and_not_listed(shared: Path) -> None:
    made(shared, "m/1")
    as_owner(shared / "m", 0o311)
    text = denied(shared / "m")

    assert f"{shared}/m belongs to" in text


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EPERM])
def test_other_reasons_are_the_systems_words(tmp_path: Path, number: int) -> None:
    assert refusal(tmp_path, OSError(number, os.strerror(number))) == os.strerror(number)


@pytest.mark.parametrize("name", ["m.xml", "m.bin", "m.onnx.data"])
def test_the_part_of_a_model_that_may_not_be_read(shared: Path, name: str) -> None:
    made(shared, "m.xml", "m.bin", "m.onnx.data", "n.bin")
    as_owner(shared / "n.bin", 0)
    assert refused_part(shared / "m.xml") == ""
    as_owner(shared / name, 0)

    assert f"{shared}/{name} belongs to" in refused_part(str(shared / "m.xml"))


def test_the_part_of_a_saved_model_that_may_not_be_read(shared: Path) -> None:
    made(shared, "saved_model.pb", "variables/variables.data")
    assert refused_part(shared) == ""
    as_owner(shared / "variables" / "variables.data", 0)

    assert "variables.data belongs to" in refused_part(shared)


def test_a_model_that_is_gone_is_not_refused(tmp_path: Path) -> None:
    assert refused_part(tmp_path / "away" / "m.xml") == ""
