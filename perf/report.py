# SPDX-License-Identifier: Apache-2.0
"""Result files, verdicts, and the table at the end."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from perf.records import (
    SCHEMA,
    SERVER,
    AnyRecord,
    Check,
    Environment,
    Footprint,
    Measurement,
    Problem,
    Verdict,
)
from perf.scenario import Scenario, Target

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


class ResultRefused(Exception):
    """A result file without environment, or of another schema."""


class ResultWriter:
    """Writes a result file line by line; the environment is its first line. Keeps the records for the table.

    Args:
        path: Written anew.
        environment: Where the run takes place; there is no result without.
    """

    def __init__(self, path: Path, environment: Environment) -> None:
        self._file = path.open("wb")
        self.records: list[AnyRecord] = []
        self.write(environment)

    def write(self, record: AnyRecord) -> None:
        """Append a record, at once: an aborted run leaves what it has."""
        self.records.append(record)
        self._file.write(msgspec.json.encode(record) + b"\n")
        self._file.flush()

    def __enter__(self) -> ResultWriter:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.close()


def read_results(path: Path) -> list[AnyRecord]:
    """Read a result file.

    Raises:
        ResultRefused: It does not begin with an environment, has another schema, or a line is no record.
    """
    decoder = msgspec.json.Decoder(AnyRecord)
    try:
        records: list[AnyRecord] = [decoder.decode(line) for line in path.read_bytes().splitlines()]
    except msgspec.DecodeError as error:
        raise ResultRefused(f"{path}: {error}") from None
    if not records or not isinstance(records[0], Environment):
        raise ResultRefused(
            f"{path}: its first line is not the environment; figures without one mean nothing"
        )
    if records[0].schema != SCHEMA:
        raise ResultRefused(f"{path}: schema {records[0].schema}, this program reads {SCHEMA}")
    return records


def judge(scenario: Scenario, measurements: Sequence[Measurement]) -> list[Verdict]:
    """Hold the server against the scenario's targets; nothing without measurements of both sides."""
    verdicts: list[Verdict] = []
    for target in scenario.targets:
        values = _target_values(target, measurements)
        if not values:
            continue
        value = statistics.median(values)
        is_met = value >= target.limit if target.measure == "rate_ratio" else value <= target.limit
        verdicts.append(
            Verdict(
                scenario=scenario.name,
                floor=target.floor,
                measure=target.measure,
                limit=target.limit,
                value=value,
                low=min(values),
                high=max(values),
                is_met=is_met,
            )
        )
    return verdicts


def _target_values(target: Target, measurements: Sequence[Measurement]) -> list[float]:
    """The target's measure, once a repeat."""
    floors = {found.repeat: found for found in measurements if found.subject == target.floor}
    servers = [found for found in measurements if found.subject == SERVER and found.repeat in floors]
    if target.measure == "rate_ratio":
        return [found.rate_per_s / floors[found.repeat].rate_per_s for found in servers]
    pairs = ((found.p50_ms, floors[found.repeat].p50_ms) for found in servers)
    known = [(ours, floor) for ours, floor in pairs if ours is not None and floor is not None]
    if target.measure == "p50_ratio":
        return [ours / floor for ours, floor in known]
    return [ours - floor for ours, floor in known]


def format_table(records: Sequence[AnyRecord]) -> str:
    """The whole result: environment, a row for each scenario and subject, answers, memory, problems."""
    scenarios = list(dict.fromkeys(found.scenario for found in _of(records, Measurement)))
    rows = [_HEADINGS, *(row for scenario in scenarios for row in _scenario_rows(scenario, records))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = [environment_line(found) for found in _of(records, Environment)]
    lines += [
        "",
        *(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ),
    ]
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


def environment_line(found: Environment) -> str:
    """Where and of what figures are, in one line."""
    dirty = " (dirty)" if found.is_dirty else ""
    return (
        f"{found.taken_at}, commit {found.commit[:12]}{dirty}, {found.cpu_model}, "
        f"cores {list(found.affinity)}, governor {found.governor}, load {found.load_average:.2f}, "
        f"Linux {found.kernel}, TCP {found.congestion_control}, Python {found.python}, "
        f"openvino {found.packages['openvino']}, grpcio {found.packages['grpcio']}"
    )


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
