# SPDX-License-Identifier: Apache-2.0
"""Unpacking: what comes out, and that its work and memory are bounded by what was packed."""

from __future__ import annotations

import asyncio
import gzip
import random
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import pytest

from ovms_mp.errors import BodyMemoryFull, RequestTooLarge
from ovms_mp.front.budget import BodyBudget
from ovms_mp.front.inflate import GZIP_WINDOW, MOST_MEMBERS, Unpacker, inflate

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MIB = 1 << 20
TEXT = b'{"instances": [[1, 2, 3]]}' * 100


def _nothing(_: int) -> None:
    """Memory is not counted."""


def unpacked(packed: bytes, limit: int = 64 * MIB, grow: Callable[[int], None] = _nothing) -> bytes:
    return bytes(asyncio.run(inflate(packed, GZIP_WINDOW, limit, grow)))


def noise(nbytes: int) -> bytes:
    """Text that cannot be packed."""
    return random.Random(1).randbytes(nbytes)


class CountingZlib:
    """zlib's decompressor that notes what it is given, what it hands out and what it leaves."""

    def __init__(self, window_bits: int) -> None:
        self._inner = decompressobj(window_bits)
        counts["objects"] += 1

    def decompress(self, piece: memoryview, room: int) -> bytes:
        part = self._inner.decompress(piece, room)
        counts["given"] += len(piece)
        counts["left"] += len(self._inner.unused_data) + len(self._inner.unconsumed_tail)
        counts["longest"] = max(counts["longest"], len(part))
        return part

    def __getattr__(self, name: str) -> Any:  # Any: zlib's attributes.
        return getattr(self._inner, name)


decompressobj = zlib.decompressobj
counts: dict[str, int] = {}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    counts.update(objects=0, given=0, left=0, longest=0)
    monkeypatch.setattr(zlib, "decompressobj", CountingZlib)
    return counts


@pytest.mark.parametrize("text", [b"", b"x", TEXT, bytes(5 * MIB), noise(3 * MIB)], ids=len)
def test_what_was_packed_comes_out(text: bytes) -> None:
    assert unpacked(gzip.compress(text, 1)) == text


def test_members_in_a_row_are_one() -> None:
    members = [b"abc", b"", noise(40_000), b"def", bytes(MIB)]

    assert unpacked(b"".join(map(gzip.compress, members))) == b"".join(members)


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(bytes(8 * MIB)),
        gzip.compress(noise(MIB)),
        gzip.compress(b"") * MOST_MEMBERS,
        gzip.compress(noise(1000)) * MOST_MEMBERS,
        gzip.compress(bytes(100_000)) * 50,
    ],
    ids=["bomb", "noise", "empty members", "members", "small bombs"],
)
def test_the_work_is_linear(packed: bytes, counted: dict[str, int]) -> None:
    plain = unpacked(packed)

    pieces = len(packed) / (16 << 10) + len(plain) / (256 << 10) + counted["objects"]
    assert counted["objects"] <= MOST_MEMBERS
    assert counted["given"] + counted["left"] <= 2 * (16 << 10) * pieces + len(packed)
    assert counted["longest"] <= 256 << 10


def test_a_step_is_short(counted: dict[str, int]) -> None:
    unpacker = Unpacker(gzip.compress(b"") * MOST_MEMBERS, GZIP_WINDOW, MIB)
    assert not unpacker.step()
    assert counted["objects"] <= 65

    unpacker = Unpacker(gzip.compress(bytes(64 * MIB)), GZIP_WINDOW, 64 * MIB)
    assert not unpacker.step()
    assert len(unpacker.plain) <= MIB + (256 << 10)


@pytest.mark.parametrize("members", [MOST_MEMBERS + 1, 100_000])
def test_members_are_bounded(members: int, counted: dict[str, int]) -> None:
    with pytest.raises(zlib.error, match="more than 1024 members"):
        unpacked(gzip.compress(b"") * members)
    assert counted["objects"] <= MOST_MEMBERS


def test_the_limit_is_for_what_comes_out() -> None:
    assert unpacked(gzip.compress(TEXT), len(TEXT)) == TEXT
    for packed in (gzip.compress(TEXT + b"x"), gzip.compress(TEXT) + gzip.compress(b"x")):
        with pytest.raises(RequestTooLarge, match=f"more than {len(TEXT)} bytes.*--max_unpacked_mb"):
            unpacked(packed, len(TEXT))


def test_no_more_than_the_limit_is_held() -> None:
    bomb = gzip.compress(bytes(64 * MIB))
    tracemalloc.start()
    try:
        with pytest.raises(RequestTooLarge):
            unpacked(bomb, MIB)
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


def test_what_comes_out_is_counted_as_it_comes() -> None:
    budget = BodyBudget(8 * MIB)
    with budget.share() as share:
        assert len(unpacked(gzip.compress(bytes(5 * MIB)), grow=share.grow)) == share.nbytes == 5 * MIB
    bomb = gzip.compress(bytes(64 * MIB))
    tracemalloc.start()
    try:
        with budget.share() as other, budget.share() as share:
            other.grow(4 * MIB)
            with pytest.raises(BodyMemoryFull):
                unpacked(bomb, grow=share.grow)
        assert tracemalloc.get_traced_memory()[1] < 12 * MIB
    finally:
        tracemalloc.stop()
    assert budget.used_bytes == 0


def test_who_has_gone_causes_no_further_step(counted: dict[str, int]) -> None:
    async def give_up_early() -> None:
        first_step = asyncio.Event()
        packed = gzip.compress(bytes(64 * MIB)) * 8
        task = asyncio.ensure_future(
            inflate(packed, GZIP_WINDOW, 512 * MIB, lambda held: first_step.set() if held else None)
        )
        await first_step.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up_early())
    # One step may have been under way: the next body's waits for its end.
    unpacked(gzip.compress(bytes(5000)))
    assert counted["objects"] <= 3


def test_others_run_between_steps() -> None:
    async def count_turns() -> int:
        turns = 0
        task = asyncio.ensure_future(
            inflate(gzip.compress(bytes(32 * MIB)), GZIP_WINDOW, 64 * MIB, lambda _: None)
        )
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    assert asyncio.run(count_turns()) >= 32


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        TEXT,
        zlib.compress(TEXT),
        gzip.compress(TEXT)[:-1],
        gzip.compress(TEXT)[:-8] + bytes(8),
        gzip.compress(TEXT) + b"junk",
        gzip.compress(noise(MIB))[:-1],
    ],
    ids=["nothing", "not packed", "zlib", "cut off", "wrong checksum", "junk behind it", "long and cut off"],
)
def test_what_is_not_packed_as_it_says_is_refused(packed: bytes) -> None:
    with pytest.raises(zlib.error):
        unpacked(packed)
