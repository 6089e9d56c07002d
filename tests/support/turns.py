# SPDX-License-Identifier: Apache-2.0
"""Tests that run beside each other, and tests that must have the machine to themselves: who runs when.

Several processes of pytest share a checkout's tests (``pytest -n``). Most tests bear company. One that measures
memory, processor time or waiting is marked ``quiet``: it waits for the tests that run, and holds up the next.
"""

from __future__ import annotations

import contextlib
import fcntl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def turn(directory: Path, *, alone: bool) -> Iterator[None]:
    """Wait for this test's turn, and keep it.

    Args:
        directory: The same for all processes.
        alone: Whether no other test may run meanwhile.
    """
    with (directory / "door").open("w") as door, (directory / "room").open("w") as room:
        # Who waits for an empty room stands in the door, so that it does empty.
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(door, fcntl.LOCK_UN)
        yield
