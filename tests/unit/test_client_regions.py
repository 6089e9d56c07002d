# SPDX-License-Identifier: Apache-2.0
"""Memory that a client makes for a server: its size is fixed, and who may write."""

from __future__ import annotations

import os

import numpy as np
import pytest

from ovms_mp.client_regions import SharedRegion


def test_an_array_is_the_region_and_not_a_copy() -> None:
    with SharedRegion(4096) as region:
        region.array((2, 3), np.float32, 64)[:] = 1.5

        assert np.frombuffer(os.pread(region.descriptor, 24, 64), np.float32).tolist() == [1.5] * 6


def test_its_size_is_fixed() -> None:
    with SharedRegion(4096) as region:
        for size in (0, 8192):
            with pytest.raises(PermissionError):
                os.ftruncate(region.descriptor, size)


def test_what_is_read_only_can_be_written_here_and_nowhere_else() -> None:
    with SharedRegion(4096, is_read_only=True) as region:
        region.array((1,), np.uint8)[:] = 7

        assert os.pread(region.descriptor, 1, 0) == b"\7"
        with pytest.raises(PermissionError):
            os.pwrite(region.descriptor, b"x", 0)


@pytest.mark.parametrize(("shape", "offset"), [((1025,), 0), ((1,), 4093), ((1,), -4)])
def test_an_array_outside_of_it_is_refused(shape: tuple[int, ...], offset: int) -> None:
    with SharedRegion(4096) as region, pytest.raises(ValueError, match="not inside a region of 4096 bytes"):
        region.array(shape, np.float32, offset)


def test_arrays_outlive_it() -> None:
    region = SharedRegion(64)
    array = region.array((8,), np.float64)
    region.close()
    region.close()

    array[:] = 2.0

    assert array.sum() == 16.0
