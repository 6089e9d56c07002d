# SPDX-License-Identifier: Apache-2.0
"""Arrivals of an open loop."""

from __future__ import annotations

import numpy as np
import pytest

from ovms_mp.bench.schedule import Arrivals, arrival_times


@pytest.mark.parametrize("arrivals", ["even", "poisson"])
def test_a_schedule_is_fixed_before(arrivals: Arrivals) -> None:
    first, second = (arrival_times(100.0, 10.0, arrivals) for _ in range(2))

    assert (first == second).all()
    assert (np.diff(first) >= 0).all()
    assert first[0] >= 0
    assert first[-1] < 10.0


def test_even_arrivals_of_all_parts_together_have_equal_steps() -> None:
    parts = [arrival_times(30.0, 2.0, "even", part=part, parts=3) for part in range(3)]

    together = np.sort(np.concatenate(parts))
    assert together == pytest.approx(np.arange(60) / 30.0)


def test_poisson_arrivals_of_all_parts_have_the_rate_and_no_common_times() -> None:
    parts = [arrival_times(1000.0, 10.0, "poisson", part=part, parts=4) for part in range(4)]

    together = np.concatenate(parts)
    assert len(together) == pytest.approx(10_000, rel=0.05)
    assert len(np.unique(together)) == len(together)
    gaps = np.diff(np.sort(together))
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)  # As exponential ones.


def test_a_rate_may_be_below_one() -> None:
    assert arrival_times(0.5, 5.0, "even").tolist() == [0.0, 2.0, 4.0]
