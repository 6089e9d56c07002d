# SPDX-License-Identifier: Apache-2.0
"""The list of protocols: what they hand over fits together, and a front loads only what its transport carries."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, cast

import pytest

from ovms_mp.front.metrics.page import MetricsPage
from ovms_mp.front.protocols import PROTOCOLS, all_methods, all_routes
from ovms_mp.front.served_protocol import MessageParts

if TYPE_CHECKING:
    from ovms_mp.front.live.feed import PageFeed
    from ovms_mp.front.service import Service


class Front:
    service = cast("Service", None)
    metrics = MetricsPage((), ())
    page = cast("PageFeed", None)


def refuse(*_: object) -> int:
    raise AssertionError("nothing is called here")


PARTS = MessageParts(Front.service, refuse, refuse, memoryview(b""), refuse)  # type: ignore[arg-type]  # not called


def test_every_path_is_one_protocols() -> None:
    paths = [method.path for method in all_methods(PARTS)]
    templates = [route.template for route in all_routes(Front())]

    assert len(paths) == len(set(paths)) > 0
    assert len(templates) == len(set(templates)) > 0


def test_methods_say_whose_they_are() -> None:
    for protocol in PROTOCOLS:
        assert {method.protocol for method in protocol.methods(PARTS)} <= {protocol.name}


@pytest.mark.parametrize(
    ("call", "stranger"),
    [
        ("all_methods(MessageParts(None, None, None, None, None))", "ovms_mp.front.tfs.json.decode"),
        ("all_methods(MessageParts(None, None, None, None, None))", "simdjson"),
        ("all_routes(None)", "ovms_mp.front.tfs.protobuf.decode"),
    ],
)
def test_a_front_loads_what_its_transport_carries(call: str, stranger: str) -> None:
    program = (
        f"import sys; from ovms_mp.front.protocols import *; from ovms_mp.front.served_protocol import MessageParts; "
        f"{call}; print({stranger!r} in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout == "False\n"
