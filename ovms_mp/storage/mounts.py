# SPDX-License-Identifier: Apache-2.0
"""Mounted file systems: whether inotify sees everything that changes there, and whether one is gone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_REMOTE_TYPES = frozenset(
    {
        "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "gpfs", "lustre", "ncpfs", "nfs", "nfs4",
        "ocfs2", "orangefs", "panfs", "prl_fs", "pvfs2", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs", "wekafs",
    }
)  # fmt: skip
"""Other machines, or the host of a virtual one, can write there, and the kernel of this one is not told."""


@dataclass(frozen=True, slots=True)
class Ground:
    """The directories that lead to a path, with the device that each is on: tells an unmount from a removal.

    Where a file system was mounted, another one shows once it is unmounted, mostly with an empty directory.

    Attributes:
        devices: By directory without links, the path's own first.
    """

    devices: Mapping[str, int]

    @classmethod
    def of(cls, path: Path) -> Ground:
        """As it is now.

        Raises:
            OSError: It is not there, or cannot be looked at.
        """
        real = Path(os.path.realpath(path, strict=True))
        return cls({str(place): os.stat(place).st_dev for place in (real, *real.parents)})

    def lost_mount(self) -> str:
        """The directory on which another file system was mounted when this was noted; empty where that is unchanged."""
        for place, device in self.devices.items():
            try:
                return place if os.stat(place).st_dev != device else ""
            except OSError:
                continue  # Whoever holds it tells more.
        return ""


@dataclass(frozen=True, slots=True)
class Mounts:
    """Type of the file system by device number."""

    types: Mapping[int, str]

    @classmethod
    def none(cls) -> Mounts:
        """Nothing known; everything counts as local."""
        return cls({})

    @classmethod
    def read(cls, table: Path) -> Mounts:
        """Read ``/proc/self/mountinfo``, see proc_pid_mountinfo(5); unreadable is :meth:`none`."""
        types: dict[int, str] = {}
        try:
            lines = table.read_bytes().decode("utf-8", "replace").split("\n")
        except OSError:
            return cls.none()
        for line in lines:
            # ID, parent, major:minor, root, mount point, options, any number of tags, "-", type, source, options.
            left, _, right = line.partition(" - ")
            fields = left.split(" ")
            if len(fields) > 2 and right:
                major, _, minor = fields[2].partition(":")
                if major.isdecimal() and minor.isdecimal():
                    types[os.makedev(int(major), int(minor))] = right.split(" ", 1)[0]
        return cls(types)

    def reason(self, path: str) -> str:
        """Why inotify does not tell of everything at a path, or at what is left of it; empty where it does."""
        while True:
            try:
                device = os.stat(path).st_dev
                break
            except OSError:
                if path in ("/", ""):
                    return ""
                path = os.path.dirname(path)
        kind = self.types.get(device, "")
        if kind in _REMOTE_TYPES or kind.split(".")[0] in ("fuse", "fuseblk"):
            return f"is on a file system of type {kind}, where inotify does not see what others write"
        return ""
