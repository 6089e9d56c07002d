# SPDX-License-Identifier: Apache-2.0
"""Fixtures of all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.ledger import Ledger
from tests.support.models import ModelZoo
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> ModelZoo:
    """Small real models, built once by a process of its own."""
    return ModelZoo.build(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    """Where a test's server logs."""
    return tmp_path / "server.log"


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a process test that leaves a process, a socket, shared memory or a descriptor behind."""
    path = str(request.path)
    if not any(f"/tests/{kind}/" in path for kind in ("integration", "fault", "conformance")):
        yield
        return
    if "shared_server" in request.fixturenames:
        # The server outlives the single test; its own fixture holds the ledger.
        yield
        return
    before = Ledger.take()
    yield
    eventually(lambda: not Ledger.take().leaks(before), 5.0, f"nothing left behind: {Ledger.take().leaks(before)}")
