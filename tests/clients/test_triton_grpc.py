# SPDX-License-Identifier: Apache-2.0
"""Triton's gRPC client; see ``tests/support/clients/triton_grpc.py``."""

from __future__ import annotations

import pytest

from tests.support.client_process import case_names

SCRIPT = "triton_grpc"


@pytest.mark.parametrize("outcomes", ["native", "grpcio"], indirect=True)
@pytest.mark.parametrize("case", case_names(SCRIPT))
def test_case(case: str, outcomes: dict[str, str]) -> None:
    assert not outcomes[case], outcomes[case]
