# SPDX-License-Identifier: Apache-2.0
"""How much memory a trial may take.

A model of a few kilobytes can take gigabytes to compile, e.g. where constants are folded. A limit of the process
(RLIMIT_AS, RLIMIT_DATA) would count what is only reserved, so the manager looks at what is resident.

PERF: a look takes 0.15 ms, of 100 ms, while trials run; an engine that folds constants takes 0.2 GB between two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.child.memory import own_memory_bytes, read_available_memory, read_memory
from ovms_mp.config.server import MEBIBYTE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_RESERVE = 20
"""What must be left of the machine's memory without a limit in the settings: one of so many parts."""


class TrialMemory:
    """Finds the trial that takes too much."""

    def __init__(
        self,
        limit_mb: int,
        *,
        used_by: Callable[[int], int] = own_memory_bytes,
        available: Callable[[], int] = read_available_memory,
        total: Callable[[], int] = read_memory,
    ) -> None:
        """Prepare.

        Args:
            limit_mb: Of each trial; 0 leaves a reserve of the machine's memory instead.
            used_by: A process's own bytes.
            available: The machine's bytes that are left.
            total: All of the machine's bytes.
        """
        self._limit_mb = limit_mb
        self._used_by = used_by
        self._available = available
        self._total = total

    def excess(self, pids: Collection[int]) -> tuple[int, str] | None:
        """The trial that takes too much, with the reason; None where all may go on.

        Args:
            pids: Of all that run.
        """
        used, pid = max(((self._used_by(pid), pid) for pid in pids), default=(0, 0))
        used_mb = used // MEBIBYTE
        if self._limit_mb:
            if used_mb <= self._limit_mb:
                return None
            limit_mb = self._limit_mb
            return (
                pid,
                f"its trial takes {used_mb} MiB of memory; --trial_memory_limit_mb {limit_mb} is the most",
            )
        total = self._total()
        reserve, available = total // _RESERVE, self._available()
        # One that is small is not to blame, and ending it would not help.
        if available >= reserve or used <= reserve:
            return None
        return pid, (
            f"its trial takes {used_mb} MiB of memory and leaves {available // MEBIBYTE} of {total // MEBIBYTE} MiB, "
            f"less than the {reserve // MEBIBYTE} that are kept free; a --trial_memory_limit_mb lets it take more"
        )
