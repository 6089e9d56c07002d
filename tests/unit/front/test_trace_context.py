# SPDX-License-Identifier: Apache-2.0
"""W3C's headers, good and bad."""

from __future__ import annotations

import pytest

from ovms_mp.front.trace_context import TraceParent, parent_of, parse_traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("text", "is_sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        # A later version may have more behind what is known.
        (f"cc-{TRACE}-{SPAN}-01-what-is-to-come", True),
    ],
)
def test_what_is_right_is_read(text: str, is_sampled: bool) -> None:
    found = parse_traceparent(text)

    assert found == TraceParent(int(TRACE, 16), int(SPAN, 16), is_sampled)
    assert found.text == f"00-{TRACE}-{SPAN}-{int(is_sampled):02}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"cc-{TRACE}-{SPAN}-01-" + "x" * 600,
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_what_is_wrong_is_as_if_it_were_not_there(text: str) -> None:
    assert parse_traceparent(text) is None


def test_a_call_has_one_parent_or_none() -> None:
    one = ("traceparent", f"00-{TRACE}-{SPAN}-01")

    assert parent_of([("x", "y"), one]) == TraceParent(int(TRACE, 16), int(SPAN, 16), is_sampled=True)
    assert parent_of([one, one]) is None
    assert parent_of([("traceparent", b"\0")]) is None
