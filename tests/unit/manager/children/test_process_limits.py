# SPDX-License-Identifier: Apache-2.0
"""Limits that cannot be enough are refused by name."""

from __future__ import annotations

import resource

import pytest

from ovms_mp.errors import BootError
from ovms_mp.manager.children.process_limits import check_process_limits

NONE = resource.RLIM_INFINITY
GIB = 1 << 30


class Limits:
    """Plays getrlimit."""

    def __init__(self, files: tuple[int, int], addresses: int) -> None:
        self.limits = {resource.RLIMIT_NOFILE: files, resource.RLIMIT_AS: (addresses, addresses)}

    def install(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(resource, "getrlimit", self.limits.__getitem__)


@pytest.mark.parametrize("files", [(1024, 4096), (4096, 4096), (NONE, NONE), (80, 80)])
def test_enough_files(files: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    Limits(files, NONE).install(monkeypatch)

    check_process_limits(2, 4096)


@pytest.mark.parametrize(("hard", "fronts", "needed"), [(32, 2, 80), (79, 2, 80), (100, 10, 144), (0, 1, 72)])
def test_too_few_files(hard: int, fronts: int, needed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    Limits((hard, hard), NONE).install(monkeypatch)

    with pytest.raises(
        BootError, match=rf"open files \(RLIMIT_NOFILE, ulimit -Hn\) is {hard}; at least {needed}"
    ):
        check_process_limits(fronts, 4096)


@pytest.mark.parametrize(
    ("addresses", "fronts", "arena_size_mb"), [(NONE, 8, 4096), (17 * GIB, 2, 4096), (5 * GIB, 2, 1024)]
)
def test_enough_address_space(
    addresses: int, fronts: int, arena_size_mb: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Limits((1024, 1024), addresses).install(monkeypatch)
    check_process_limits(fronts, arena_size_mb)


@pytest.mark.parametrize(
    ("gibibytes", "fronts", "remedy"),
    [
        (6, 2, "--arena_size_mb 1280 would fit"),
        (8, 2, "--arena_size_mb 1792 would fit"),
        (16, 2, "--arena_size_mb 3840 would fit"),
        (1, 2, "no --arena_size_mb would fit"),
    ],
)
def test_too_little_address_space(
    gibibytes: int, fronts: int, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Limits((1024, 1024), gibibytes * GIB).install(monkeypatch)

    with pytest.raises(BootError) as caught:
        check_process_limits(fronts, 4096)
    assert (
        f"(RLIMIT_AS, ulimit -v) is {gibibytes * 1024} MiB; 17408 are needed for 4 arenas"
        in caught.value.message
    )
    assert remedy in caught.value.message
    if "would fit" in remedy and not remedy.startswith("no"):
        check_process_limits(fronts, int(remedy.split()[1]))
