# SPDX-License-Identifier: Apache-2.0
"""Clients' memory is mapped for reading, and its addresses stay when it goes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovms_mp.client_regions import SharedRegion
from ovms_mp.errors import RegionUnusable
from ovms_mp.wire.tasks import AttachRegion
from ovms_mp.worker.run.region_maps import MappedRegion, RegionMaps

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 5000


@pytest.fixture
def region() -> Iterator[SharedRegion]:
    with SharedRegion(SIZE, is_read_only=True) as made:
        yield made


def attachment(region: SharedRegion, nbytes: int = SIZE, inode: int = 0) -> AttachRegion:
    status = os.fstat(region.descriptor)
    return AttachRegion(7, os.getpid(), region.descriptor, status.st_dev, inode or status.st_ino, nbytes)


def detach(maps: RegionMaps, mapped: MappedRegion) -> None:
    """And wait for the thread that does it."""
    maps.detach(mapped)
    give_up_at = time.monotonic() + 10.0
    while not maps.is_free(mapped.place):
        assert time.monotonic() < give_up_at


def protection(mapped: MappedRegion) -> str:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{mapped.place.start:x}-"))


def test_what_the_client_writes_is_seen_and_nothing_can_be_written(region: SharedRegion) -> None:
    mapped = RegionMaps().attach(attachment(region))
    region.array((SIZE,), "u1")[:] = 7

    assert mapped.memory.nbytes == SIZE
    assert bytes(mapped.memory) == b"\7" * SIZE
    assert protection(mapped) == "r--s"


def test_who_looks_at_memory_that_has_gone_sees_zeros(region: SharedRegion) -> None:
    before = len(os.listdir("/proc/self/fd"))
    maps = RegionMaps()
    region.array((SIZE,), "u1")[:] = 7
    mapped = maps.attach(attachment(region))

    detach(maps, mapped)

    assert bytes(mapped.memory) == bytes(SIZE)
    assert len(os.listdir("/proc/self/fd")) == before


def test_addresses_are_used_again(region: SharedRegion) -> None:
    maps = RegionMaps()
    first = maps.attach(attachment(region))
    beside = maps.attach(attachment(region))
    detach(maps, first)

    with SharedRegion(2 * SIZE - 2000) as other:
        again = maps.attach(attachment(other, other.nbytes))
        assert again.place == first.place
        assert beside.place != first.place


def test_another_file_a_longer_one_and_one_that_could_shrink_are_refused(region: SharedRegion) -> None:
    maps = RegionMaps()
    with pytest.raises(RegionUnusable, match="not the one that was registered"):
        maps.attach(attachment(region, inode=1))
    with pytest.raises(RegionUnusable, match="not the one that was registered"):
        maps.attach(attachment(region, SIZE + 1))
    with pytest.raises(RegionUnusable, match="cannot be opened"):
        maps.attach(AttachRegion(7, os.getpid(), 1 << 20, 0, 0, SIZE))
    descriptor = os.memfd_create("open", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, SIZE)
    status = os.fstat(descriptor)
    with pytest.raises(RegionUnusable, match="not sealed"):
        maps.attach(AttachRegion(7, os.getpid(), descriptor, status.st_dev, status.st_ino, SIZE))
    os.close(descriptor)
