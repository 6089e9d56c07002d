# SPDX-License-Identifier: Apache-2.0
"""Load reports for those who ask."""

from __future__ import annotations

import base64
import json
import struct

import pytest

from ovms_mp.front.call_context import CallContext
from ovms_mp.front.metrics.load_report import LoadReports
from ovms_mp.wire.counters import CountersFile, managers_row
from ovms_mp.wire.process_counters import CPU_PERMILLE, process_words
from tests.unit.front.infer.test_leases import arena_leases
from tests.unit.front.workers import Nobody


def told(form: str) -> str:
    file = CountersFile(1, 0)
    process_words(file.own_row)[CPU_PERMILLE] = 250
    context = CallContext(0, 0, "tfs", "Predict", Nobody())
    context.load_format = form
    with arena_leases() as leases:
        half = leases.lease(len(leases.memory) // 2)
        LoadReports(file.reader, managers_row(file.handle), leases, lambda: 3).tell(context)
        leases.release(half)
    file.close()
    assert len(context.reply_metadata) <= 1
    return dict(context.reply_metadata).get("endpoint-load-metrics", "")


def test_text() -> None:
    assert told("text") == (
        "TEXT cpu_utilization=0.25, named_metrics.arena_utilization=0.5, named_metrics.tasks_under_way=3"
    )


def test_json() -> None:
    assert json.loads(told(" JSON").removeprefix("JSON ")) == {
        "cpu_utilization": 0.25,
        "named_metrics": {"arena_utilization": 0.5, "tasks_under_way": 3},
    }


def test_the_message() -> None:
    octets = base64.b64decode(told("bin").removeprefix("BIN "))
    assert octets[:9] == b"\x09" + struct.pack("<d", 0.25)
    entry = b"\x0a\x11arena_utilization\x11" + struct.pack("<d", 0.5)
    assert octets[9:].startswith(b"\x42" + bytes([len(entry)]) + entry)


@pytest.mark.parametrize("form", ["xml", "", "text\r\nx: y"])
def test_other_forms_change_nothing(form: str) -> None:
    assert told(form) == ""
