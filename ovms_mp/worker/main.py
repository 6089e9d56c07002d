# SPDX-License-Identifier: Apache-2.0
"""The life of an inference worker process: tie to the parent, cores, hello, engine, ready, loop, exit."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from ovms_mp.child.heartbeat import HeartbeatThread
from ovms_mp.child.process import run_child, with_control_link
from ovms_mp.child.specs import WorkerSpec
from ovms_mp.model.core_lists import core_text
from ovms_mp.wire.channels import Router
from ovms_mp.wire.counters import CounterRow
from ovms_mp.wire.messages import Ready
from ovms_mp.wire.run_page import RunPage
from ovms_mp.worker.engine.affinity import take_share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.child.control import ControlLink


def main(arguments: Sequence[str]) -> int:
    """Run the worker; its exit code."""
    return run_child(
        arguments,
        WorkerSpec,
        lambda spec: f"worker {spec.device}",
        lambda spec: with_control_link(spec, _serve),
    )


def _serve(spec: WorkerSpec, control: ControlLink) -> None:
    cpu = take_share(spec.cpu)
    control.say_hello()
    # Imported after the hello, so that the manager knows this process while the engine's libraries are being
    # read; and after the cores were taken, as those libraries make threads and count cores.
    from ovms_mp.worker.engine.engine import create_core, tell_missing_devices
    from ovms_mp.worker.loop import WorkerLoop

    core = create_core(spec.engine)
    tell_missing_devices(core, spec.device)
    # PERF: what has been imported stays for ever; a collection after an unload need not walk it (48 ms, then 0).
    gc.freeze()
    with Router(spec.data_endpoint) as data:
        page = RunPage(spec.run_page)
        row = CounterRow(spec.common.counters, spec.counter_row)
        loop = WorkerLoop(
            core, control, data, spec.common.arenas, cpu, page, row, has_metrics=spec.has_metrics
        )
        heartbeat = HeartbeatThread(
            spec.common.control_endpoint, spec.child_id, spec.common.heartbeat_interval_s, loop.measure
        )
        heartbeat.start()
        cores = core_text(cpu.cores) or "all"
        control.send(
            Ready(f"device={spec.device or 'automatic'} cores={cores} threads={cpu.threads or 'automatic'}")
        )
        try:
            loop.run()
        finally:
            heartbeat.stop()
