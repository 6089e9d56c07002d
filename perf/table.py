# SPDX-License-Identifier: Apache-2.0
"""Short tables and figures with their spread, for the measurements that stand by themselves."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from perf.environment import describe_environment
from perf.report import environment_line
from perf.run import say


def say_environment() -> None:
    """Print where the figures come from.

    Raises:
        OSError: h2load is not installed.
    """
    say(environment_line(describe_environment()))


def say_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows with aligned columns; the first row has the headings."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Median and extremes."""
    if not values:
        return "-"
    return f"{statistics.median(values):{form}} ({min(values):{form}}..{max(values):{form}})"
