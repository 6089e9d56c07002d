# SPDX-License-Identifier: Apache-2.0
"""The allocator against a map of every 64-byte block."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ovms_mp.wire.allocator import ALIGNMENT_BYTES, AllocatorStatistics, ArenaAllocator, aligned


class AllocatorMachine(RuleBasedStateMachine):
    """Leases and releases in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator = ArenaAllocator(0)
        self.blocks: list[int | None] = []
        """Which lease holds a block, by its offset."""
        self.leases: dict[int, int] = {}
        self.mark = 0

    @initialize(blocks=st.integers(0, 24), surplus=st.integers(0, 63))
    def begin(self, blocks: int, surplus: int) -> None:
        self.allocator = ArenaAllocator(blocks * ALIGNMENT_BYTES + surplus)
        self.blocks = [None] * blocks

    @rule(nbytes=st.integers(0, 600))
    def allocate(self, nbytes: int) -> None:
        needed = max(1, -(-nbytes // ALIGNMENT_BYTES))
        fitting = [
            start
            for start in range(len(self.blocks) - needed + 1)
            if all(holder is None for holder in self.blocks[start : start + needed])
        ]
        offset = self.allocator.allocate(nbytes)
        if not fitting:
            assert offset is None
            return
        # The lowest place that fits, so that few pages are touched.
        assert offset == fitting[0] * ALIGNMENT_BYTES
        for block in range(fitting[0], fitting[0] + needed):
            assert self.blocks[block] is None
            self.blocks[block] = offset
        self.leases[offset] = needed * ALIGNMENT_BYTES
        self.mark = max(self.mark, offset + self.leases[offset])

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.leases)))
        self.allocator.release(offset)
        del self.leases[offset]
        self.blocks = [None if holder == offset else holder for holder in self.blocks]
        with pytest.raises(KeyError):
            self.allocator.release(offset)

    @rule(offset=st.integers(-64, 2000))
    def release_what_is_not_leased(self, offset: int) -> None:
        if offset not in self.leases:
            with pytest.raises(KeyError):
                self.allocator.release(offset)

    @rule()
    def take_high_water(self) -> None:
        assert self.allocator.take_high_water() == self.mark
        self.mark = max((start + size for start, size in self.leases.items()), default=0)

    @invariant()
    def statistics_are_true(self) -> None:
        assert self.allocator.statistics() == AllocatorStatistics(
            size_bytes=len(self.blocks) * ALIGNMENT_BYTES,
            leased_bytes=sum(self.leases.values()),
            leases=len(self.leases),
            high_water_bytes=self.mark,
        )

    def teardown(self) -> None:
        for offset in list(self.leases):
            self.allocator.release(offset)
        # Everything came back, and in one piece.
        if self.blocks:
            assert self.allocator.allocate(len(self.blocks) * ALIGNMENT_BYTES) == 0


TestAllocator = AllocatorMachine.TestCase
TestAllocator.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(nbytes=st.integers(0, 1 << 50))
def test_aligned_is_the_next_multiple(nbytes: int) -> None:
    assert aligned(nbytes) % ALIGNMENT_BYTES == 0
    assert 0 <= aligned(nbytes) - nbytes < ALIGNMENT_BYTES


def test_neighbours_merge_on_both_sides() -> None:
    allocator = ArenaAllocator(4 * 64)
    offsets = [allocator.allocate(64) for _ in range(4)]
    assert offsets == [0, 64, 128, 192]
    assert allocator.allocate(1) is None
    for offset in (0, 128, 64):
        allocator.release(offset)

    assert allocator.allocate(192) == 0
