# SPDX-License-Identifier: Apache-2.0
"""Where a request's time goes in the server, from two looks at its ``/metrics``."""

from __future__ import annotations

import re

from ovms_mp.model.own_metrics import STAGE_SECONDS

_SAMPLE = re.compile(rf"^{STAGE_SECONDS}_(sum|count)\{{(.*)\}} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_MILLI = 1e3
Totals = dict[str, tuple[float, float]]
"""Seconds and requests by stage."""


def stage_totals(page: str, model: str) -> Totals:
    """What a page says of a model's stages, all versions together; empty if nothing."""
    totals: dict[str, list[float]] = {}
    for kind, labels, value in _SAMPLE.findall(page):
        named = dict(_LABEL.findall(labels))
        if named.get("name") == model and "stage" in named:
            totals.setdefault(named["stage"], [0.0, 0.0])[kind == "count"] += float(value)
    return {stage: (seconds, count) for stage, (seconds, count) in totals.items()}


def mean_stages_ms(before: Totals, after: Totals) -> dict[str, float]:
    """The mean of each stage between two looks."""
    found = {}
    for stage, (seconds, count) in after.items():
        seconds_before, count_before = before.get(stage, (0.0, 0.0))
        if count > count_before:
            found[stage] = (seconds - seconds_before) / (count - count_before) * _MILLI
    return found
