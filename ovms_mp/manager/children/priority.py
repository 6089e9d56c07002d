# SPDX-License-Identifier: Apache-2.0
"""Processor time and memory: which processes of ours may wait, and which the kernel ends first. Linux only.

A nice value is not enough for what shall not be noticed: a nice process still keeps a core for some milliseconds once
it has it, while SCHED_IDLE makes room at once for whatever else wakes up. sched(7)
PERF: tiny model, 16 in flight on two cores, beside an endless loop: p99 4.0 ms alone, 6.5 ms at nice 10 or 19, 5.6 ms
at SCHED_IDLE, where the loop still had a fifth of a core.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

from ovms_mp.child.permission import is_permitted

_MOST_POINTS = 1000
_NICENESS = 10
"""PERF: with four busy processes on two cores a small model's trial takes 11 s at 10, 28 s at 19, 5 s at 0: at 19 a
loaded server would hardly ever see a new version."""


def let_go_earlier(pid: int, points: int) -> None:
    """Have the kernel end a process before others of ours when memory runs out; where it refuses, as all others.

    Args:
        pid: The process; what it forks later goes with it.
        points: Thousandths of the machine's memory that it counts for besides its own. proc_pid_oom_score_adj(5)
    """
    try:
        own = int(Path("/proc/self/oom_score_adj").read_text())
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(min(own + points, _MOST_POINTS)))
    except (OSError, ValueError):
        return


def give_spare_time(pid: int) -> None:
    """Let a process run only where nobody else wants to, if :func:`give_some_time` can take that back later."""
    if _may_leave_idle():
        _for_each_thread(pid, _to_idle)
    else:
        give_some_time(pid)


def give_some_time(pid: int) -> None:
    """Let a process run also on a machine that is busy all the time, at a tenth of the others' priority."""
    _for_each_thread(pid, _to_batch)


def _for_each_thread(pid: int, change: Callable[[int], None]) -> None:
    try:
        names = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return  # It has ended, or it is a zombie that nobody has reaped.
    for name in names:
        try:
            change(int(name))
        except OSError:
            # This thread has ended, or runs like all others where the system wants it so; a sandbox may refuse with
            # any error.
            continue


def _to_idle(thread_id: int) -> None:
    _make_nice(thread_id)  # For later; SCHED_IDLE does not look at it.
    os.sched_setscheduler(thread_id, os.SCHED_IDLE, os.sched_param(0))


def _to_batch(thread_id: int) -> None:
    os.sched_setscheduler(thread_id, os.SCHED_BATCH, os.sched_param(0))
    _make_nice(thread_id)


def _make_nice(thread_id: int) -> None:
    niceness = max(_NICENESS, os.getpriority(os.PRIO_PROCESS, thread_id))
    os.setpriority(os.PRIO_PROCESS, thread_id, niceness)


@functools.cache
def _may_leave_idle() -> bool:
    """Whether SCHED_IDLE can be taken back (RLIMIT_NICE, CAP_SYS_NICE)."""

    def there_and_back(thread_id: int) -> None:
        _to_idle(thread_id)
        _to_batch(thread_id)

    return is_permitted(there_and_back)
