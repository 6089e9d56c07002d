# SPDX-License-Identifier: Apache-2.0
"""Opening a client's shared memory by the name that it gave: only files that a client of ours may have made.

A name comes from the network, so it must lead to nothing but a plain file in one directory that belongs to who runs the
server. What is asked of the file is asked of the open descriptor, where nobody can change the answer any more.

The rule of whose file it may be: it belongs to the server's user; or its group is one of the server's groups, and that
group may read and write it. The superuser's servers keep to it, too, though the system would let them open anything.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from ovms_mp.errors import OvmsError, RegionForbidden, RegionUnusable, shortened

SHARED_MEMORY_DIRECTORY = "/dev/shm"  # noqa: S108  # where shm_open(3) has its files
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_GROUP_READS_AND_WRITES = stat.S_IRGRP | stat.S_IWGRP
_LONGEST_SHOWN = 300

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class FileIdentity(NamedTuple):
    """Which file it is, whatever its names are."""

    device: int
    inode: int


class OpenFile(NamedTuple):
    """A file of a client's, for reading and writing; who opened it closes the descriptor."""

    descriptor: int
    identity: FileIdentity
    size: int


def open_file(key: str, directory: str = SHARED_MEMORY_DIRECTORY) -> OpenFile:
    """Open the shared memory of a name.

    Never blocks, and follows no link.

    Args:
        key: As shm_open(3) takes it, with or without a slash before it.
        directory: Where shared memory is.

    Raises:
        RegionUnusable: There is no such file, or it cannot be shared memory of a client.
        RegionForbidden: The file is none of the server's user and groups.
    """
    name = _file_name(key)
    try:
        parent = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Opening a FIFO or a device can have effects of its own, so that is not even tried.
            _refuse_unfit(os.stat(name, dir_fd=parent, follow_symlinks=False), key)
            descriptor = os.open(name, _FLAGS, dir_fd=parent)
        finally:
            os.close(parent)
    except OSError as error:
        raise RegionUnusable(f"{_unable(key)}: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        _refuse_unfit(status, key)
    except OvmsError:
        os.close(descriptor)
        raise
    return OpenFile(descriptor, FileIdentity(status.st_dev, status.st_ino), status.st_size)


def open_sealed(pid: int, descriptor: int, *, is_writable: bool) -> OpenFile:
    """Open memory that another process of ours has been handed, by its descriptor there.

    Raises:
        RegionUnusable: It is not open there any more, or its owner does not let this user open it.
    """
    flags = (os.O_RDWR if is_writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        opened = os.open(f"/proc/{pid}/fd/{descriptor}", flags)
    except OSError as error:
        raise RegionUnusable(f"Unable to open sealed memory: {error.strerror}") from None
    status = os.fstat(opened)
    return OpenFile(opened, FileIdentity(status.st_dev, status.st_ino), status.st_size)


def _file_name(key: str) -> bytes:
    """The file's name in the directory.

    Raises:
        RegionUnusable: The key is no name of a file there.
    """
    try:
        name = key.removeprefix("/").encode()
    except UnicodeEncodeError:
        raise RegionUnusable(f"{_unable(key)}: the key is no text") from None
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise RegionUnusable(
            f"{_unable(key)}: a key is the name of a file in {SHARED_MEMORY_DIRECTORY}, one '/' may stand before it"
        )
    return name


def _refuse_unfit(status: os.stat_result, key: str) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise RegionUnusable(f"{_unable(key)}: it is {_KINDS.get(kind, 'something else')}, not a file")
    if status.st_nlink > 1:
        raise RegionUnusable(f"{_unable(key)}: the file has {status.st_nlink} names, expected one")
    if status.st_uid == os.geteuid():
        return
    groups = {os.getegid(), *os.getgroups()}
    if status.st_gid in groups and status.st_mode & _GROUP_READS_AND_WRITES == _GROUP_READS_AND_WRITES:
        return
    raise RegionForbidden(
        f"{_unable(key)}: the file belongs to user {status.st_uid} and group {status.st_gid} with mode "
        f"{stat.S_IMODE(status.st_mode):04o}; it must belong to the server's user {os.geteuid()}, or to one of its "
        f"groups {sorted(groups)} with read and write permission for the group"
    )


def _unable(key: str) -> str:
    """Triton's words."""
    return f"Unable to open shared memory region: {shortened(repr(key), _LONGEST_SHOWN)}"
