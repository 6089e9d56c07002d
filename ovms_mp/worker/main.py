# SPDX-License-Identifier: Apache-2.0
"""The life of an inference worker process: tie to the parent, hello, engine, ready, loop, exit."""

from __future__ import annotations

import logging
import signal
import sys
from typing import TYPE_CHECKING

from ovms_mp.errors import BootError, ExitCode, OvmsError
from ovms_mp.log import configure_logging
from ovms_mp.wire.channels import Router
from ovms_mp.wire.control import ControlLink
from ovms_mp.wire.heartbeat import HeartbeatThread
from ovms_mp.wire.lifetime import die_with_parent
from ovms_mp.wire.messages import Ready
from ovms_mp.wire.specs import WorkerSpec, spec_from_argument

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run the worker; its exit code."""
    try:
        spec = spec_from_argument(arguments[0] if arguments else "", WorkerSpec)
        die_with_parent(spec.common.parent_pid)
    except BootError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.BOOT_FAILED
    # Ctrl-C reaches the whole process group, but when a worker stops is the manager's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    configure_logging(
        spec.common.log_level, spec.common.log_path, f"worker {spec.device}", spec.common.run_id
    )
    control = ControlLink(spec, spec.child_id)
    try:
        _serve(spec, control)
    except OvmsError as error:
        _log.error("event=boot_failed error=%s", error)
        control.report_boot_failure(error)
        return ExitCode.BOOT_FAILED
    except Exception:
        _log.exception("event=worker_died")
        return ExitCode.INTERNAL
    control.close()
    return ExitCode.CLEAN


def _serve(spec: WorkerSpec, control: ControlLink) -> None:
    control.say_hello()
    # Imported after the hello, so that the manager knows this process while the engine's libraries are being
    # read.
    from ovms_mp.worker.engine import create_core
    from ovms_mp.worker.loop import WorkerLoop

    core = create_core(spec.cpu_extension)
    with Router(spec.data_endpoint) as data:
        loop = WorkerLoop(core, control, data, spec.common.arenas)
        heartbeat = HeartbeatThread(
            spec.common.control_endpoint, spec.child_id, spec.common.heartbeat_interval_s, loop.measure
        )
        heartbeat.start()
        control.send(Ready(f"device={spec.device}"))
        try:
            loop.run()
        finally:
            heartbeat.stop()
