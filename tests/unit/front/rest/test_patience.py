# SPDX-License-Identifier: Apache-2.0
"""How long clients are waited for that read their answers, if slowly."""

from __future__ import annotations

import pytest

from ovms_mp.front.budget import BodyBudget
from ovms_mp.front.rest.patience import ANSWER_UNREAD, Patience

MEBIBYTE = 1 << 20


def sweeps(unread_bytes: int, *, is_memory_short: bool) -> int:
    """After how many sweeps a client is given up that reads an octet a second; 0 if it is not."""
    patience = Patience(60.0)
    for number in range(1, 1000):
        unread_bytes -= 1
        if ended_for := patience.end_of(
            unread_bytes, is_memory_short=is_memory_short, is_between=True, has_begun=False, is_body_due=False
        ):
            assert ended_for == ANSWER_UNREAD
            return number
    return 0


@pytest.mark.parametrize("unread_bytes", [1000 * 16, 100 * MEBIBYTE])
def test_who_reads_is_waited_for_where_there_is_memory(unread_bytes: int) -> None:
    assert sweeps(unread_bytes, is_memory_short=False) == 0


def test_who_reads_slowly_gives_way_when_memory_is_short() -> None:
    """The more it holds, the longer it may take; what is little is nobody's loss."""
    assert sweeps(MEBIBYTE, is_memory_short=True) == 3
    assert sweeps(100 * MEBIBYTE, is_memory_short=True) == 9
    assert sweeps(16_000, is_memory_short=True) == 0


def test_memory_is_short_when_little_is_left() -> None:
    budget = BodyBudget(800)
    share = budget.share()
    share.grow(700)
    assert not budget.is_short
    share.grow(1)
    assert budget.is_short
