# SPDX-License-Identifier: Apache-2.0
"""Listening sockets in the file system.

The manager binds them, as SO_REUSEPORT does not exist for them, and fronts inherit them; the file is removed when the
server stops listening.

A file that a killed server left behind is replaced. Whether one is in use is asked twice: an abstract name, as ports
have it, tells servers of one user that start at the same moment apart; and a connection tells of any other program.
"""

from __future__ import annotations

import errno
import grp
import hashlib
import logging
import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from stat import S_ISSOCK
from typing import TYPE_CHECKING

from ovms_mp.errors import BootError
from ovms_mp.manager.fronts.listeners import take_name

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = logging.getLogger(__name__)

_ALL_BITS = 0o777


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """A bound socket, with what it takes to remove its file and no other's."""

    listener: socket.socket
    lock: socket.socket
    path: str
    file_id: tuple[int, int]

    def close(self) -> None:
        """Give it back; may be called twice."""
        if self.listener.fileno() < 0:
            return
        self.listener.close()
        try:
            if _file_id(self.path) == self.file_id:
                os.unlink(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning("event=socket_left path=%s it cannot be removed: %s", self.path, error.strerror)
        self.lock.close()


def bind_unix(paths: Sequence[str], flag: str, mode: int, group: str) -> tuple[UnixSocket, ...]:
    """Bound sockets that do not listen yet; the caller owns them.

    Args:
        paths: Absolute.
        flag: The setting that they come from, for messages.
        mode: Permissions of the files; who may write may connect.
        group: Group of the files, by name or number; empty leaves it alone.

    Raises:
        BootError: A path is in use, or is no socket's, or the group is none of this user's.
    """
    with ExitStack() as stack:
        found: list[UnixSocket] = []
        for path in paths:
            bound = _bind(path, f"--{flag} unix:{path}", mode, group)
            stack.callback(bound.close)
            found.append(bound)
        stack.pop_all()
        return tuple(found)


def _bind(path: str, where: str, mode: int, group: str) -> UnixSocket:
    with ExitStack() as stack:
        lock = stack.enter_context(_lock(path, where))
        _make_room(path, where)
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            # Nobody can connect before it listens.
            before = os.umask(_ALL_BITS & ~mode)
            try:
                listener.bind(path)
            finally:
                os.umask(before)
        except OSError as error:
            directory = os.path.dirname(path)
            if not os.path.isdir(directory):
                raise BootError(f"{where}: there is no directory {directory}; create it first") from None
            raise BootError(f"{where}: {error.strerror or error}") from None
        bound = UnixSocket(listener, lock, path, _file_id(path))
        stack.callback(bound.close)
        if group:
            _give_to(path, group, where)
        stack.pop_all()
        return bound


def _lock(path: str, where: str) -> socket.socket:
    """What only one server of this user has for a path."""
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    digest = hashlib.sha256(os.fsencode(real)).hexdigest()[:32]
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if not take_name(lock, f"\0ovms_mp-socket-{os.geteuid()}-{digest}"):
        lock.close()
        raise BootError(f"{where} is in use: another ovms_mp listens there; choose another path or stop it")
    return lock


def _make_room(path: str, where: str) -> None:
    """Remove the file of a server that is gone.

    Raises:
        BootError: It is in use, or another kind of file.
    """
    try:
        state = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise BootError(f"{where}: {error.strerror}") from None
    if not S_ISSOCK(state.st_mode):
        raise BootError(f"{where} is there and is no socket; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)  # A full backlog would hold the start up.
        try:
            client.connect(path)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            if error.errno in (errno.EACCES, errno.EPERM):
                raise BootError(
                    f"{where}: another user's socket is there; remove it or choose another path"
                ) from None
            is_stale = error.errno == errno.ECONNREFUSED
        else:
            is_stale = False
    if not is_stale:
        raise BootError(f"{where} is in use: another program listens there; choose another path or stop it")
    _log.info("event=stale_socket path=%s nobody listens there; it is replaced", path)
    try:
        os.unlink(path)
    except OSError as error:
        raise BootError(
            f"{where}: a socket that nobody listens on cannot be removed: {error.strerror}"
        ) from None


def _give_to(path: str, group: str, where: str) -> None:
    try:
        number = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise BootError(f"--unix_socket_group {group}: there is no such group") from None
    try:
        os.chown(path, -1, number, follow_symlinks=False)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BootError(
            f"--unix_socket_group {group}: {where} cannot be given to it: {reason}; the server's user must be a "
            "member of the group"
        ) from None


def _file_id(path: str) -> tuple[int, int]:
    state = os.lstat(path)
    return state.st_dev, state.st_ino
