# SPDX-License-Identifier: Apache-2.0
"""Reading files that somebody else may replace: never waits, and never reads without end.

Whoever can write a directory can put a FIFO, a device or something endless where a file was. Every file that a user
names or may change is read through here.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from ovms_mp.model.formats import is_part_of

_MOST_PARTS = 1000
"""Files of a model's directory that are looked at for one that may not be read."""


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
            raise OSError(errno.EINVAL, "it is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(most_bytes + 1)
    finally:
        os.close(descriptor)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"it is too long; at most {_size(most_bytes)} are read")
    return content


def refusal(path: Path | str, error: OSError) -> str:
    """Why a file or directory cannot be read; where permission is missing, whose it is and what would help.

    Numbers only: names of users may have to be asked of another machine.
    """
    reason = error.strerror or str(error)
    if error.errno != errno.EACCES:
        return reason
    for place in (*reversed(Path(path).parents), Path(path)):
        try:
            state = os.stat(place)
        except OSError:
            break
        is_directory = stat.S_ISDIR(state.st_mode)
        # What lies behind a directory can be reached with x alone; the last one is to be read.
        needed = (os.X_OK if is_directory else 0) | (os.R_OK if place == Path(path) else 0)
        if not os.access(place, needed, effective_ids=True):
            return (
                f"{reason}: {place} belongs to uid {state.st_uid}, gid {state.st_gid}, its mode is "
                f"{stat.S_IMODE(state.st_mode):04o}, and the server runs as uid {os.geteuid()}, gid {os.getegid()}; "
                f"allow it (chmod a+{'rx' if is_directory else 'r'}), or run the server as a user who may read it"
            )
    return reason


def refused_part(model_file: Path | str) -> str:
    """Which file of a model may not be read, and why; empty where all may.

    Args:
        model_file: The file, of which those beside it with the same stem are parts, or a directory.
    """
    path = Path(model_file)
    parts: list[Path] = [path]
    try:
        if path.is_dir():
            parts += sorted(path.rglob("*"))[:_MOST_PARTS]
        else:
            parts += sorted(part for part in path.parent.iterdir() if is_part_of(path.name, part.name))
    except OSError:
        pass  # Not ours to list; what is known is tried.
    for part in parts:
        try:
            os.close(os.open(part, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY))
        except PermissionError as error:
            return refusal(part, error)
        except OSError:
            continue  # Gone or worse; the engine's reason says more.
    return ""


def danger_of(directory: str, content: str) -> str:
    """Why what lies in a directory cannot be trusted: whoever can write a model decides what is computed.

    Args:
        directory: It exists.
        content: What lies there, for people.
    """
    state = os.stat(directory)
    if state.st_uid not in (os.geteuid(), 0):
        return f"it belongs to user {state.st_uid}, who could replace {content} in it"
    if state.st_mode & stat.S_IWOTH:
        return f"every user may write there, and could replace {content} in it (chmod o-w)"
    return ""


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 and count % (1 << 20) == 0 else f"{count} bytes"
