# SPDX-License-Identifier: Apache-2.0
"""Reading files that somebody else may replace: never waits, and never reads without end.

Whoever can write a directory can put a FIFO, a device or something endless where a file was. Every file that a user
names or may change is read through here.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def read_regular(path: Path | str, most_bytes: int) -> bytes:
    """The content of a regular file; symbolic links are followed.

    Args:
        path: The file.
        most_bytes: Longest content that is read.

    Raises:
        OSError: It cannot be opened or read (as the system says it), is no regular file (EINVAL), or is longer than
            ``most_bytes`` (EFBIG).
        ValueError: The path has a NUL character.
    """
    # Non-blocking, as opening a FIFO would wait for a writer; no terminal becomes this process's own.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(most_bytes + 1)
    finally:
        os.close(descriptor)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"it is too long; at most {_size(most_bytes)} are read")
    return content


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 and count % (1 << 20) == 0 else f"{count} bytes"
