# SPDX-License-Identifier: Apache-2.0
"""Which file systems inotify cannot be trusted on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ovms_mp.storage.mounts import Mounts


def mounts_with(tmp_path: Path, kind: str) -> Mounts:
    """As if the test's directory were on a file system of this type."""
    device = tmp_path.stat().st_dev
    table = tmp_path / "mountinfo"
    line = (
        f"36 35 {os.major(device)}:{os.minor(device)} / /mnt\\040x rw,noatime shared:1 - {kind} /dev/x rw\n"
    )
    table.write_text(f"22 27 0:21 / /proc rw - proc proc rw\n{line}")
    return Mounts.read(table)


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "fuse", "fuse.sshfs", "fuseblk", "9p", "virtiofs", "ceph"]
)
def test_what_others_can_write_to(tmp_path: Path, kind: str) -> None:
    mounts = mounts_with(tmp_path, kind)

    assert f"type {kind}" in mounts.reason(str(tmp_path))
    assert mounts.reason(str(tmp_path / "not" / "there")) == mounts.reason(str(tmp_path))
    assert mounts.reason("/proc/self") == ""


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs", "overlay", "btrfs", "zfs", "nfsd", "fusectl"])
def test_what_is_local(tmp_path: Path, kind: str) -> None:
    assert mounts_with(tmp_path, kind).reason(str(tmp_path)) == ""


def test_a_table_that_cannot_be_read_makes_everything_local(tmp_path: Path) -> None:
    assert Mounts.read(tmp_path / "absent") == Mounts.none()
    assert Mounts.none().reason("/") == ""


def test_the_real_table_knows_this_machine() -> None:
    mounts = Mounts.read(Path("/proc/self/mountinfo"))

    assert mounts.types[os.stat("/proc").st_dev] == "proc"
