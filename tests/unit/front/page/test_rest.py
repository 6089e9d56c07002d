# SPDX-License-Identifier: Apache-2.0
"""Stages of a call as a browser reads them, and where browsers are sent."""

from __future__ import annotations

from typing import cast

import pytest

from ovms_mp.front.browsers import to_page
from ovms_mp.front.call_context import CallContext, CallOrigin
from ovms_mp.front.page.rest import server_timing


def test_stages_are_in_their_order_and_in_milliseconds() -> None:
    context = CallContext(0, 0, "kserve", "ModelInfer", cast("CallOrigin", None), "REST", 1_000_000)
    context.sent_ns, context.received_ns, context.encoded_ns = 3_000_000, 9_000_000, 9_500_000
    context.queue_ns, context.infer_ns = 1_000_000, 4_000_000

    assert server_timing(context, 1_500_000) == (
        "receive;dur=0.500, decode;dur=1.500, queue;dur=1.000, infer;dur=4.000, handover;dur=1.000, encode;dur=0.500"
    )


def test_no_stage_takes_less_than_nothing() -> None:
    context = CallContext(0, 0, "kserve", "ModelInfer", cast("CallOrigin", None), "REST", 1_000_000)
    context.queue_ns = 5

    assert "-" not in server_timing(context, 0)


@pytest.mark.parametrize(
    ("path", "below", "place"),
    [
        ("/", "ui", "ui/"),
        ("/ovms", "ui", "ovms/ui/"),
        ("/ovms/", "ui", "ui/"),
        ("/ui", "", "ui/"),
        ("/ovms/ui", "", "ui/"),
    ],
)
def test_a_browser_is_sent_on_whatever_a_proxy_has_taken_away(path: str, below: str, place: str) -> None:
    answer = to_page(path, below)

    assert answer.status == 307
    assert dict(answer.headers)["Location"] == place
