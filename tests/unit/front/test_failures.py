# SPDX-License-Identifier: Apache-2.0
"""What clients are told of exceptions, and what stays in the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ovms_mp.errors import INTERNAL_ERROR_TEXT, Code, ModelNotFound
from ovms_mp.front.failures import failure_of

if TYPE_CHECKING:
    import pytest


def test_a_failure_is_itself_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    failure = ModelNotFound("no m")
    assert failure_of(failure, "/s/M", "curl") is failure
    assert caplog.records == []


def test_any_other_exception_is_nobodys_business_but_the_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    failure = failure_of(KeyError("secret"), "/s/M", "curl")

    assert (failure.code, failure.message) == (Code.INTERNAL, INTERNAL_ERROR_TEXT)
    assert "event=call_raised method=/s/M user_agent=curl" in caplog.text
    assert "secret" in caplog.text
