# SPDX-License-Identifier: Apache-2.0
"""Waiting for descriptors."""

from __future__ import annotations

import fcntl
import os
import resource
from typing import TYPE_CHECKING

import pytest

from ovms_mp.manager.children.processes import wait_readable

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST = 1500
"""More than select(2) can take."""


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] <= LEAST:
        pytest.skip(f"the limit of open files is {before[1]}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_descriptors")
@pytest.mark.parametrize("has_ended", [False, True])
def test_a_descriptor_with_a_high_number(has_ended: bool) -> None:
    reading, writing = os.pipe()
    high = fcntl.fcntl(reading, fcntl.F_DUPFD_CLOEXEC, LEAST)
    assert high >= LEAST
    assert not wait_readable(high, 0.0)
    if has_ended:
        os.close(writing)
    else:
        os.write(writing, b"x")

    assert wait_readable(high, 10.0)
    for descriptor in (reading, high, *(() if has_ended else (writing,))):
        os.close(descriptor)
