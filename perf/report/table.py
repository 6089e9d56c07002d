# SPDX-License-Identifier: Apache-2.0
"""The table of a result file."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import TypeVar

from perf.report.console import aligned, environment_line
from perf.report.records import (
    SERVER,
    AnyRecord,
    Check,
    Environment,
    Footprint,
    Measurement,
    Problem,
    Verdict,
)

RecordT = TypeVar("RecordT")

_HEADINGS = (
    "scenario",
    "subject",
    "req/s",
    "spread",
    "p50 ms",
    "p99 ms",
    "us/request",
    "server is",
    "wanted",
    "",
)


def format_table(records: Sequence[AnyRecord]) -> str:
    """The whole result: environment, a row for each scenario and subject, answers, memory, problems."""
    scenarios = list(dict.fromkeys(found.scenario for found in _of(records, Measurement)))
    rows = [_HEADINGS, *(row for scenario in scenarios for row in _scenario_rows(scenario, records))]
    lines = [environment_line(found) for found in _of(records, Environment)]
    lines += ["", *aligned(rows)]
    lines += ["", *(_check_line(found) for found in _of(records, Check))]
    lines += ["", *(_footprint_line(found) for found in _of(records, Footprint))]
    lines += [f"PROBLEM {found.scenario}: {found.message}" for found in _of(records, Problem)]
    lines += [
        "",
        "Latencies are a closed loop's, not corrected for coordinated omission; us/request: processor time.",
    ]
    return "\n".join(lines)


def _of(records: Iterable[AnyRecord], kind: type[RecordT]) -> list[RecordT]:
    return [record for record in records if isinstance(record, kind)]


def _scenario_rows(scenario: str, records: Sequence[AnyRecord]) -> list[tuple[str, ...]]:
    """The server's row, then a row for each floor with what the server is beside it."""
    measured = [found for found in _of(records, Measurement) if found.scenario == scenario]
    verdicts = {found.floor: found for found in _of(records, Verdict) if found.scenario == scenario}
    subjects = sorted({found.subject for found in measured}, key=lambda subject: (subject != SERVER, subject))
    server = [found for found in measured if found.subject == SERVER]
    rows: list[tuple[str, ...]] = []
    for subject in subjects:
        own = [found for found in measured if found.subject == subject]
        beside = ("", "", "") if subject == SERVER else _beside(own, server, verdicts.get(subject))
        rows.append((scenario if not rows else "", subject, *_figures(own), *beside))
    return rows


def _figures(measurements: Sequence[Measurement]) -> tuple[str, str, str, str, str]:
    rates = [found.rate_per_s for found in measurements]
    kinds = sorted({kind for found in measurements for kind in found.cpu_us})
    cpu_us = (
        f"{kind} {statistics.median(found.cpu_us.get(kind, 0.0) for found in measurements):.0f}"
        for kind in kinds
    )
    return (
        f"{statistics.median(rates):.1f}",
        f"{min(rates):.1f}..{max(rates):.1f}",
        _median_ms([found.p50_ms for found in measurements]),
        _median_ms([found.p99_ms for found in measurements]),
        ", ".join(cpu_us),
    )


def _median_ms(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.3f}" if known else "-"


def _beside(
    floor: Sequence[Measurement], server: Sequence[Measurement], verdict: Verdict | None
) -> tuple[str, str, str]:
    """What the server is beside this floor, what is wanted, and whether it is so."""
    if not server:
        return ("", "", "")
    if verdict is None:
        ratio = statistics.median(f.rate_per_s for f in server) / statistics.median(
            f.rate_per_s for f in floor
        )
        return (f"{ratio:.2f} x", "-", "")
    word = "met" if verdict.is_met else "MISSED"
    if verdict.measure == "rate_ratio":
        spread = f"({verdict.low:.2f}..{verdict.high:.2f})"
        return (f"{verdict.value:.2f} x {spread}", f">= {verdict.limit:g} x", word)
    if verdict.measure == "p50_ratio":
        spread = f"({verdict.low:.2f}..{verdict.high:.2f})"
        return (f"p50 {verdict.value:.2f} x {spread}", f"<= {verdict.limit:g} x", word)
    return (f"p50 {verdict.value:+.3f} ms", f"<= +{verdict.limit:g} ms", word)


def _check_line(found: Check) -> str:
    counts = f"{found.right} right, {found.wrong} wrong, {found.failed} failed"
    latency = (
        "" if found.p50_ms is None else f"; checking client p50 {found.p50_ms:.2f}, p99 {found.p99_ms:.2f} ms"
    )
    return f"answers under load, {found.scenario}: {counts}{latency}"


def _footprint_line(found: Footprint) -> str:
    parts = (
        f"{count} {kind} RSS {found.rss_bytes[kind] >> 20} PSS {found.pss_bytes[kind] >> 20}"
        for kind, count in sorted(found.processes.items())
    )
    return f"memory MiB, {found.scenario}: {', '.join(parts)}; ready after {found.start_s:.1f} s"
