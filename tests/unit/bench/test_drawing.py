# SPDX-License-Identifier: Apache-2.0
"""Tables, bars and SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from ovms_mp.bench.drawing import Plot, Series, bars, nice_top, svg, table
from ovms_mp.bench.figures import Level
from ovms_mp.bench.report import Report, report_svg, table_lines

LEVELS = tuple(
    Level(
        in_flight=in_flight,
        seconds=1.0,
        answered=100 * in_flight,
        rate_per_s=100.0 * in_flight,
        latency_ms={"p50": 1.0, "p90": 2.0, "p99": 3.0, "p99.9": 4.0, "max": 5.0},
        errors={"UNAVAILABLE": 2} if in_flight == 2 else {},
        stages_ms={"infer": 0.5} if in_flight == 2 else {},
        notes=("slow",) if in_flight == 2 else (),
    )
    for in_flight in (1, 2)
)


def test_columns_are_aligned() -> None:
    assert table([["a", "b"], ["long", "1"]]) == ["a     b", "long  1"]


def test_bars_are_relative_to_the_longest() -> None:
    assert bars([("1", 5.0), ("16", 10.0)]) == [" 1 |" + "#" * 20 + " 5", "16 |" + "#" * 40 + " 10"]
    assert bars([]) == []
    assert bars([("x", 0.0)]) == ["x | 0"]


@pytest.mark.parametrize(
    ("value", "top"), [(0.0, 1.0), (1.0, 1.0), (1.1, 2.0), (21.0, 25.0), (99.0, 100.0), (float("nan"), 1.0)]
)
def test_axes_end_at_round_numbers(value: float, top: float) -> None:
    assert nice_top(value) == top


def test_a_table_shows_levels_with_what_is_to_be_known() -> None:
    lines = table_lines(LEVELS)

    assert lines[0].split()[:3] == ["in", "flight", "answered/s"]
    assert lines[1].split()[:3] == ["1", "100.0", "1.00"]
    assert lines[2].split()[-1] == "0.500"
    assert "! in flight 2: slow" in lines
    assert "! in flight 2: 2 x UNAVAILABLE" in lines


def test_no_level_is_said() -> None:
    assert table_lines([]) == ["nothing was measured"]


@pytest.mark.parametrize("levels", [LEVELS, LEVELS[:1], ()])
def test_the_plot_is_xml_and_has_the_series(levels: tuple[Level, ...]) -> None:
    report = Report(
        url="u", model="<m&>", api="kserve", inputs=(), request_bytes=1, answer_bytes=1, levels=levels
    )

    root = ElementTree.fromstring(report_svg(report))  # noqa: S314  # our own

    circles = root.findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 4 * len(levels)
    assert (root.findtext("{http://www.w3.org/2000/svg}title") or "").startswith("<m&> at u")


def test_labels_of_points_are_drawn() -> None:
    text = svg("h", [Plot("t", "x", "y", [Series("s", [(1.0, 2.0), (3.0, 4.0)], ["one", ""])])])

    assert ">one<" in text
    assert "polyline" in text
