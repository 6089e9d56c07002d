# SPDX-License-Identifier: Apache-2.0
"""KServe's clients; see ``tests/support/clients/kserve_sdk.py``."""

from __future__ import annotations

import pytest

from tests.support.client_process import case_names

SCRIPT = "kserve_sdk"


@pytest.mark.parametrize("outcomes", ["native", "grpcio"], indirect=True)
@pytest.mark.parametrize("case", case_names(SCRIPT))
def test_case(case: str, outcomes: dict[str, str]) -> None:
    assert not outcomes[case], outcomes[case]
