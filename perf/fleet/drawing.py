# SPDX-License-Identifier: Apache-2.0
"""Plots of simulated days: servers over time, one panel a day, with lost requests below, as SVG."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from ovms_mp.bench.drawing import nice_top

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from perf.fleet.simulation import Outcome, Sample

_WIDTH, _PANEL, _LOSS = 860, 150, 26
_LEFT, _TOP, _GAP = 60, 60, 44
_POINTS = 400
_LINES = (("needed", "#999", 1.0), ("wanted", "#d1802a", 1.5), ("serving", "#2f6fb3", 1.5))
_LOST = "#b3282d"


def draw(outcomes: Sequence[Outcome], heading: str) -> str:
    """The text of an SVG file."""
    height = _TOP + len(outcomes) * (_PANEL + _LOSS + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12" fill="#222">',
        f"<title>{html.escape(heading)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="12" y="20" font-weight="bold">{html.escape(heading)}</text>',
    ]
    x = _LEFT
    for name, color, _ in (*_LINES, ("lost requests, per turn", _LOST, 1.0)):
        parts.append(f'<rect x="{x}" y="30" width="12" height="12" fill="{color}"/>')
        parts.append(f'<text x="{x + 18}" y="41">{name}</text>')
        x += 100
    for index, outcome in enumerate(outcomes):
        y = _TOP + index * (_PANEL + _LOSS + _GAP)
        parts += [f'<g transform="translate(0 {y})">', *_panel(outcome), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(outcome: Outcome) -> Iterator[str]:
    samples = _thinned(outcome.samples)
    begin_s, end_s = samples[0].time_s, samples[-1].time_s
    top = nice_top(max(max(s.needed, s.wanted, s.serving) for s in samples))
    most_lost = max(s.lost for s in samples)

    def at_x(time_s: float) -> float:
        return _LEFT + (time_s - begin_s) / (end_s - begin_s) * (_WIDTH - _LEFT - 20)

    title = f"{outcome.day.name}: {outcome.day.about}"
    figures = f"{outcome.lost_ppm():,.1f} lost of a million, {outcome.cost():.2f} of the ideal cost"
    yield f'<text x="{_LEFT}" y="12" font-size="11">{html.escape(f"{title} ({figures})")}</text>'
    for value in (0.0, top / 2, top):
        y = 20 + _PANEL * (1 - value / top)
        yield f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - 20}" stroke="#ddd"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" font-size="11">{value:g}</text>'
    hour = 3600.0
    step_h = 1 if end_s - begin_s < 8 * hour else 3
    for mark in range(round(begin_s / hour), round(end_s / hour) + 1, step_h):
        yield (
            f'<text x="{at_x(mark * hour):.1f}" y="{_PANEL + _LOSS + 34}" text-anchor="middle" '
            f'font-size="11">{mark}:00</text>'
        )
    for name, color, width in _LINES:
        points = " ".join(
            f"{at_x(s.time_s):.1f},{20 + _PANEL * (1 - getattr(s, name) / top):.1f}" for s in samples
        )
        yield f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="{width}"/>'
    floor = 20 + _PANEL + _LOSS
    for sample in samples:
        if sample.lost > 0:
            # The square root shows a few lost requests beside very many.
            length = max(1.0, (sample.lost / most_lost) ** 0.5 * (_LOSS - 2))
            yield f'<path d="M{at_x(sample.time_s):.1f} {floor}v{-length:.1f}" stroke="{_LOST}"/>'


def _thinned(samples: Sequence[Sample]) -> list[Sample]:
    """At most so many that the plot stays small; of each part the one that lost most."""
    step = max(1, len(samples) // _POINTS)
    return [
        max(samples[index : index + step], key=lambda sample: sample.lost)
        for index in range(0, len(samples), step)
    ]
