# SPDX-License-Identifier: Apache-2.0
"""How much is traced: what is not given stays, and what has not changed is no news."""

from __future__ import annotations

import pytest

from ovms_mp.errors import UnsupportedOperation
from ovms_mp.manager.changes.trace_state import TraceState
from ovms_mp.wire.changes import SetTrace
from ovms_mp.wire.records import TraceSettings


def test_what_is_not_given_stays() -> None:
    state = TraceState(TraceSettings())
    for change, wanted in (
        (SetTrace(rate=5), TraceSettings(rate=5)),
        (SetTrace(is_on=False), TraceSettings(is_on=False, rate=5)),
        (SetTrace(is_on=True, rate=1), TraceSettings()),
    ):
        course = state.course(change)
        course.begin()
        assert course.outcome().is_changed
        assert state.is_changed
        assert state.settings == wanted
        state.note_snapshot(1)
        assert not state.is_changed


def test_what_is_so_already_is_no_news() -> None:
    state = TraceState(TraceSettings())
    course = state.course(SetTrace(is_on=True))
    course.begin()

    assert not course.outcome().is_changed
    assert not state.is_changed


def test_nothing_is_traced_without_tracing() -> None:
    with pytest.raises(UnsupportedOperation, match="without --trace"):
        TraceState(None).course(SetTrace(is_on=True)).begin()
