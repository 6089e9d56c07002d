# SPDX-License-Identifier: Apache-2.0
"""What clients can cause thousands of times a second does not fill the log."""

from __future__ import annotations

import logging

from ovms_mp.front.log_rate import AtMost


def test_so_many_records_pass_in_a_second() -> None:
    now_s = [5.0]
    at_most = AtMost(3, lambda: now_s[0])
    record = logging.LogRecord("n", logging.WARNING, "p", 1, "m", (), None)

    assert [at_most.filter(record) for _ in range(5)] == [True, True, True, False, False]
    now_s[0] = 6.1
    assert at_most.filter(record)
