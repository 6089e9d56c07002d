# SPDX-License-Identifier: Apache-2.0
"""``python -m ovms_mp.fleet.guard NODE COMMAND...``: keeps a balancer running, whatever becomes of its actor.

The address that clients have must not depend on an actor, which Ray may start anew at any time. So the balancer is the
child of this small process, which starts it again at once when it dies, and ends it when the process NODE, the one of
Ray that runs the machine's actors, is gone: then nobody would tell it of servers any more.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

from ovms_mp.child.lifetime import die_with_parent
from ovms_mp.fleet.launch import take_usual_priority

_SHORTEST_LIFE_S = 1.0
"""What ends earlier is started again after a pause."""
_STOP_S = 5.0


def main() -> int:
    """Keep it running; the exit code."""
    node, command = int(sys.argv[1]), sys.argv[2:]
    signal.signal(signal.SIGTERM, _leave)
    take_usual_priority()
    node_fd = os.pidfd_open(node)
    us = os.getpid()
    while True:
        started_s = time.monotonic()
        # One thread only, so what runs before the exec cannot find a lock held.
        child = subprocess.Popen(command, preexec_fn=lambda: die_with_parent(us, signal.SIGTERM))
        try:
            _wait_for_either(node_fd, child)
        finally:
            _end(child)
        if _is_over(node_fd, max(0.0, started_s + _SHORTEST_LIFE_S - time.monotonic())):
            return 0


def _leave(_number: int, _frame: object) -> None:
    sys.exit(0)


def _wait_for_either(node_fd: int, child: subprocess.Popen[bytes]) -> None:
    child_fd = os.pidfd_open(child.pid)
    try:
        waiting = select.poll()
        waiting.register(node_fd, select.POLLIN)
        waiting.register(child_fd, select.POLLIN)
        waiting.poll()
    finally:
        os.close(child_fd)


def _is_over(node_fd: int, within_s: float) -> bool:
    """Whether the node ends within a time."""
    waiting = select.poll()
    waiting.register(node_fd, select.POLLIN)
    return bool(waiting.poll(within_s * 1e3))


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


if __name__ == "__main__":
    sys.exit(main())
