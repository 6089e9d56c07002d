# SPDX-License-Identifier: Apache-2.0
"""Who owns which arena, and when it may be given on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ovms_mp.manager.fronts.arenas import ArenaPool
from ovms_mp.wire.arena import Arena

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 1 << 16


@pytest.fixture
def pool() -> Iterator[ArenaPool]:
    made = ArenaPool(2, SIZE)
    yield made
    made.close()


def test_the_pool_owns_as_many_descriptors_as_arenas() -> None:
    pool = ArenaPool(3, SIZE)
    descriptors = pool.descriptors()

    assert len(set(descriptors)) == 3
    assert [(handle.descriptor, handle.size_bytes) for handle in pool.handles] == [
        (descriptor, SIZE) for descriptor in descriptors
    ]
    assert all(os.fstat(descriptor).st_size == SIZE for descriptor in descriptors)
    pool.close()
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_fronts_get_different_arenas_and_the_one_too_many_gets_none(pool: ArenaPool) -> None:
    assert pool.claim("grpc-0.1") == (0, 1)
    assert pool.claim("rest.1") == (1, 1)
    assert pool.claim("rest.2") is None


def test_a_retired_arena_waits_for_every_worker(pool: ArenaPool) -> None:
    pool.claim("a")
    pool.claim("b")
    assert pool.retire("a", ["w1", "w2"]) == (0, 1)
    assert pool.claim("c") is None
    pool.released("w1", 0, 1)
    assert pool.claim("c") is None
    pool.released("w2", 0, 1)
    assert pool.claim("c") == (0, 2)


def test_without_workers_it_is_free_at_once_under_a_new_epoch(pool: ArenaPool) -> None:
    pool.claim("a")
    pool.retire("a", [])

    assert pool.claim("b") == (0, 2)


def test_a_reaped_worker_has_nothing_more_to_say(pool: ArenaPool) -> None:
    pool.claim("a")
    pool.claim("b")
    pool.retire("a", ["w1", "w2"])
    pool.retire("b", ["w1"])
    pool.worker_reaped("w1")

    assert pool.claim("c") == (1, 2)
    assert pool.claim("d") is None
    pool.worker_reaped("w2")
    assert pool.claim("d") == (0, 2)


@pytest.mark.parametrize(
    ("worker", "index", "epoch"), [("w2", 0, 1), ("w1", 1, 1), ("w1", 0, 0), ("w1", 0, 2), ("", 0, 1)]
)
def test_an_answer_that_is_not_the_awaited_one_changes_nothing(
    pool: ArenaPool, worker: str, index: int, epoch: int
) -> None:
    pool.claim("a")
    pool.claim("b")
    pool.retire("a", ["w1"])
    pool.released(worker, index, epoch)

    assert pool.claim("c") is None


def test_a_late_answer_for_an_earlier_epoch_does_not_free_the_later_one(pool: ArenaPool) -> None:
    pool.claim("a")
    pool.claim("b")
    pool.retire("a", ["w1"])
    pool.released("w1", 0, 1)
    assert pool.claim("c") == (0, 2)
    pool.retire("c", ["w1"])
    pool.released("w1", 0, 1)
    assert pool.claim("d") is None
    pool.released("w1", 0, 2)

    assert pool.claim("d") == (0, 3)


def test_an_answer_while_the_arena_is_owned_changes_nothing(pool: ArenaPool) -> None:
    pool.claim("a")
    memory = Arena(pool.handles[0]).memory
    memory[:3] = b"abc"
    pool.released("w1", 0, 1)
    pool.worker_reaped("w1")

    assert bytes(memory[:3]) == b"abc"
    assert pool.claim("b") == (1, 1)


def test_a_front_without_an_arena_has_nothing_to_retire(pool: ArenaPool) -> None:
    pool.claim("a")

    assert pool.retire("b", ["w1"]) is None
    assert pool.retire("a", ["w1"]) == (0, 1)
    assert pool.retire("a", ["w1"]) is None


def test_the_next_owner_finds_zeros_and_no_memory_in_use(pool: ArenaPool) -> None:
    pool.claim("a")
    descriptor = pool.descriptors()[0]
    Arena(pool.handles[0]).memory[:] = b"\x07" * SIZE
    pool.retire("a", ["w1"])
    assert os.fstat(descriptor).st_blocks > 0
    pool.released("w1", 0, 1)

    assert os.fstat(descriptor).st_blocks == 0
    assert bytes(Arena(pool.handles[0]).memory) == b"\0" * SIZE
