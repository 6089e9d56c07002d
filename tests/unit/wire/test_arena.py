# SPDX-License-Identifier: Apache-2.0
"""Arenas on real anonymous memory: bounds, sharing, and giving pages back."""

from __future__ import annotations

import gc
import mmap
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_mp.errors import ProtocolError
from ovms_mp.wire.arena import Arena, create_arena_file, discard_pages
from ovms_mp.wire.records import ArenaHandle, TensorRef

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = mmap.PAGESIZE
SIZE = 8 * PAGE


@pytest.fixture
def descriptor() -> Iterator[int]:
    made = create_arena_file(3, SIZE)
    yield made
    os.close(made)


@pytest.fixture
def arena(descriptor: int) -> Arena:
    return Arena(ArenaHandle(descriptor, SIZE))


def used_bytes(descriptor: int) -> int:
    """Memory that the kernel holds for the file."""
    return os.fstat(descriptor).st_blocks * 512


def test_a_new_arena_takes_no_memory_and_is_not_inherited_by_chance(descriptor: int) -> None:
    status = os.fstat(descriptor)

    assert (status.st_size, used_bytes(descriptor)) == (SIZE, 0)
    assert status.st_nlink == 0
    assert not os.get_inheritable(descriptor)
    assert "ovms_mp-arena-3" in os.readlink(f"/proc/self/fd/{descriptor}")


def test_a_size_that_the_kernel_refuses_leaves_no_descriptor() -> None:
    gc.collect()  # What other tests have left is not closed meanwhile.
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Invalid argument"):
        create_arena_file(0, -1)

    assert len(os.listdir("/proc/self/fd")) == before


def test_what_one_mapping_writes_the_other_reads(descriptor: int, arena: Arena) -> None:
    other = Arena(ArenaHandle(descriptor, SIZE))
    arena.view(TensorRef(64, 4, (4,)))[:] = b"abcd"

    assert bytes(other.view(TensorRef(64, 4, (4,)))) == b"abcd"
    assert bytes(other.memory[60:72]) == b"\0\0\0\0abcd\0\0\0\0"
    assert 0 < used_bytes(descriptor) <= PAGE


@pytest.mark.parametrize(
    ("offset", "nbytes"), [(0, 0), (0, SIZE), (SIZE - 64, 64), (SIZE - 64, 1), (SIZE, 0), (64, 7)]
)
def test_ranges_inside(arena: Arena, offset: int, nbytes: int) -> None:
    view = arena.view(TensorRef(offset, nbytes, (nbytes,)))

    assert (view.nbytes, view.format, view.readonly) == (nbytes, "B", False)


@pytest.mark.parametrize(
    ("offset", "nbytes"),
    [
        (-64, 64),
        (0, -1),
        (64, -64),
        (0, SIZE + 1),
        (SIZE - 64, 65),
        (SIZE, 1),
        (SIZE + 64, 0),
        (1, 1),
        (32, 32),
        (2**62, 2**62),
        (-(2**62), 2**63),
    ],
)
def test_ranges_outside_or_not_aligned(arena: Arena, offset: int, nbytes: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        arena.view(TensorRef(offset, nbytes, (nbytes,)))

    assert caught.value.message == (
        f"range of {nbytes} bytes at {offset} is not inside an arena of {SIZE} bytes"
    )


@given(offset=st.integers(-(2**63), 2**63 - 1), nbytes=st.integers(-(2**63), 2**63 - 1), data=st.data())
def test_a_range_is_taken_only_if_all_of_it_is_inside(offset: int, nbytes: int, data: st.DataObject) -> None:
    near = st.integers(-3, SIZE // 64 + 3).map(lambda block: block * 64)
    offset = data.draw(st.one_of(near, st.just(offset)))
    nbytes = data.draw(st.one_of(st.integers(-2, SIZE + 2), st.just(nbytes)))
    arena = _SHARED
    is_inside = offset in range(0, SIZE + 1, 64) and nbytes >= 0 and offset + nbytes <= SIZE
    try:
        arena.check_range(offset, nbytes)
    except ProtocolError:
        assert not is_inside
    else:
        assert is_inside


def _shared() -> Arena:
    descriptor = create_arena_file(0, SIZE)
    try:
        return Arena(ArenaHandle(descriptor, SIZE))
    finally:
        # The mapping keeps the memory.
        os.close(descriptor)


_SHARED = _shared()


def test_discard_gives_whole_pages_back_and_zeros(descriptor: int, arena: Arena) -> None:
    arena.memory[:] = b"\x07" * SIZE
    assert used_bytes(descriptor) == SIZE
    arena.discard(PAGE + 1, 4 * PAGE + 100)

    # Only pages 2 and 3 lie inside as a whole.
    assert bytes(arena.memory[: 2 * PAGE]) == b"\x07" * (2 * PAGE)
    assert bytes(arena.memory[2 * PAGE : 4 * PAGE]) == b"\0" * (2 * PAGE)
    assert bytes(arena.memory[4 * PAGE :]) == b"\x07" * (4 * PAGE)


def test_discard_frees_the_memory(descriptor: int, arena: Arena) -> None:
    arena.memory[:] = b"\x07" * SIZE
    arena.discard(PAGE, SIZE)

    assert used_bytes(descriptor) == PAGE


@pytest.mark.parametrize(
    ("start", "end"), [(0, 0), (1, PAGE), (0, PAGE - 1), (PAGE + 1, 2 * PAGE + 5), (PAGE, 0)]
)
def test_discard_of_less_than_a_page_changes_nothing(arena: Arena, start: int, end: int) -> None:
    arena.memory[:] = b"\x07" * SIZE
    arena.discard(start, end)

    assert bytes(arena.memory) == b"\x07" * SIZE


def test_discard_pages_empties_the_file_under_a_mapping(descriptor: int, arena: Arena) -> None:
    arena.memory[:] = b"\x07" * SIZE
    discard_pages(descriptor, SIZE)

    assert (os.fstat(descriptor).st_size, used_bytes(descriptor)) == (SIZE, 0)
    assert bytes(arena.memory) == b"\0" * SIZE
    arena.memory[:1] = b"\x01"
    assert 0 < used_bytes(descriptor) <= SIZE
