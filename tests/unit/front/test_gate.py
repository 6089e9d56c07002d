# SPDX-License-Identifier: Apache-2.0
"""The way in and out: checks refuse, observers hear of every call, and none of them can hurt it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovms_mp.errors import Code, OvmsError, Unauthenticated
from ovms_mp.front.gate import Gate

from .workers import context

if TYPE_CHECKING:
    from ovms_mp.front.call_context import CallContext


class Listener:
    def __init__(self) -> None:
        self.heard: list[tuple[CallContext, Code | None, OvmsError | None] | CallContext] = []

    def begun(self, context: CallContext) -> None:
        self.heard.append(context)

    def ended(self, context: CallContext, code: Code | None, failure: OvmsError | None) -> None:
        self.heard.append((context, code, failure))


class Broken(Listener):
    def begun(self, context: CallContext) -> None:
        raise ValueError("a defect")

    def ended(self, context: CallContext, code: Code | None, failure: OvmsError | None) -> None:
        raise ValueError("another defect")


def test_the_first_check_that_refuses_is_what_the_caller_hears() -> None:
    asked: list[str] = []

    def refuse(_: CallContext) -> None:
        asked.append("refuse")
        raise Unauthenticated("no key")

    gate = Gate([lambda _: asked.append("admit"), refuse, lambda _: asked.append("never")])
    with pytest.raises(Unauthenticated, match="no key"):
        gate.admit(context())

    assert asked == ["admit", "refuse"]


def test_observers_hear_of_calls_also_beside_one_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    listener, call, failure = Listener(), context(), Unauthenticated("no key")
    gate = Gate([], [Broken(), listener])

    gate.enter(call)
    gate.leave(call, Code.UNAUTHENTICATED, failure)

    assert listener.heard == [call, (call, Code.UNAUTHENTICATED, failure)]
    assert "a defect" in caplog.text


def test_a_message_of_a_stream_is_the_same_callers() -> None:
    call = context(deadline_ns=7, flow=3)
    call.caller, call.model = "anna", "resnet"
    call.reply_with("retry-after", "1")

    part = call.part("ModelInfer", 5)

    assert (part.deadline_ns, part.flow, part.method, part.begun_ns) == (7, 3, "ModelInfer", 5)
    assert (part.caller, part.model, part.reply_metadata) == ("anna", "", ())


def test_the_load_is_told_to_those_only_who_were_let_in() -> None:
    told: list[CallContext] = []

    def check(call: CallContext) -> None:
        if call.caller != "anna":
            raise Unauthenticated("no key")

    gate = Gate([check], tell_load=told.append)
    known, stranger, early = context(), context(), context()
    known.caller = "anna"
    for call in (known, stranger, early):
        call.load_format = "text"
        gate.enter(call)
    gate.admit(known)
    with pytest.raises(Unauthenticated) as refusal:
        gate.admit(stranger)
    gate.leave(known, None)
    gate.leave(stranger, Code.UNAUTHENTICATED, refusal.value)
    gate.leave(early, Code.DEADLINE_EXCEEDED)

    assert told == [known]
