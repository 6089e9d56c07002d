# SPDX-License-Identifier: Apache-2.0
"""Sockets in the file system: who has them, what is replaced, and what is left alone."""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from ovms_mp.errors import BootError
from ovms_mp.manager.fronts.unix_sockets import UnixSocket, bind_unix

if TYPE_CHECKING:
    from pathlib import Path


def bind(path: Path, mode: int = 0o660, group: str = "") -> UnixSocket:
    (bound,) = bind_unix([str(path)], "rest_bind_address", mode, group)
    return bound


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.sock"


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_a_socket_has_its_mode_and_group_and_goes_with_its_owner(path: Path, mode: int) -> None:
    before = os.umask(0o027)
    os.umask(before)
    bound = bind(path, mode, str(os.getgid()))
    state = path.stat()
    assert (stat.S_IMODE(state.st_mode), state.st_gid) == (mode, os.getgid())
    after = os.umask(before)
    assert after == before
    bound.close()
    bound.close()
    assert not path.exists()


def test_one_that_nobody_listens_on_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    bound = bind(path)
    bound.listener.listen()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    bound.close()


def test_one_in_use_by_another_program_is_named(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(BootError, match=f"--rest_bind_address unix:{path} is in use: another program"):
            bind(path)
    assert path.exists()


def test_one_in_use_by_another_server_is_named_even_if_it_does_not_listen_yet(
    path: Path, tmp_path: Path
) -> None:
    bound = bind(path)
    alias = tmp_path / "alias"
    alias.symlink_to(tmp_path)
    for other in (path, alias / path.name):
        with pytest.raises(BootError, match="is in use: another ovms_mp listens there"):
            bind(other)
    bound.close()
    bind(path).close()


def test_what_is_no_socket_is_left_alone(path: Path, tmp_path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(BootError, match="is there and is no socket"):
        bind(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(BootError, match="is no socket"):
        bind(link)
    assert path.read_text() == "precious"


def test_a_file_that_has_taken_its_place_is_left_alone(path: Path) -> None:
    bound = bind(path)
    path.unlink()
    path.write_text("another's")
    bound.close()
    assert path.read_text() == "another's"


def test_what_cannot_be_bound_is_named_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(BootError, match=f"there is no directory {tmp_path / 'missing'}; create it first"):
        bind(tmp_path / "missing" / "s.sock")
    taken = tmp_path / "file"
    taken.write_text("")
    with pytest.raises(BootError, match=r"file/s\.sock: Not a directory"):
        bind(taken / "s.sock")


def test_a_group_that_is_none_leaves_nothing_behind(path: Path) -> None:
    with pytest.raises(BootError, match="--unix_socket_group no_such_group_here: there is no such group"):
        bind(path, group="no_such_group_here")
    assert not path.exists()
    bind(path).close()


def test_all_or_nothing(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    bad.write_text("")
    with pytest.raises(BootError):
        bind_unix([str(good), str(bad)], "grpc_bind_address", 0o660, "")
    assert not good.exists()
