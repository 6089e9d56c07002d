# SPDX-License-Identifier: Apache-2.0
"""Runs a command in an unfriendly place: ``python -m tests.support.place OPTION... -- COMMAND...``.

The kernel makes the place, so what runs in it is the real thing: seccomp(2), setrlimit(2), mount_namespaces(7).
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import platform
import resource
import signal
import socket
import struct
import sys

_CALLS = {
    "x86_64": {
        "pidfd_open": 434,
        "pidfd_send_signal": 424,
        "sched_getaffinity": 204,
        "sched_setaffinity": 203,
        "sched_setscheduler": 144,
        "setpriority": 141,
        "socket": 41,
    },
    "aarch64": {
        "pidfd_open": 434,
        "pidfd_send_signal": 424,
        "sched_getaffinity": 123,
        "sched_setaffinity": 122,
        "sched_setscheduler": 119,
        "setpriority": 140,
        "socket": 198,
    },
}
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_PR_CAPBSET_DROP = 24
_CAPABILITIES = {"DAC_OVERRIDE": 1, "DAC_READ_SEARCH": 2, "NET_BIND_SERVICE": 10}
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_OFFSET_OF_FIRST_ARGUMENT = 16
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_CLONE_NEWNS, _MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = (
    0x20000, 1, 32, 4096, 16384, 1 << 18,
)  # fmt: skip


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def main() -> None:
    """Make the place and become the command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--refuse", action="append", default=[], metavar="CALL:ERRNO")
    parser.add_argument("--no-ipv6", action="store_true", help="as a kernel that was started without it")
    parser.add_argument("--tmpfs", action="append", default=[], metavar="DIR", help="in a mount namespace")
    parser.add_argument(
        "--terminal", default="", help="the controlling terminal; for the leader of a session"
    )
    parser.add_argument("--ignore", action="append", default=[], metavar="SIGNAL", help="as nohup does")
    parser.add_argument("--without", action="append", default=[], metavar="CAPABILITY", help="also for root")
    parser.add_argument("--limit", action="append", default=[], metavar="NAME:VALUE")
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--directory", default="")
    parser.add_argument("--remove-directory", action="store_true")
    parser.add_argument("--close-directory", action="store_true", help="so that not even root may enter it")
    parser.add_argument("command", nargs="+")
    _make(parser.parse_args())


def _make(given: argparse.Namespace) -> None:
    if given.directory:
        os.chdir(given.directory)
    for name in given.ignore:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    if given.terminal:
        os.dup2(os.open(given.terminal, os.O_RDWR), 0)  # Opening it makes it the session's.
        if "SIGHUP" not in given.ignore:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # The tests themselves may run with nohup.
    if given.read_only:
        _make_everything_read_only()
    if given.tmpfs:
        _mount_tmpfs(given.tmpfs)
    if given.remove_directory:
        os.rmdir(os.getcwd())
    if given.close_directory:
        os.chmod(os.getcwd(), 0)
    _restrict(given)
    os.execvp(given.command[0], given.command)  # noqa: S606  # that is its purpose


def _restrict(given: argparse.Namespace) -> None:
    for capability in given.without + ["DAC_OVERRIDE", "DAC_READ_SEARCH"] * given.close_directory:
        # Refused to a user who does not have it anyway.
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAPABILITIES[capability], 0, 0, 0)
    for limit in given.limit:
        name, _, value = limit.partition(":")
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (int(value), int(value)))
    if given.no_ipv6:
        _refuse([("socket", "EAFNOSUPPORT")], first_argument=socket.AF_INET6)
    if given.refuse:
        _refuse([call.partition(":")[::2] for call in given.refuse])


def _check(result: int, what: str) -> None:
    if result:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")


def _refuse(calls: list[tuple[str, str]], first_argument: int | None = None) -> None:
    """From now on these system calls fail with these errors, for this process and its descendants.

    Args:
        calls: (name, error).
        first_argument: Only calls with this one.
    """
    numbers = _CALLS[platform.machine()]
    code = struct.pack("HBBI", _LOAD, 0, 0, 0)
    for name, error in calls:
        is_narrow = first_argument is not None
        code += struct.pack("HBBI", _JUMP_EQUAL, 0, 3 if is_narrow else 1, numbers[name])
        if first_argument is not None:
            code += struct.pack("HBBI", _LOAD, 0, 0, _OFFSET_OF_FIRST_ARGUMENT)
            code += struct.pack("HBBI", _JUMP_EQUAL, 0, 1, first_argument)
        code += struct.pack("HBBI", _RETURN, 0, 0, _ERRNO | getattr(errno, error))
    code += struct.pack("HBBI", _RETURN, 0, 0, _ALLOW)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _check(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0), "seccomp")


def _mount_tmpfs(directories: list[str]) -> None:
    """An empty file system on each of these, for this process and its descendants."""
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(_CLONE_NEWNS), "unshare")
    _check(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "private mounts")
    for directory in directories:
        _check(libc.mount(b"tmpfs", directory.encode(), b"tmpfs", 0, None), "mount")


def _make_everything_read_only() -> None:
    """Every mount of this process and its descendants; what is open for writing stays so."""
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(_CLONE_NEWNS), "unshare")
    _check(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "private mounts")
    with open("/proc/self/mountinfo") as table:
        points = [line.split()[4] for line in table]
    for point in points:
        if not point.startswith("/proc"):
            libc.mount(None, point.encode(), None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY, None)


if __name__ == "__main__":
    main()
