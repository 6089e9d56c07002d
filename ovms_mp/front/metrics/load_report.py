# SPDX-License-Identifier: Apache-2.0
"""Tells clients and proxies that ask how busy the server is, in a header of the answer: ORCA's load reports.

Who sends ``endpoint-load-metrics-format: text``, ``json`` or ``bin`` gets ``endpoint-load-metrics`` in a form that
Envoy reads: ``TEXT a=1, b=2``, ``JSON {...}``, or ``BIN`` with base64 of the message. Over gRPC it is a trailer.

Source: https://github.com/cncf/xds/blob/main/xds/data/orca/v3/orca_load_report.proto.
"""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING

from ovms_mp.wire.process_counters import CPU_PERMILLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.infer.leases import Leases
    from ovms_mp.wire.counters import CounterReader

ANSWERED = "endpoint-load-metrics"
_DOUBLE_1, _NAMED_8, _KEY_1, _DOUBLE_2 = b"\x09", b"\x42", b"\x0a", b"\x11"
"""Tags of the message: cpu_utilization; an entry of named_metrics, with its key and its value."""


class LoadReports:
    """Belongs to the event loop."""

    def __init__(
        self,
        reader: CounterReader,
        managers_row: int,
        leases: Leases,
        tasks_under_way: Callable[[], int],
    ) -> None:
        """Prepare.

        Args:
            reader: Of all processes' words.
            managers_row: The number of the manager's row.
            leases: Of this front's arena.
            tasks_under_way: Tells how many tasks of this front workers have.
        """
        self._reader = reader
        self._managers_row = managers_row
        self._leases = leases
        self._tasks_under_way = tasks_under_way

    def tell(self, context: CallContext) -> None:
        """Have the answer tell the load; its client has asked. PERF: 20 us."""
        report = self._report(context.load_format)
        if report:
            context.reply_with(ANSWERED, report)

    def _report(self, form: str) -> str:
        """Empty for a form that nobody knows: an answer must not fail for what is told beside it."""
        manager = dict(self._reader.process_pages()).get(self._managers_row)
        cpu = 0.0 if manager is None else manager[CPU_PERMILLE] / 1000
        used_bytes = len(self._leases.memory) - self._leases.free_bytes()
        named = {
            "arena_utilization": round(used_bytes / len(self._leases.memory), 4),
            "tasks_under_way": self._tasks_under_way(),
        }
        match form.strip().lower():
            case "text":
                texts = [f"cpu_utilization={cpu:g}"]
                texts += [f"named_metrics.{name}={value:g}" for name, value in named.items()]
                return "TEXT " + ", ".join(texts)
            case "json":
                return "JSON " + json.dumps({"cpu_utilization": cpu, "named_metrics": named})
            case "bin":
                return "BIN " + base64.b64encode(_message(cpu, named)).decode()
            case _:
                return ""


def _message(cpu: float, named: Mapping[str, float]) -> bytes:
    """An OrcaLoadReport; each name is shorter than 100 bytes, so that lengths are of one byte."""
    message = _DOUBLE_1 + struct.pack("<d", cpu)
    for name, value in named.items():
        key = name.encode()
        entry = _KEY_1 + bytes([len(key)]) + key + _DOUBLE_2 + struct.pack("<d", value)
        message += _NAMED_8 + bytes([len(entry)]) + entry
    return message
