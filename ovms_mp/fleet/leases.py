# SPDX-License-Identifier: Apache-2.0
"""What servers on one machine must not share: each takes of numbered things those that no other has.

A lease is a lock on a file, of the actor and of the server that inherits the descriptor: it ends with the last of them,
however they end. flock(2).
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ovms_mp.errors import BootError
from ovms_mp.files import danger_of

if TYPE_CHECKING:
    from collections.abc import Iterable


def own_directory() -> Path:
    """This user's directory for all fleets of the machine, where nobody else may write.

    Raises:
        BootError: Somebody else may.
    """
    return private(Path(tempfile.gettempdir()) / f"ovms_mp-fleet-{os.geteuid()}")


def private(directory: Path) -> Path:
    """A directory that is made if it is missing, and is this user's alone.

    Raises:
        BootError: It is not.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        danger = danger_of(str(directory), "what servers read")
    except OSError as error:
        raise BootError(f"{directory}: {error.strerror}") from None
    if danger:
        raise BootError(f"{directory}: {danger}")
    return directory


def take(directory: Path, numbers: Iterable[int], count: int) -> dict[int, int]:
    """Lease some of the numbers; fewer than asked for where the others are taken.

    Args:
        directory: Where the files are; the same for all who share.
        numbers: In the order of preference.
        count: How many.

    Returns:
        Descriptors by number, which the caller owns; a child that is to have the lease, too, inherits them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    leased: dict[int, int] = {}
    for number in numbers:
        if len(leased) == count:
            break
        descriptor = os.open(directory / f"{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            leased[number] = descriptor
    return leased
