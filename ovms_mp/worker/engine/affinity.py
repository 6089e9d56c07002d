# SPDX-License-Identifier: Apache-2.0
"""A worker's part of the machine, thread by thread: which cores, which priority. Imports no openvino.

OpenVINO reads the process's affinity once, when its core is made, so the share is taken before that; and as it ties
threads to cores by itself, the kernel is asked afterwards where they really are.
Sources: sched_setaffinity(2), proc_pid_status(5) (``Cpus_allowed_list``), setpriority(2) ("C library/kernel
differences": on Linux the nice value belongs to the thread).
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ovms_mp.child.permission import is_permitted
from ovms_mp.child.specs import CpuShare
from ovms_mp.errors import BootError
from ovms_mp.model.core_lists import core_text, parse_core_list

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger(__name__)

_LOADING_NICENESS = 10
"""About a tenth of the processor time of a thread that serves; all of it where nobody serves."""


def take_share(cpu: CpuShare) -> CpuShare:
    """Confine this process to its cores: threads that exist (numpy's, ZeroMQ's), and those that they will make.

    Returns:
        The share that it has. Where a sandbox refuses to confine, that is as many threads as there are cores in the
        share, on whatever cores the kernel gives them; OpenVINO must not tie them to cores then.

    Raises:
        BootError: The cores are not there, e.g. as a cpuset no longer has them.
    """
    if not cpu.cores:
        return cpu
    try:
        os.sched_setaffinity(0, cpu.cores)
    except OSError as error:
        cores = core_text(cpu.cores)
        if error.errno == errno.EINVAL:
            available = core_text(os.sched_getaffinity(0))
            raise BootError(
                f"cannot run on cores {cores}: {error.strerror}; available: {available}"
            ) from None
        _log.warning(
            "event=not_confined cores=%s the system refuses to confine this process to them: %s; inference may run "
            "slower, as workers share cores",
            cores,
            error.strerror,
        )
        return CpuShare((), cpu.threads or len(cpu.cores), is_pinning_safe=False)
    for thread_id in strays(cpu):
        try:
            os.sched_setaffinity(thread_id, cpu.cores)
        except ProcessLookupError:
            continue  # It has ended.
    return cpu


def strays(cpu: CpuShare) -> dict[int, frozenset[int]]:
    """Threads of this process that may run outside its share: thread id, and the cores that it may run on."""
    if not cpu.cores:
        return {}
    share = frozenset(cpu.cores)
    return {
        thread_id: cores
        for thread_id in _thread_ids()
        if (cores := _cores_of(thread_id)) is not None and not cores <= share
    }


def call_strays_back(cpu: CpuShare) -> None:
    """Confine threads that left the share to it again, with a line in the log: two workers on one core lose half."""
    found = strays(cpu)
    if not found:
        return
    share = frozenset(cpu.cores)
    for thread_id, cores in found.items():
        try:
            # A thread that is tied to a foreign core has no place of its own in the share; it gets all of it.
            os.sched_setaffinity(thread_id, (cores & share) or share)
        except OSError:
            continue  # It has ended, or its cores have been taken from this container; the line below shows it.
    _log.warning(
        "event=threads_left_share share=%s threads=%d cores=%s is_mended=%s",
        core_text(share),
        len(found),
        core_text(frozenset().union(*found.values())),
        not strays(cpu),
    )


@contextmanager
def low_priority() -> Iterator[None]:
    """Run the block at low priority, where that can be taken back.

    OpenVINO makes a model's inference threads while it compiles, and a new thread inherits its maker's nice value.
    Left alone they would serve at a tenth of the priority for ever, so all threads of the process are raised again at
    the end; a process that may not raise (RLIMIT_NICE, CAP_SYS_NICE) does not lower in the first place.
    PERF: while ResNet-50 loads from the cache, p99 of another model, 35 us a run, is 1.3 ms; at low priority 0.1 ms,
    and the load takes 0.6 s instead of 0.2.
    """
    try:
        niceness = os.getpriority(os.PRIO_PROCESS, 0)
    except OSError:
        niceness = _LOADING_NICENESS  # Refused by a sandbox.
    if niceness >= _LOADING_NICENESS or not _can_return_to(niceness):
        yield
        return
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOADING_NICENESS)
    try:
        yield
    finally:
        for thread_id in _thread_ids():
            try:
                if os.getpriority(os.PRIO_PROCESS, thread_id) == _LOADING_NICENESS:
                    os.setpriority(os.PRIO_PROCESS, thread_id, niceness)
            except ProcessLookupError:
                continue  # It has ended.


def _can_return_to(niceness: int) -> bool:
    """Whether a thread of this process may come back from a lower priority."""

    def there_and_back(thread_id: int) -> None:
        os.setpriority(os.PRIO_PROCESS, thread_id, niceness + 1)
        os.setpriority(os.PRIO_PROCESS, thread_id, niceness)

    return is_permitted(there_and_back)


def _thread_ids() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/task")]


def _cores_of(thread_id: int) -> frozenset[int] | None:
    """Where a thread may run, as the kernel says; None when it has ended."""
    try:
        status = Path(f"/proc/self/task/{thread_id}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    for line in status.splitlines():
        if line.startswith("Cpus_allowed_list:"):
            return frozenset(parse_core_list(line.partition(":")[2]))
    return None
