# SPDX-License-Identifier: Apache-2.0
"""Starts a child's process: command line, environment, inherited descriptors, and a pidfd to watch it."""

from __future__ import annotations

import logging
import subprocess
from typing import TYPE_CHECKING

from ovms_mp.child.lifetime import holding_log_signals
from ovms_mp.manager.children.child import Child
from ovms_mp.manager.children.kinds import MODULES, OOM_POINTS, Kind, environment_of
from ovms_mp.manager.children.priority import let_go_earlier
from ovms_mp.manager.children.processes import watch_process
from ovms_mp.places import module_command

if TYPE_CHECKING:
    from ovms_mp.child.specs import ChildSpec
    from ovms_mp.manager.clock import Clock

_log = logging.getLogger(__name__)

_KILL_LIMIT_S = 10.0


def spawn(role: str, kind: Kind, spec: ChildSpec, descriptors: tuple[int, ...], clock: Clock) -> Child:
    """Start a process.

    Args:
        role: Name of the role that it fills.
        kind: What it runs.
        spec: Its command line.
        descriptors: What it inherits.
        clock: The manager's.

    Raises:
        OSError: The system refuses.
    """
    # A process group of its own: what a terminal sends to the group is for the manager to decide about.
    with holding_log_signals():
        process = subprocess.Popen(
            module_command(MODULES[kind], spec.to_argument()),
            stdin=subprocess.DEVNULL,
            cwd="/",
            pass_fds=descriptors,
            env=environment_of(kind),
            process_group=0,
        )
    try:
        pidfd = watch_process(process.pid)
    except OSError:
        process.kill()  # Nobody could watch it.
        process.wait(timeout=_KILL_LIMIT_S)
        raise
    let_go_earlier(process.pid, OOM_POINTS[kind])
    child = Child(role, spec.child_id, kind, process.pid, pidfd, process, clock)
    _log.info("event=spawned child=%s pid=%d", spec.child_id, process.pid)
    return child
