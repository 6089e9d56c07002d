# SPDX-License-Identifier: Apache-2.0
"""A system call that ZeroMQ cannot do without, in sandboxes that refuse it.

libzmq sets the scheduling policy of each of its threads to what it is already and aborts the process when that is
refused (src/thread.cpp), as systemd's ``SystemCallFilter=~@resources`` does. Nothing is lost without the call. So where
it is refused, a filter of our own answers it with success: of filters that all give an error number the latest wins,
and 0 is a number. seccomp(2)
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import struct

from ovms_mp.child.permission import is_permitted
from ovms_mp.errors import BootError

_log = logging.getLogger(__name__)

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_SECCOMP_MODE_FILTER = 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
"""BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K and BPF_RET|BPF_K."""
_CALL_OFFSET, _ARCHITECTURE_OFFSET = 0, 4
"""Of ``struct seccomp_data``."""
_ALLOW, _ANSWER_0 = 0x7FFF0000, 0x00050000
_SCHED_SETSCHEDULER = {"x86_64": (0xC000003E, 144), "aarch64": (0xC00000B7, 119)}
"""AUDIT_ARCH_* and the number of the call."""


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def allow_thread_scheduling() -> None:
    """See to it that this process and its descendants may use ZeroMQ. Before its first thread.

    Raises:
        BootError: They may not.
    """
    if is_permitted(lambda _: os.sched_setscheduler(0, os.sched_getscheduler(0), os.sched_getparam(0))):
        return
    _log.warning(
        "event=no_scheduling the system refuses sched_setscheduler; trials of new versions take processor time from "
        "what serves"
    )
    if not _answer_scheduling():
        raise BootError(
            "the system refuses sched_setscheduler, without which ZeroMQ aborts; allow it, e.g. in systemd's "
            "SystemCallFilter or the container's seccomp profile"
        )


def _answer_scheduling() -> bool:
    """Answer the call with success without doing it; False when that is not possible."""
    architecture, call = _SCHED_SETSCHEDULER.get(platform.machine(), (0, 0))
    if not architecture:
        return False
    code = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (_LOAD, 0, 0, _ARCHITECTURE_OFFSET),
            (_JUMP_IF_EQUAL, 0, 3, architecture),
            (_LOAD, 0, 0, _CALL_OFFSET),
            (_JUMP_IF_EQUAL, 0, 1, call),
            (_RETURN, 0, 0, _ANSWER_0),
            (_RETURN, 0, 0, _ALLOW),
        )
    )
    program = _Program(len(code) // 8, ctypes.cast(ctypes.c_char_p(code), ctypes.c_void_p))
    libc = ctypes.CDLL(None)
    return bool(
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        and libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0
    )
