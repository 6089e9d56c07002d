# SPDX-License-Identifier: Apache-2.0
"""The status document, and what the command makes of it."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from ovms_mp.commands.status_text import status_text
from ovms_mp.errors import Code
from ovms_mp.model.status import State
from ovms_mp.wire.codec import decode_to_child, encode
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import ConfigRefusal, ErrorRecord, ModelRecord, VersionRecord
from ovms_mp.wire.status_document import status_document
from ovms_mp.wire.version_counters import VersionTotals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def document_of(found: RoutingSnapshot, notes: Mapping[str, Sequence[str]] | None = None) -> bytes:
    """The document, always of the same moment."""
    return status_document(found, lambda _: VersionTotals(), notes, clock_ns=lambda: 1_000_000_000_000)


def snapshot(*versions: VersionRecord, refusal: ConfigRefusal | None = None) -> RoutingSnapshot:
    """One that has been sent to a front."""
    made = RoutingSnapshot(
        1, False, (), ("2 cores",), (ModelRecord("m", 1, versions),), config_refusal=refusal
    )
    received = decode_to_child(encode(made))
    assert isinstance(received, RoutingSnapshot)
    return received


def failed(*, is_coming: bool = False, retry_in_s: float | None = None) -> VersionRecord:
    retry_at_ns = 0 if retry_in_s is None else int(1e12 + retry_in_s * 1e9)
    return VersionRecord(
        version=1,
        state=State.LOADING,
        error_code=Code.UNKNOWN.number,
        error_message="it is no model",
        handle=0,
        endpoints=(),
        nireq=0,
        detail="",
        inputs=(),
        outputs=(),
        is_coming=is_coming,
        retry_at_ns=retry_at_ns,
    )


def document(found: RoutingSnapshot) -> Any:
    return json.loads(document_of(found))


@pytest.mark.parametrize(
    ("retry_in_s", "next_try"), [(None, None), (33.25, 33.2), (0.0, 0.0), (-2.0, 0.0), (3600.0, 3600.0)]
)
def test_the_next_try_is_told_from_now_on(retry_in_s: float | None, next_try: float | None) -> None:
    (version,) = document(snapshot(failed(retry_in_s=retry_in_s)))["models"]["m"]["versions"]

    assert (version["is_failed"], version["next_try_in_s"]) == (True, next_try)
    assert version["error_message"] == "it is no model"


def test_requests_are_those_of_the_version_s_page() -> None:
    def totals_of(page: int) -> VersionTotals:
        return VersionTotals(answers=5, failures=2, cancelled=1) if page == 7 else VersionTotals()

    found = snapshot(structs.replace(failed(), counters=7))
    (row,) = json.loads(status_document(found, totals_of))["models"]["m"]["versions"]
    assert (row["requests"], row["failures"], row["cancelled"]) == (8, 2, 1)


def test_people_are_told_the_same() -> None:
    lines = status_text(document_of(snapshot(failed(retry_in_s=33.25)))).splitlines()

    assert lines[-2:] == ["  1  FAILED  next try in 34 s", "    ! it is no model"]


def test_notes_are_for_the_administrator() -> None:
    """They hold paths, which clients are not told."""
    told = document_of(snapshot(), {"m": ["/m: does not exist"], "gone": ["/gone"]})

    assert status_text(told).splitlines()[-1] == "  ! /m: does not exist"
    assert "notes" not in document(snapshot())["models"]["m"]


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_refused_configuration_file_has_its_time_and_reason(*, is_whole: bool) -> None:
    at_s = time.time()
    refusal = ConfigRefusal(at_s, is_whole=is_whole, error=ErrorRecord("ConfigError", "it is empty"))
    found = document(snapshot(refusal=refusal))["configuration"]

    assert (found["is_refused_whole"], found["reason"]) == (is_whole, "it is empty")
    moment = datetime.fromisoformat(found["refused_at"])
    assert moment.tzinfo is not None
    assert int(moment.timestamp()) == int(at_s)


def test_a_good_configuration_file_has_none() -> None:
    assert document(snapshot())["configuration"] is None
