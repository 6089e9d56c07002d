# SPDX-License-Identifier: Apache-2.0
"""Lists of processor cores as the kernel writes them, e.g. ``0-3,8``; see cpuset(7), "List format". Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def parse_core_list(text: str) -> set[int]:
    """The cores of a list; empty for anything else."""
    cores: set[int] = set()
    try:
        for part in filter(None, text.strip().split(",")):
            low, _, high = part.partition("-")
            cores.update(range(int(low), int(high or low) + 1))
    except ValueError:
        return set()
    return cores


def core_text(cores: Iterable[int]) -> str:
    """The list of these cores; empty for none."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and runs[-1][1] == core - 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
