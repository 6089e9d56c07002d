# SPDX-License-Identifier: Apache-2.0
"""Draw the plot of the README, perf/rates.svg, from the figures in perf/RECORD.md.

An SVG of rectangles and text needs no plotting library. Bars are ratios to the reference of their own row, as absolute
figures do not travel between machines.
"""

from __future__ import annotations

import argparse
import html
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from perf import CHECKOUT

RECORD = CHECKOUT / "perf" / "RECORD.md"
PLOT = CHECKOUT / "perf" / "rates.svg"
HEADING = "## Rates over gRPC, 16 requests in flight"

_NAMES = ("ovms_mp", "ovms_mp --grpc_front grpcio")
_COLORS = ("#2f6fb3", "#a9c4e2")
_WIDTH = 800
_LEFT = 250
_UNIT = 220
"""Pixels of a ratio of 1."""
_BAR, _GAP, _TOP = 20, 24, 64
_LABEL = 120
"""Pixels that a bar's label takes; it does not lie across the line of the reference."""
_CELLS = 5
_RATE = re.compile(r"([\d.]+)/s")


@dataclass(frozen=True, slots=True)
class Row:
    """A workload and the rates of those that carried it, the reference's first."""

    workload: str
    reference: str
    reference_per_s: float
    rates_per_s: tuple[float, ...]
    measured: str


def read_rows(record: str) -> list[Row]:
    """The rows of the record's table.

    Raises:
        ValueError: The table is missing, or a row has no figures.
    """
    section = record.partition(f"{HEADING}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    if not lines:
        raise ValueError(f"{RECORD.name} has no table below {HEADING!r}")
    return [_row(line) for line in lines]


def _row(line: str) -> Row:
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    if len(cells) != _CELLS:
        raise ValueError(f"{len(cells)} cells instead of {_CELLS}: {line}")
    workload, reference, *others, measured = cells
    rates = [_RATE.search(cell) for cell in (reference, *others) if cell]
    found = [float(rate[1]) for rate in rates if rate]
    if len(found) != len(rates) or len(found) < len(_NAMES) or min(found) <= 0:
        raise ValueError(f"no rate as in 49.2/s: {line}")
    return Row(workload, _RATE.sub("", reference).strip(), found[0], tuple(found[1:]), measured)


def draw(rows: list[Row]) -> str:
    """The plot as the text of an SVG file."""
    body: list[str] = []
    y = _TOP
    line_x = _LEFT + _UNIT
    for row in rows:
        middle = y + _BAR * len(row.rates_per_s) / 2
        body.append(_text(_LEFT - 12, middle - 2, row.workload, anchor="end", weight="bold"))
        body.append(_text(_LEFT - 12, middle + 14, f"1 = {row.reference}", anchor="end", size=11))
        for color, rate in zip(_COLORS, row.rates_per_s, strict=False):
            ratio = rate / row.reference_per_s
            body.append(
                f'<rect x="{_LEFT}" y="{y}" width="{ratio * _UNIT:.1f}" height="{_BAR - 3}" fill="{color}"/>'
            )
            end = _LEFT + ratio * _UNIT
            label_x = line_x if end < line_x < end + _LABEL else end
            body.append(_text(label_x + 6, y + _BAR - 7, f"{ratio:.2f} ({rate:,.0f}/s)"))
            y += _BAR
        y += _GAP
    height = y + 16
    body.append(f'<path d="M{line_x} {_TOP - 8}V{y - _GAP + 8}" stroke="#555" stroke-dasharray="4 3"/>')
    sources = "; ".join(dict.fromkeys(row.measured for row in rows))
    body.append(_text(12, height - 12, f"2 cores, load generator included. Measured: {sources}.", size=11))
    title = "Answers per second over gRPC, 16 requests in flight, relative to a reference"
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f"<title>{title}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        _text(12, 22, title, weight="bold"),
    ]
    x = _LEFT
    for name, color in zip(_NAMES, _COLORS, strict=True):
        head.append(f'<rect x="{x}" y="34" width="12" height="12" fill="{color}"/>')
        head.append(_text(x + 18, 45, name))
        x += 110
    return "\n".join([*head, *body, "</svg>"]) + "\n"


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 13, weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="#222">{html.escape(text)}</text>'
    )


def main(arguments: Sequence[str]) -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m perf plot", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if the committed plot differs"
    )
    check = parser.parse_args(arguments).check
    wanted = draw(read_rows(RECORD.read_text()))
    if not check:
        PLOT.write_text(wanted)
        return 0
    if PLOT.exists() and PLOT.read_text() == wanted:
        return 0
    sys.stderr.write(
        f"{PLOT.name} is not what {RECORD.name} says; run `python -m perf plot` and commit the result\n"
    )
    return 1
