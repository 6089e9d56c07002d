# SPDX-License-Identifier: Apache-2.0
"""What clients are told of exceptions, and what stays in the log."""

from __future__ import annotations

import logging

import pytest

from ovms_mp.errors import INTERNAL_ERROR_TEXT, Code, InferenceFailed, ModelNotFound, OvmsError, WorkerLost
from ovms_mp.front.call_context import CallContext, Target
from ovms_mp.front.failures import failure_of


class Origin:
    """A client with a name and an id, and a key that is nobody's business."""

    metadata = (("user-agent", "curl\n"), ("x-request-id", "r 1"), ("authorization", "Bearer geheim"))
    peer = "127.0.0.1:4711"
    certificate_name = ""
    target = Target("POST", "/s/M")


def context() -> CallContext:
    made = CallContext(0, 0, "kserve", "ModelInfer", Origin())
    made.message_id = "m-1"
    return made


def test_a_failure_is_itself_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    failure = ModelNotFound("no m")
    assert failure_of(failure, "/s/M", context()) is failure
    assert caplog.records == []


def test_who_looks_for_a_failure_finds_it_where_everything_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    failure_of(ModelNotFound("no m"), "/s/M", context())

    assert [record.getMessage() for record in caplog.records] == [
        "event=call_failed method=/s/M user_agent='curl\\n' request_id='r 1' message_id='m-1' "
        "error=ModelNotFound: no m"
    ]


@pytest.mark.parametrize("error", [InferenceFailed("x"), WorkerLost("x")])
def test_what_is_no_clients_fault_is_always_found(error: OvmsError, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert failure_of(error, "/s/M", context()) is error

    assert "event=call_failed method=/s/M" in caplog.text
    assert "request_id='r 1' message_id='m-1'" in caplog.text
    assert "geheim" not in caplog.text


def test_any_other_exception_is_nobodys_business_but_the_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    failure = failure_of(KeyError("secret"), "/s/M", None)

    assert (failure.code, failure.message) == (Code.INTERNAL, INTERNAL_ERROR_TEXT)
    assert "event=call_raised method=/s/M user_agent=''" in caplog.text
    assert "secret" in caplog.text
