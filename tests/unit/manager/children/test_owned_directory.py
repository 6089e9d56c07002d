# SPDX-License-Identifier: Apache-2.0
"""Whose a private directory is: the process that holds its lock."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from ovms_mp.manager.children.owned_directory import OwnedDirectory, sweep

if TYPE_CHECKING:
    from pathlib import Path

LEFT_BEHIND = """
import os, signal, sys, tempfile
tempfile.tempdir = sys.argv[1]
from ovms_mp.manager.children.owned_directory import OwnedDirectory
(OwnedDirectory().path / "model.blob").write_bytes(b"x")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_killed_servers_left_is_removed_and_nothing_else(root: Path) -> None:
    subprocess.run([sys.executable, "-c", LEFT_BEHIND, str(root)], check=False, timeout=60)
    (left,) = root.iterdir()
    living = OwnedDirectory()
    (living.path / "model.blob").write_bytes(b"x")
    foreign, target = root / "other-1-abc", root / "target"
    foreign.mkdir()
    target.mkdir()
    link, file = root / "ovms_mp-compiled-link", root / "ovms_mp-compiled-file"
    link.symlink_to(target)
    file.touch()
    sweep()

    assert not left.exists()
    assert sorted(root.iterdir()) == sorted([living.path, foreign, target, link, file])
    assert (living.path / "model.blob").exists()
    living.close()
    assert not living.path.exists()


def test_directories_of_other_users_stay(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "ovms_mp-compiled-abc").mkdir()
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    sweep()

    assert (root / "ovms_mp-compiled-abc").exists()


def test_one_that_is_swept_while_it_is_made_is_made_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = tempfile.mkdtemp
    swept: list[str] = []

    def make_and_lose(prefix: str) -> str:
        path = make(prefix=prefix)
        if not swept:
            swept.append(path)
            shutil.rmtree(path)
        return path

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose)
    owned = OwnedDirectory()

    assert str(owned.path) not in swept
    assert list(root.iterdir()) == [owned.path]
    owned.close()
    assert not owned.path.exists()


def test_no_temporary_directory_is_nothing_to_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_directory() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", no_directory)
    sweep()
    with pytest.raises(FileNotFoundError):
        OwnedDirectory()
