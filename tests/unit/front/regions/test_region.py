# SPDX-License-Identifier: Apache-2.0
"""Copies from and to a file of a client, which may do with it what it likes."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from ovms_mp.errors import RegionMismatch, RegionNotFound, RegionUnusable, UnsupportedOperation
from ovms_mp.front.regions.ranges import SharedRange
from ovms_mp.front.regions.region import Region, open_region
from ovms_mp.front.regions.table import Regions
from ovms_mp.wire.changes import RegionRecord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OFFSET, SIZE = 16, 64


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """100 bytes, of which each is its own place."""
    path = tmp_path / "memory"
    path.write_bytes(bytes(range(100)))
    return path


def record(file: Path, name: str = "r", offset: int = OFFSET, size: int = SIZE) -> RegionRecord:
    return RegionRecord(name, f"/{file.name}", offset, size, file.stat().st_dev, file.stat().st_ino)


def opened_region(record: RegionRecord, file: Path) -> Region:
    return open_region(record, 1, lambda number: None, str(file.parent), 0)


@pytest.fixture
def region(file: Path) -> Iterator[Region]:
    opened = opened_region(record(file), file)
    yield opened
    opened.release()


def test_a_range_counts_from_the_regions_begin(region: Region, file: Path) -> None:
    place = bytearray(4)
    region.read(SharedRange("r", 8, 4), memoryview(place))
    region.write(SharedRange("r", 60, 4), memoryview(b"abcd"))

    assert place == bytes(range(24, 28))
    assert file.read_bytes() == bytes(range(76)) + b"abcd" + bytes(range(80, 100))


@pytest.mark.parametrize(
    ("offset", "nbytes"), [(0, 65), (64, 1), (65, 0), (1, 64), (1 << 63, 1 << 63), (0, 1 << 64), (1 << 64, 0)]
)
def test_what_is_not_inside_is_refused(region: Region, offset: int, nbytes: int) -> None:
    with pytest.raises(
        RegionMismatch, match=f"input 'x': .* {nbytes} bytes at {offset} are not inside .* 64 bytes"
    ):
        region.refuse_outside(SharedRange("r", offset, nbytes), "input 'x'")


@pytest.mark.parametrize(("offset", "nbytes"), [(0, 64), (64, 0), (63, 1), (0, 0)])
def test_a_region_may_be_used_to_its_end(region: Region, offset: int, nbytes: int) -> None:
    region.refuse_outside(SharedRange("r", offset, nbytes), "input 'x'")


def test_a_file_that_has_become_too_short_is_told_and_stays_as_it_is(region: Region, file: Path) -> None:
    whole = SharedRange("r", 0, SIZE)
    os.truncate(file, 50)

    text = re.escape("the file '/memory' of region 'r' has 50 bytes by now, and the tensor ends at 80")
    with pytest.raises(RegionMismatch, match=text):
        region.read(whole, memoryview(bytearray(SIZE)))
    with pytest.raises(RegionMismatch, match=text):
        region.write(whole, memoryview(bytes(SIZE)))
    with pytest.raises(RegionMismatch, match=text):
        region.refuse_shrunk(whole)

    assert file.read_bytes() == bytes(range(50))
    region.read(SharedRange("r", 0, 34), memoryview(bytearray(34)))


def test_a_region_stays_the_file_that_it_was(region: Region, file: Path) -> None:
    file.unlink()
    file.write_bytes(bytes(100))
    place = bytearray(1)

    region.read(SharedRange("r", 0, 1), memoryview(place))

    assert place == bytes([OFFSET])
    with pytest.raises(RegionUnusable, match="is another file than the one that was registered"):
        opened_region(region.record, file)


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 0), (0, 101), (100, 1), (99, 2), (1 << 64, 1), (0, 1 << 64), (-1, 4), (0, -1), ((1 << 64) - 1, 1)],
)
def test_a_region_must_be_in_its_file(file: Path, offset: int, size: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(RegionUnusable, match="failed to register shared memory region 'r': invalid args"):
        opened_region(record(file, offset=offset, size=size), file)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_is_closed_when_the_last_one_lets_go(file: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    opened = opened_region(record(file), file)
    opened.hold()
    opened.release()
    opened.read(SharedRange("r", 0, 1), memoryview(bytearray(1)))
    opened.release()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_snapshot_opens_what_has_come_and_closes_what_has_gone(file: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    regions = Regions(is_allowed=True, directory=str(file.parent))
    regions.replace((record(file), record(file, "s", 0, 1)))
    kept = regions.find("r")
    assert [entry.name for entry in regions.records()] == ["r", "s"]
    assert [entry.name for entry in regions.records("s")] == ["s"]

    regions.replace((record(file), record(file, "s", 0, 2)))

    assert regions.find("r") is kept
    assert regions.find("s").record.byte_size == 2
    regions.replace(())
    for name in ("r", "s"):
        with pytest.raises(RegionNotFound, match=f"Unable to find shared memory region: '{name}'"):
            regions.find(name)
    with pytest.raises(RegionNotFound, match="Unable to find system shared memory region: 'r'"):
        regions.records("r")
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_cannot_be_opened_is_tried_again_by_who_uses_it(file: Path) -> None:
    regions = Regions(is_allowed=True, directory=str(file.parent))
    away = file.rename(file.parent / "away")
    asked = RegionRecord("r", "memory", 0, 1, away.stat().st_dev, away.stat().st_ino)
    regions.replace((asked,))
    with pytest.raises(RegionUnusable, match="No such file"):
        regions.find("r")

    away.rename(file)

    assert regions.find("r").record is asked
    regions.close()


def test_where_there_may_be_none_the_flag_is_named() -> None:
    regions = Regions(is_allowed=False)
    assert regions.records() == []
    with pytest.raises(UnsupportedOperation, match="--allow_client_shm"):
        regions.find("r")


def test_a_region_whose_file_is_gone_is_told_once_whatever_changes(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A front that starts late finds many, and every change of anything brings a snapshot."""
    regions = Regions(is_allowed=True, directory=str(file.parent))
    gone = [record(file, name) for name in ("a", "b")]
    file.rename(file.with_name("away"))
    for _ in range(3):
        regions.replace(gone)
    assert [text.partition(" first")[0] for text in caplog.messages] == [
        "event=regions_not_opened count=2",
    ]
    file.with_name("away").rename(file)
    regions.find("a")
    regions.close()
