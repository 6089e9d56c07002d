# SPDX-License-Identifier: Apache-2.0
"""Leases of an arena: who holds what, what is refused, and memory that is given back to the machine."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ovms_mp.errors import NoFreeSlot, TensorTooLarge
from ovms_mp.front.infer.arrivals import Arrivals
from ovms_mp.front.infer.leases import Leases, LeaseStatistics
from ovms_mp.wire.arena import Arena, create_arena_file
from ovms_mp.wire.records import ArenaHandle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20


@contextmanager
def arena_leases(size_bytes: int = MIB, clock_ns: Callable[[], int] = time.monotonic_ns) -> Iterator[Leases]:
    descriptor = create_arena_file(0, size_bytes)
    try:
        yield Leases(Arena(ArenaHandle(descriptor, size_bytes)), Arrivals(clock_ns))
    finally:
        os.close(descriptor)


def test_leases_are_apart_and_counted() -> None:
    with arena_leases() as leasing:
        first, second = leasing.lease(100), leasing.lease(64)

        assert (first.offset_bytes, second.offset_bytes) == (0, 128)
        assert leasing.statistics() == LeaseStatistics(2, 192, 192)
        leasing.release(first)
        leasing.release(second)
        assert leasing.statistics() == LeaseStatistics(0, 0, 192)


def test_what_no_arena_of_this_size_holds_names_the_setting() -> None:
    with arena_leases() as leasing, pytest.raises(TensorTooLarge) as caught:
        leasing.lease(MIB + 1)

    assert caught.value.message == (
        f"the request's tensors need {MIB + 1} bytes of shared memory, the arena of this front has {MIB}; "
        f"raise --arena_size_mb"
    )


def test_a_full_arena_is_another_matter() -> None:
    with arena_leases() as leasing:
        held = leasing.lease(MIB)
        with pytest.raises(NoFreeSlot) as caught:
            leasing.lease(1)
        assert "try again later or raise --arena_size_mb" in caught.value.message
        leasing.release(held)
        leasing.release(leasing.lease(MIB))

        assert leasing.statistics().leases == 0


def test_a_lease_that_a_worker_may_still_write_to_is_kept() -> None:
    with arena_leases() as leasing:
        lease = leasing.lease(64)
        lease.tasks += 1
        leasing.release(lease)

        assert not lease.holders
        assert leasing.statistics().leases == 1
        leasing.task_ended([lease])
        assert leasing.statistics().leases == 0


def test_a_lease_that_is_held_outlives_its_task() -> None:
    with arena_leases() as leasing:
        lease = leasing.lease(64)
        lease.tasks += 1
        leasing.hold(lease)
        leasing.release(lease)
        leasing.task_ended([lease])
        assert leasing.statistics().leases == 1
        leasing.release(lease)

        assert leasing.statistics().leases == 0


def test_memory_of_one_large_request_is_given_back_and_small_ones_keep_theirs() -> None:
    with arena_leases(64 * MIB) as leasing:
        small, large = leasing.lease(MIB), leasing.lease(40 * MIB)
        leasing.memory[0] = 1
        leasing.memory[large.offset_bytes + 39 * MIB] = 2
        leasing.release(large)
        # The mark still reaches to the end of the large one.
        leasing.trim()
        assert leasing.memory[large.offset_bytes + 39 * MIB] == 2
        leasing.trim()

        assert leasing.memory[large.offset_bytes + 39 * MIB] == 0
        assert leasing.memory[0] == 1
        leasing.release(small)


def test_little_is_not_worth_giving_back() -> None:
    with arena_leases(64 * MIB) as leasing:
        lease = leasing.lease(15 * MIB)
        leasing.memory[14 * MIB] = 2
        leasing.release(lease)
        for _ in range(3):
            leasing.trim()

        assert leasing.memory[14 * MIB] == 2
