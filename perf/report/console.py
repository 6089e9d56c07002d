# SPDX-License-Identifier: Apache-2.0
"""What measurements print: progress, the environment, short tables, figures with their spread."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence

from perf.report.environment import describe_environment
from perf.report.records import Environment


def say(line: str) -> None:
    """Tell whoever waits how far it is."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def say_environment() -> None:
    """Print where the figures come from.

    Raises:
        OSError: h2load is not installed.
    """
    say(environment_line(describe_environment()))


def environment_line(found: Environment) -> str:
    """Where and of what figures are, in one line."""
    dirty = " (dirty)" if found.is_dirty else ""
    return (
        f"{found.taken_at}, commit {found.commit[:12]}{dirty}, {found.cpu_model}, "
        f"cores {list(found.affinity)}, governor {found.governor}, load {found.load_average:.2f}, "
        f"Linux {found.kernel}, TCP {found.congestion_control}, Python {found.python}, "
        f"openvino {found.packages['openvino']}, grpcio {found.packages['grpcio']}"
    )


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, with aligned columns; the first row has the headings."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def say_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows as :func:`aligned`."""
    for line in aligned(rows):
        say(line)


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Median and extremes."""
    if not values:
        return "-"
    return f"{statistics.median(values):{form}} ({min(values):{form}}..{max(values):{form}})"
