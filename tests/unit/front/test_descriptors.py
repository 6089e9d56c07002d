# SPDX-License-Identifier: Apache-2.0
"""A front that has no descriptor left says so, and not all the time."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import pytest

from ovms_mp.front.descriptors import DescriptorWatch

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_nothing_is_said_while_there_are_some(caplog: pytest.LogCaptureFixture) -> None:
    assert DescriptorWatch(lambda: 0).look()
    assert not caplog.records


@pytest.mark.usefixtures("no_descriptor_left")
def test_it_is_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now_ns = 1000 * 10**9
    watch = DescriptorWatch(lambda: now_ns)
    for _ in range(100):
        assert not watch.look()
        now_ns += 5 * 10**8
    assert len(caplog.records) == 1
    assert "connections_turned_away" in caplog.text
    now_ns += 60 * 10**9
    watch.look()
    assert len(caplog.records) == 2
