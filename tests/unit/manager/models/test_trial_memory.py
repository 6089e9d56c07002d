# SPDX-License-Identifier: Apache-2.0
"""Which trial takes too much memory."""

from __future__ import annotations

import pytest

from ovms_mp.manager.models.trial_memory import TrialMemory

MIB = 1 << 20
TOTAL_MB = 8000
RESERVE_MB = 400


def excess(limit_mb: int, used_mb: dict[int, int], available_mb: int) -> tuple[int, str] | None:
    memory = TrialMemory(
        limit_mb,
        used_by=lambda pid: used_mb[pid] * MIB,
        available=lambda: available_mb * MIB,
        total=lambda: TOTAL_MB * MIB,
    )
    return memory.excess(list(used_mb))


@pytest.mark.parametrize(
    ("limit_mb", "used_mb", "available_mb", "expected"),
    [
        (1000, {}, 0, None),
        (1000, {1: 1000}, 0, None),  # Whoever gives a limit decides.
        (1000, {1: 1001}, 7000, 1),
        (1000, {1: 1001, 2: 3000, 3: 5}, 7000, 2),
        (0, {}, 0, None),
        (0, {1: 7000}, RESERVE_MB, None),
        (0, {1: 7000}, RESERVE_MB - 1, 1),
        (0, {1: 500, 2: 3000}, 10, 2),
        (0, {1: RESERVE_MB}, 0, None),  # Others took the memory.
        (0, {1: RESERVE_MB + 1}, 0, 1),
    ],
)
def test_the_largest_one_is_ended_where_it_is_too_much(
    limit_mb: int, used_mb: dict[int, int], available_mb: int, expected: int | None
) -> None:
    found = excess(limit_mb, used_mb, available_mb)

    assert (found and found[0]) == expected


def test_the_reason_names_value_limit_and_setting() -> None:
    by_limit, by_reserve = excess(1000, {1: 1234}, 7000), excess(0, {1: 5800}, 180)
    assert by_limit is not None
    assert by_reserve is not None

    assert by_limit[1] == "its trial takes 1234 MiB of memory; --trial_memory_limit_mb 1000 is the most"
    assert by_reserve[1] == (
        "its trial takes 5800 MiB of memory and leaves 180 of 8000 MiB, less than the 400 that are kept free; a "
        "--trial_memory_limit_mb lets it take more"
    )
