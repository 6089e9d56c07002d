# SPDX-License-Identifier: Apache-2.0
"""How many connections a front may have follows from the limit of descriptors."""

from __future__ import annotations

import os
import resource

import pytest

from ovms_mp.front.grpc.descriptors import most_connections


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        (256, lambda used: 256 - used - (256 - used) // 4),
        (100_000, lambda used: 4096),
        (4096, lambda used: 4096 - used - 128),
        (resource.RLIM_INFINITY, lambda used: 4096),
        (1, lambda used: 8),
    ],
)
def test_a_reserve_is_left(monkeypatch: pytest.MonkeyPatch, allowed: int, expected: object) -> None:
    used = 50
    monkeypatch.setattr(resource, "getrlimit", lambda _: (allowed, allowed))
    monkeypatch.setattr(os, "listdir", lambda _: ["0"] * used)
    assert callable(expected)
    assert most_connections(4096) == expected(used)
