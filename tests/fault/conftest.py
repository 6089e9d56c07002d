# SPDX-License-Identifier: Apache-2.0
"""Options of the fault tests."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def fault_seconds(pytestconfig: pytest.Config) -> float:
    """How long faults are injected; the default keeps the suite short, 60 is the full run."""
    return float(pytestconfig.getoption("--fault-seconds"))
