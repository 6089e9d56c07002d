# SPDX-License-Identifier: Apache-2.0
"""Tables, bars and line plots of figures, as text for terminals and as SVG; neither needs a library."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    _Scale = Callable[[float], float]

_BAR = "#"
_BAR_WIDTH = 40
_WIDTH, _HEIGHT = 420, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 34, 44
_COLORS = ("#2f6fb3", "#d1802a", "#4d9a52", "#9a4d8f")
_TICKS = 4
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows with aligned columns; all but the first column to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def bars(values: Sequence[tuple[str, float]], form: str = ",.0f") -> list[str]:
    """One bar a value, the longest across the whole width."""
    most = max((value for _, value in values), default=0.0)
    width = max((len(label) for label, _ in values), default=0)
    return [
        f"{label.rjust(width)} |{_BAR * round(_BAR_WIDTH * value / most) if most else ''} {value:{form}}"
        for label, value in values
    ]


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a plot: points (x, y) with their labels, empty for none."""

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot.

    Attributes:
        is_log_x: Whether equal factors have equal distances.
        has_lines: Whether points are connected.
    """

    title: str
    x: str
    y: str
    series: Sequence[Series]
    is_log_x: bool = False
    has_lines: bool = True


def svg(heading: str, plots: Sequence[Plot]) -> str:
    """The plots side by side as the text of an SVG file."""
    width, height = _WIDTH * len(plots), _HEIGHT + 28
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12" fill="#222">',
        f"<title>{html.escape(heading)}</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        _text(12, 20, heading, weight="bold"),
    ]
    for index, plot in enumerate(plots):
        parts += [f'<g transform="translate({index * _WIDTH} 28)">', *_plot(plot), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _plot(plot: Plot) -> list[str]:
    xs = [x for series in plot.series for x, _ in series.points]
    ys = [y for series in plot.series for _, y in series.points]
    high = nice_top(max(ys, default=0.0))
    low_x, high_x = (min(xs), max(xs)) if xs else (0.0, 1.0)

    def at_x(value: float) -> float:
        low, top, here = (
            (math.log(low_x), math.log(high_x), math.log(value)) if plot.is_log_x else (low_x, high_x, value)
        )
        share = (here - low) / (top - low) if top > low else 0.5
        return _LEFT + 8 + share * (_WIDTH - _LEFT - _RIGHT - 16)

    def at_y(value: float) -> float:
        return _HEIGHT - _BOTTOM - value / high * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_text(_LEFT, 14, plot.title, size=12)]
    for tick in range(_TICKS + 1):
        value = high * tick / _TICKS
        y = at_y(value)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(_text(_LEFT - 6, y + 4, f"{value:g}", anchor="end", size=11))
    marks = sorted(set(xs)) if plot.is_log_x else sorted({low_x, high_x})
    parts += [_text(at_x(x), _HEIGHT - _BOTTOM + 16, f"{x:.4g}", anchor="middle", size=11) for x in marks]
    parts.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 10, plot.x, anchor="middle"))
    parts.append(
        f'<text transform="translate(14 {(_TOP + _HEIGHT - _BOTTOM) / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(plot.y)}</text>"
    )
    for index, series in enumerate(plot.series):
        parts += _line(series, _COLORS[index % len(_COLORS)], at_x, at_y, has_line=plot.has_lines)
        if len(plot.series) > 1:
            x = _LEFT + 12 + index * 70
            parts.append(
                f'<rect x="{x}" y="{_TOP - 12}" width="10" height="10" fill="{_COLORS[index % len(_COLORS)]}"/>'
            )
            parts.append(_text(x + 14, _TOP - 3, series.name, size=11))
    return parts


def _line(series: Series, color: str, at_x: _Scale, at_y: _Scale, *, has_line: bool) -> list[str]:
    places = [(at_x(x), at_y(y)) for x, y in series.points]
    parts = []
    if has_line and len(places) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>' for x, y in places]
    parts += [
        _text(x + 6, y - 6, label, size=10)
        for (x, y), label in zip(places, series.labels, strict=False)
        if label
    ]
    return parts


def nice_top(value: float) -> float:
    """The least round number that is not below a value."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    magnitude = 10.0 ** math.floor(math.log10(value))
    return next(step * magnitude for step in _STEPS if step * magnitude >= value * (1 - 1e-9))


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}">'
        f"{html.escape(text)}</text>"
    )
