# SPDX-License-Identifier: Apache-2.0
"""Reading what somebody may have replaced: regular files of a bounded size, and nothing else."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from ovms_mp.files import read_regular


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
