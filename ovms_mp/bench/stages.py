# SPDX-License-Identifier: Apache-2.0
"""Where a request's time goes in the server, from two looks at its ``/metrics``."""

from __future__ import annotations

import re

from ovms_mp.model.own_metrics import STAGE_SECONDS

OWN_PREFIX = "ovms_mp_"
"""Of metrics that no other server has."""
_SAMPLE = re.compile(rf"^{STAGE_SECONDS}_(sum|count)\{{(.*)\}} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")
_MILLI = 1e3
Totals = dict[str, tuple[float, float]]
"""Seconds and requests by stage."""


def stage_totals(page: str, model: str) -> Totals:
    """What a page says of a model's stages, all versions together; empty if nothing."""
    totals: dict[str, list[float]] = {}
    for kind, labels, value in _SAMPLE.findall(page):
        named = {label: _ESCAPED.sub(_meant, text) for label, text in _LABEL.findall(labels)}
        if named.get("name") == model and "stage" in named:
            totals.setdefault(named["stage"], [0.0, 0.0])[kind == "count"] += float(value)
    return {stage: (seconds, count) for stage, (seconds, count) in totals.items()}


def _meant(escaped: re.Match[str]) -> str:
    """A character that Prometheus' text has a backslash before."""
    return "\n" if escaped[1] == "n" else escaped[1]


def counted(before: Totals, after: Totals) -> float:
    """How many requests went through all stages between two looks."""
    return min((count - before.get(stage, (0.0, 0.0))[1] for stage, (_, count) in after.items()), default=0.0)


def mean_stages_ms(before: Totals, after: Totals) -> dict[str, float]:
    """The mean of each stage between two looks."""
    found = {}
    for stage, (seconds, count) in after.items():
        seconds_before, count_before = before.get(stage, (0.0, 0.0))
        if count > count_before:
            found[stage] = (seconds - seconds_before) / (count - count_before) * _MILLI
    return found
