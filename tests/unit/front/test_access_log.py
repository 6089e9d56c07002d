# SPDX-License-Identifier: Apache-2.0
"""Which calls have a line, and what is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovms_mp.codes import Code
from ovms_mp.front.access_log import AccessLog
from ovms_mp.front.call_context import CallContext, Target
from ovms_mp.front.trace_context import CallTrace
from ovms_mp.log_json import fields_of

if TYPE_CHECKING:
    import logging

TRACE = "0af7651916cd43dd8448eb211c80319c"
MS = 10**6


class Origin:
    """A client with a trace of its own, and a key."""

    metadata = (
        ("traceparent", f"00-{TRACE}-b7ad6b7169203331-00"),
        ("x-request-id", "r-1"),
        ("authorization", "Bearer geheim"),
    )
    peer = "10.0.0.1:4711"
    certificate_name = ""
    target = Target("POST", "/v1/models/m:predict?key=geheim")


class Lines:
    """Keeps what is written, as text and as fields."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.fields: list[dict[str, object]] = []

    def write(self, _: logging.Logger, form: str, *arguments: object) -> None:
        self.texts.append(form % arguments)
        self.fields.append(fields_of(form, arguments))


def context() -> CallContext:
    made = CallContext(0, 0, "tfs", "Predict", Origin(), "REST", 5 * MS)
    made.model, made.version, made.caller = "m' x=1", 3, "app"
    made.queue_ns, made.infer_ns, made.http_status = MS, 2 * MS, 200
    made.received_bytes, made.sent_bytes = 10, 20
    return made


def test_a_line_says_who_asked_for_what_and_what_became_of_it() -> None:
    lines = Lines()
    AccessLog("all", lambda: 9 * MS, lines.write).ended(context(), None, None)

    assert lines.texts == [
        "event=call peer=10.0.0.1:4711 caller='app' interface=REST protocol=tfs method=Predict model=\"m' x=1\" "
        "version=3 status=200/OK ms=4.000 queue_ms=1.000 infer_ms=2.000 received_bytes=10 sent_bytes=20 "
        f"request_id='r-1' message_id='' trace_id={TRACE}"
    ]
    assert lines.fields[0]["model"] == "m' x=1"
    assert (lines.fields[0]["ms"], lines.fields[0]["version"]) == (4.0, 3)


def test_a_trace_of_ours_is_named_before_the_clients() -> None:
    lines, call = Lines(), context()
    call.trace = CallTrace(0xAB, 1)
    AccessLog("all", lambda: 9 * MS, lines.write).ended(call, Code.NOT_FOUND, None)

    assert lines.fields[0]["trace_id"] == f"{0xAB:032x}"
    assert lines.fields[0]["status"] == "200/NOT_FOUND"


@pytest.mark.parametrize(
    ("mode", "good", "failed", "traced"), [("all", 1000, 1000, 1000), ("sampled", 10, 100, 1000)]
)
def test_which_calls_have_one(mode: str, good: int, failed: int, traced: int) -> None:
    lines, call = Lines(), context()
    log = AccessLog(mode, lambda: 9 * MS, lines.write)
    counts = []
    for code in (None, Code.NOT_FOUND):
        for _ in range(1000):
            log.ended(call, code, None)
        counts.append(len(lines.texts))
    call.trace = CallTrace(0xAB, 1)
    for _ in range(1000):
        log.ended(call, Code.NOT_FOUND, None)

    assert counts == [good, good + failed]
    assert len(lines.texts) == good + failed + traced
    assert "geheim" not in "".join(lines.texts)
