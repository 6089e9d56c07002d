# SPDX-License-Identifier: Apache-2.0
"""What was measured, for people, for programs and as a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ovms_mp.bench.drawing import Plot, Series, bars, svg, table
from ovms_mp.bench.figures import SHARES, Level

if TYPE_CHECKING:
    from collections.abc import Sequence

_LATENCIES = (*SHARES, "max")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that ``--json`` prints.

    Attributes:
        inputs: Name, type and shape of what was sent.
        is_complete: False after Ctrl-C.
    """

    url: str
    model: str
    api: str
    inputs: tuple[str, ...]
    request_bytes: int
    answer_bytes: int
    levels: tuple[Level, ...]
    notes: tuple[str, ...] = ()
    is_complete: bool = True


def head_lines(report: Report) -> list[str]:
    """Who was asked, and for what."""
    return [
        f"{report.url}  {report.model}  API {report.api}",
        f"request: {', '.join(report.inputs)}; {report.request_bytes:,} bytes, answered with {report.answer_bytes:,}",
        *(f"note: {note}" for note in report.notes),
    ]


def table_lines(levels: Sequence[Level]) -> list[str]:
    """A row for each level, its notes, and bars of the rates."""
    if not levels:
        return ["nothing was measured"]
    is_open = not levels[0].in_flight
    stages = list(dict.fromkeys(stage for level in levels for stage in level.stages_ms))
    first = "sent/s" if is_open else "in flight"
    heads = [first, "answered/s", *(f"{name} ms" for name in _LATENCIES), "errors", "load by"]
    rows = [[*heads, *(f"{stage} ms" for stage in stages)]]
    rows += [_row(level, stages) for level in levels]
    lines = table(rows)
    if stages:
        lines.append("The columns after `load by` are means of stages inside the server.")
    for level, row in zip(levels, rows[1:], strict=True):
        lines += [f"! {first} {row[0]}: {note}" for note in level.notes]
        lines += [f"! {first} {row[0]}: {count:,} x {code}" for code, count in level.errors.items()]
    if len(levels) > 1:
        lines += ["", "answered/s", *bars([(_name(level), level.rate_per_s) for level in levels])]
        slow = [(_name(level), level.percentile("p99")) for level in levels if level.answered]
        lines += ["", "p99 ms", *bars(slow, ",.2f")]
    return lines


def _name(level: Level) -> str:
    return str(level.in_flight) if level.in_flight else f"{level.offered_per_s:g}"


def _row(level: Level, stages: Sequence[str]) -> list[str]:
    latencies = [f"{level.latency_ms[name]:,.2f}" if level.answered else "-" for name in _LATENCIES]
    inside = [f"{level.stages_ms[stage]:.3f}" if stage in level.stages_ms else "-" for stage in stages]
    made_by = f"{level.generator} {level.cpu_share:.2f} cores"
    return [
        _name(level),
        f"{level.rate_per_s:,.1f}",
        *latencies,
        str(sum(level.errors.values())),
        made_by,
        *inside,
    ]


def report_svg(report: Report) -> str:
    """Rate and latency by level; with one level, the percentiles of its latency."""
    levels = [level for level in report.levels if level.answered]
    what = "requests in flight" if not levels or levels[0].in_flight else "requests sent a second"
    xs = [float(level.in_flight or level.offered_per_s) for level in levels]
    rate = [(x, level.rate_per_s) for x, level in zip(xs, levels, strict=True)]
    latency = [
        Series(name, [(x, level.percentile(name)) for x, level in zip(xs, levels, strict=True)])
        for name in ("p50", "p90", "p99")
    ]
    return svg(
        f"{report.model} at {report.url}, API {report.api}",
        [
            Plot("Answers a second", what, "answers/s", [Series("rate", rate)], is_log_x=True),
            Plot("Latency", what, "ms", latency, is_log_x=True),
        ],
    )
