# SPDX-License-Identifier: Apache-2.0
"""Parameters of a request: what they change, and what is refused instead of being done wrongly."""

from __future__ import annotations

import pytest

from ovms_mp.errors import MalformedPayload, UnsupportedOperation
from ovms_mp.front.call_context import CallContext
from ovms_mp.front.kserve.parameters import heed

NOW_NS = 5_000_000_000


class Nowhere:
    metadata = ()
    peer = certificate_name = ""


def context(deadline_ns: int = 0) -> CallContext:
    return CallContext(deadline_ns, 0, "kserve", "ModelInfer", Nowhere())


@pytest.mark.parametrize("timeout", [250, "250", 250.0])
def test_a_timeout_is_microseconds_until_the_deadline(timeout: float | str) -> None:
    call = context()
    heed({"timeout": timeout}, call, NOW_NS)
    assert call.deadline_ns == NOW_NS + 250_000


def test_the_earlier_one_of_two_deadlines_counts() -> None:
    early, late = context(NOW_NS + 1), context(NOW_NS + 10**9)
    heed({"timeout": 1000}, early, NOW_NS)
    heed({"timeout": 1000}, late, NOW_NS)
    assert early.deadline_ns == NOW_NS + 1
    assert late.deadline_ns == NOW_NS + 1_000_000


@pytest.mark.parametrize(
    "parameters", [{}, {"timeout": 0}, {"timeout": "0"}, {"binary_data_output": True, "x": 1.5}]
)
def test_without_a_timeout_the_deadline_stays(parameters: dict[str, int]) -> None:
    call = context(NOW_NS + 7)
    heed(parameters, call, NOW_NS)
    assert call.deadline_ns == NOW_NS + 7


NOT_WHOLE = [-1, True, "soon", "", "-5", 1.5, float("nan"), float("inf"), 1 << 64, "9" * 21, "\u0663"]


@pytest.mark.parametrize("value", NOT_WHOLE)
def test_a_timeout_that_is_no_whole_number_is_refused(value: float | str) -> None:
    with pytest.raises(MalformedPayload, match=r"parameter 'timeout' is .*, expected a whole number"):
        heed({"timeout": value}, context(), NOW_NS)


@pytest.mark.parametrize("value", NOT_WHOLE)
def test_a_priority_that_is_no_whole_number_is_refused(value: float | str) -> None:
    with pytest.raises(MalformedPayload, match=r"parameter 'priority' is .*, expected a whole number"):
        heed({"priority": value}, context(), NOW_NS)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, 0),
        ({"priority": 0}, 0),
        ({"priority": 1}, 1),
        ({"priority": "1"}, 1),
        ({"priority": 2}, 0),
        ({"priority": 1 << 63}, 0),
    ],
)
def test_one_is_the_highest_priority(parameters: dict[str, int | str], expected: int) -> None:
    call = context()
    heed(parameters, call, NOW_NS)
    assert call.priority == expected


@pytest.mark.parametrize("key", ["triton_final_response", "triton_", "headers"])
def test_reserved_keys_are_refused(key: str) -> None:
    with pytest.raises(MalformedPayload, match=f"parameter '{key}' is reserved"):
        heed({key: True}, context(), NOW_NS)


def test_the_one_reserved_key_of_clients_is_taken() -> None:
    heed({"triton_enable_empty_final_response": True}, context(), NOW_NS)


@pytest.mark.parametrize("parameters", [{"sequence_id": 3}, {"sequence_id": "a"}, {"sequence_start": True}])
def test_sequences_are_not_answered_as_if_they_were_none(parameters: dict[str, int]) -> None:
    with pytest.raises(UnsupportedOperation, match="sequences are not supported"):
        heed(parameters, context(), NOW_NS)


@pytest.mark.parametrize(
    "parameters", [{"sequence_id": 0}, {"sequence_id": "", "sequence_start": False, "sequence_end": False}]
)
def test_no_sequence_is_no_sequence(parameters: dict[str, int]) -> None:
    heed(parameters, context(), NOW_NS)
