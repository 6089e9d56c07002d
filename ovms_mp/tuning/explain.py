# SPDX-License-Identifier: Apache-2.0
"""What was tried, why the winner won, and what to paste."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.bench.drawing import Plot, Series, bars, svg, table
from ovms_mp.tuning.candidates import NOTHING, command_text, entry_text
from ovms_mp.tuning.search import FINAL_ROUNDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.bench.figures import Level
    from ovms_mp.tuning.candidates import Candidate
    from ovms_mp.tuning.search import Search, Trial
    from ovms_mp.tuning.target import Target

_NOISE = 0.02
_MOST_BARS = 12
_LATENCIES = ("p50", "p99")


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """A search that has ended.

    Attributes:
        given: Keys of the model that were not varied.
        seconds: How long it took.
        trouble: Why it could not go on; empty where it could.
    """

    target: Target
    search: Search
    levels: Mapping[Candidate, list[Level]]
    failures: Mapping[Candidate, str]
    name: str
    path: str
    given: Mapping[str, object]
    seconds: float
    is_complete: bool
    trouble: str = ""

    @property
    def ranked(self) -> list[Trial]:
        """What was measured: those that came furthest first, the best of them first."""
        tried = [trial for trial in self.search.trials if trial.scores]
        return sorted(tried, key=lambda trial: (bool(trial.dropped_in), -trial.score))

    def median(self, trial: Trial, name: str) -> float:
        """Of a percentile over all runs of a setting."""
        levels = [level for level in self.levels.get(trial.candidate, ()) if level.answered]
        return statistics.median(level.percentile(name) for level in levels) if levels else float("nan")

    def rate(self, trial: Trial) -> float:
        """Median of the rates of a setting."""
        levels = self.levels.get(trial.candidate, ())
        return statistics.median(level.rate_per_s for level in levels) if levels else 0.0


def findings_lines(found: Findings) -> list[str]:
    """Everything, for people."""
    lines = [*_table(found), *_bars(found)]
    lines += [f"! {candidate.text()}: {reason}" for candidate, reason in found.failures.items()]
    winner = found.search.best()
    if winner is None:
        why = "No setting served" if found.is_complete else "Interrupted before a setting was measured"
        return [*lines, "", f"{why}; nothing can be advised."]
    return [
        *lines,
        "",
        *_reasons(found, winner),
        "",
        "In a configuration file:",
        f"  {entry_text(winner.candidate, found.name, found.path, found.given)}",
        *(
            [f"  and the server's flag --cpu_workers {winner.candidate.workers}"]
            if winner.candidate.workers > 1
            else []
        ),
        "or as a command:",
        f"  {command_text(winner.candidate, found.name, found.path, found.given)}",
    ]


def _table(found: Findings) -> list[str]:
    rows = [["setting", "score", "range", "runs", "answers/s", "p50 ms", "p99 ms", "dropped in"]]
    for trial in found.ranked:
        shown = [found.target.shown(score) for score in (min(trial.last), max(trial.last))]
        rows.append(
            [
                trial.candidate.text(),
                found.target.shown(trial.score),
                f"{shown[0]} .. {shown[1]}",
                str(len(trial.scores)),
                f"{found.rate(trial):,.1f}",
                *(f"{found.median(trial, name):,.2f}" for name in _LATENCIES),
                trial.dropped_in or "-",
            ]
        )
    return table(rows)


def _bars(found: Findings) -> list[str]:
    tried = [trial for trial in found.ranked if trial.score][:_MOST_BARS]
    if found.target.figure == "rate":
        return ["", "answers/s", *bars([(trial.candidate.text(), trial.score) for trial in tried], ",.1f")]
    name = found.target.figure
    return ["", f"{name} ms", *bars([(trial.candidate.text(), 1.0 / trial.score) for trial in tried], ",.2f")]


def _reasons(found: Findings, winner: Trial) -> list[str]:
    target, score = found.target, winner.score
    runs = len(winner.last)
    measured = f"median of {runs} runs by turns" if runs > 1 else "one run"
    lines = [f"Best for {target.text()}: {winner.candidate.text()}, {target.shown(score)} ({measured})."]
    if runs < FINAL_ROUNDS:
        lines.append(
            "There was no time to measure the best ones again by turns; give a larger --budget to be sure."
        )
    plain = next((trial for trial in found.search.trials if trial.candidate == NOTHING and trial.score), None)
    if plain is not None and winner is not plain:
        ratio = score / plain.score
        verdict = "" if ratio > 1 + _NOISE else ", which is within the noise of such short runs"
        lines.append(
            f"That is {ratio:.2f} times what the server does with nothing set ({target.shown(plain.score)}){verdict}."
        )
    elif plain is not None:
        lines.append("Nothing needs to be set: no setting was better by more than a hundredth.")
    others = [trial for trial in found.ranked if trial.score and trial not in (winner, plain)]
    if others:
        other = others[0]
        lines.append(
            f"The next was {other.candidate.text()} with {target.shown(other.score)}, {other.score / score:.2f} times "
            "the best; of those within a hundredth of each other the one that sets least wins."
        )
    if not target.is_met(score):
        lines.append(
            f"NO setting keeps p99 below {target.limit_ms:g} ms at {target.rate_per_s:g} requests a second here."
        )
    if not found.is_complete:
        lines.append("The search was interrupted: this is what is known so far.")
    lines.append(
        f"{sum(len(trial.scores) for trial in found.search.trials)} runs of {len(found.ranked)} settings in "
        f"{found.seconds:.0f} s; the load took processor time from the server, as it ran on the same machine."
    )
    return lines


def findings_svg(found: Findings) -> str:
    """Rate over median latency, a point for each setting."""
    winner = found.search.best()
    tried = [trial for trial in found.ranked if trial.score]

    def series(name: str, trials: list[Trial]) -> Series:
        points = [(found.median(trial, "p50"), found.rate(trial)) for trial in trials]
        return Series(name, points, [trial.candidate.text() for trial in trials])

    rest = [trial for trial in tried if trial is not winner]
    both = [series("winner", [winner] if winner else []), series("others", rest)]
    plots = [Plot("Settings that were tried", "median latency, ms", "answers/s", both, has_lines=False)]
    ranked = [(float(place), found.rate(trial)) for place, trial in enumerate(tried, 1)]
    slow = [(float(place), found.median(trial, "p99")) for place, trial in enumerate(tried, 1)]
    plots.append(Plot("Answers a second by place", "place", "answers/s", [Series("rate", ranked)]))
    plots.append(Plot("p99 by place", "place", "ms", [Series("p99", slow)]))
    return svg(f"{found.name}: {found.target.text()}", plots)
