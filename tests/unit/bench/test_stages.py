# SPDX-License-Identifier: Apache-2.0
"""Stages from two looks at /metrics."""

from __future__ import annotations

import pytest

from ovms_mp.bench.stages import counted, mean_stages_ms, stage_totals

PAGE = """\
# TYPE ovms_mp_stage_seconds histogram
ovms_mp_stage_seconds_bucket{name="m",stage="infer",version="1",le="0.1"} 9
ovms_mp_stage_seconds_sum{name="m",stage="infer",version="1"} 1.5
ovms_mp_stage_seconds_count{name="m",stage="infer",version="1"} 3
ovms_mp_stage_seconds_sum{name="m",stage="infer",version="2"} 0.5
ovms_mp_stage_seconds_count{name="m",stage="infer",version="2"} 1
ovms_mp_stage_seconds_sum{name="other",stage="infer",version="1"} 100
"""


def test_versions_of_a_model_are_added_up() -> None:
    assert stage_totals(PAGE, "m") == {"infer": (2.0, 4.0)}
    assert stage_totals(PAGE, "none") == {}


def test_means_are_of_what_came_between() -> None:
    found = mean_stages_ms(
        {"infer": (1.0, 2.0)}, {"infer": (2.0, 4.0), "queue": (0.1, 1.0), "idle": (0.0, 0.0)}
    )

    assert found == pytest.approx({"infer": 500.0, "queue": 100.0})


def test_what_is_counted_has_gone_through_all_stages() -> None:
    before = {"infer": (1.0, 2.0)}

    assert counted(before, {"infer": (2.0, 6.0), "queue": (0.1, 3.0)}) == 3.0
    assert counted(before, before) == 0.0
    assert counted({}, {}) == 0.0


def test_a_model_is_known_by_any_name() -> None:
    page = 'ovms_mp_stage_seconds_sum{name="a\\"b\\\\c\\n",stage="infer",version="1"} 1.5'

    assert stage_totals(page, 'a"b\\c\n') == {"infer": (1.5, 0.0)}
