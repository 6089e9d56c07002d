# SPDX-License-Identifier: Apache-2.0
"""The environment that clients of KServe v2 run in, and what became of their cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import client_process
from tests.support.ledger import Ledger, assert_nothing_left

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.support.server import Server


@pytest.fixture(scope="session")
def clients_python(clients_cache: Path) -> Path:
    """The Python that has the client libraries."""
    return client_process.install(clients_cache)


@pytest.fixture(scope="module")
def command(request: pytest.FixtureRequest, clients_python: Path) -> Sequence[str | Path]:
    """What runs the module's ``SCRIPT``."""
    return clients_python, client_process.SCRIPTS / f"{request.module.SCRIPT}.py"


@pytest.fixture(scope="module", params=["native"])
def outcomes(
    request: pytest.FixtureRequest, fronts: Mapping[str, Server], command: Sequence[str | Path]
) -> dict[str, str]:
    """How each case of the module's ``command`` ended, by the shared server with the gRPC front of the parameter.

    What a case changes at the server it changes back, as all others ask the same one.
    """
    before = Ledger.take()
    found = client_process.run_cases(command, fronts[request.param])
    assert_nothing_left(before)
    return found
