# SPDX-License-Identifier: Apache-2.0
"""Model API's adapter for model servers; see ``tests/support/clients/ovms_adapter.py``."""

from __future__ import annotations

import pytest

from tests.support.client_process import case_names

SCRIPT = "ovms_adapter"


@pytest.mark.parametrize("case", case_names(SCRIPT))
def test_case(case: str, outcomes: dict[str, str]) -> None:
    assert not outcomes[case], outcomes[case]
