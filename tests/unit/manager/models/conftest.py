# SPDX-License-Identifier: Apache-2.0
"""What the tests of the catalogue begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ..world import World, steady_clock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ..fakes import Clock


@pytest.fixture
def clock() -> Iterator[Clock]:
    with steady_clock() as made:
        yield made


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "m"


@pytest.fixture
def world(base: Path, clock: Clock) -> World:
    """One model, version 1 of which is served."""
    return World.serving(base, clock)
