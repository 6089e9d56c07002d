# SPDX-License-Identifier: Apache-2.0
"""Leases of numbered things."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ovms_mp.fleet.leases import take

if TYPE_CHECKING:
    from pathlib import Path


def test_nobody_has_what_another_has(tmp_path: Path) -> None:
    first = take(tmp_path, range(4), 2)
    second = take(tmp_path, range(4), 3)
    try:
        assert sorted(first) == [0, 1]
        assert sorted(second) == [2, 3], "fewer than were asked for, as there are no more"
    finally:
        for descriptor in (*first.values(), *second.values()):
            os.close(descriptor)


def test_a_lease_ends_with_its_last_descriptor(tmp_path: Path) -> None:
    (descriptor,) = take(tmp_path, [7], 1).values()
    inherited = os.dup(descriptor)
    os.close(descriptor)
    assert take(tmp_path, [7], 1) == {}

    os.close(inherited)
    again = take(tmp_path, [7], 1)
    os.close(again.pop(7))
