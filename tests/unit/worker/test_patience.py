# SPDX-License-Identifier: Apache-2.0
"""How long answers wait for company."""

from __future__ import annotations

import pytest

from ovms_mp.worker.run.served import patience_s


@pytest.mark.parametrize(
    ("waiting", "run_time_s", "nireq", "expected_s"),
    [
        (0, 0.010, 1, 0.0),  # Nobody waits behind it.
        (1, 0.0012, 8, 0.0),  # The loop would make a millisecond of it.
        (4, 0.002, 2, 0.002),  # Half of what those behind it will wait.
        (16, 0.007, 1, 0.016),
        (16, 0.009, 1, 0.0),  # One other answer would come in time, which is not worth the wait.
        (3, 0.002, 1, 0.0),
        (16, 0.014, 2, 0.016),
    ],
)
def test_an_answer_waits_for_others_while_tasks_wait_behind_it(
    waiting: int, run_time_s: float, nireq: int, expected_s: float
) -> None:
    assert patience_s(waiting, run_time_s, nireq) == pytest.approx(expected_s)
