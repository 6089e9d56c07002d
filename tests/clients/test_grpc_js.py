# SPDX-License-Identifier: Apache-2.0
"""Node's client with the ``.proto`` file of KServe v2; see ``tests/support/grpc_js/kserve.js``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import grpc_js

if TYPE_CHECKING:
    from collections.abc import Sequence

PROTO = Path(__file__).resolve().parents[2] / "protos" / "kserve.proto"
CASES = ("health", "metadata", "raw", "contents", "refusal", "stream")


@pytest.fixture(scope="module")
def command(clients_cache: Path) -> Sequence[str | Path]:
    directory = grpc_js.install(clients_cache)
    return "/usr/bin/env", "node", directory / "kserve.js", PROTO


@pytest.mark.parametrize("outcomes", ["native", "grpcio"], indirect=True)
@pytest.mark.parametrize("case", CASES)
def test_case(case: str, outcomes: dict[str, str]) -> None:
    assert not outcomes[case], outcomes[case]
