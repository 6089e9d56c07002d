# SPDX-License-Identifier: Apache-2.0
"""Listening sockets that a service manager opened for this process, so that clients can connect while it restarts.

Source: https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ovms_mp.errors import BootError

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

_PID, _COUNT, _NAMES = "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"
_FIRST = 3
"""The first descriptor that is handed over."""


def take_inherited(environment: MutableMapping[str, str]) -> tuple[socket.socket, ...]:
    """The sockets that were handed to this process, in their order; the caller owns them.

    The variables are taken out of the environment, as they are not meant for children.

    Raises:
        BootError: One of them is no listening TCP or Unix socket.
    """
    pid, count = environment.pop(_PID, ""), environment.pop(_COUNT, "")
    environment.pop(_NAMES, None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return ()
    with ExitStack() as stack:
        found = []
        for descriptor in range(_FIRST, _FIRST + int(count)):
            try:
                given = stack.enter_context(socket.socket(fileno=descriptor))
                is_listening = given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            except OSError as error:
                raise BootError(
                    f"{_COUNT}={count}: descriptor {descriptor} is no socket: {error.strerror}"
                ) from None
            if given.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX) or not is_listening:
                raise BootError(
                    f"{_COUNT}={count}: descriptor {descriptor} is no listening TCP or Unix socket; in the socket "
                    "unit, use ListenStream= with a port or a path, and Accept=no"
                )
            os.set_inheritable(descriptor, False)
            found.append(given)
        stack.pop_all()
        return tuple(found)


def by_port(
    sockets: Sequence[socket.socket], port: int, rest_port: int
) -> tuple[tuple[socket.socket, ...], tuple[socket.socket, ...]]:
    """The sockets of gRPC and those of REST; for a protocol that has none, the server binds for itself.

    Args:
        sockets: Those that were handed over.
        port: ``--port``.
        rest_port: ``--rest_port``.

    Raises:
        BootError: One is on another port.
    """
    found: dict[int, list[socket.socket]] = {port: [], rest_port: []}
    for given in sockets:
        if given.family == socket.AF_UNIX:
            continue
        number = given.getsockname()[1]
        if number not in found or not number:
            raise BootError(
                f"the service manager handed over a socket on port {number}, which is neither --port ({port}) nor "
                f"--rest_port ({rest_port}); make the socket unit and these flags agree"
            )
        found[number].append(given)
    return tuple(found[port]) if port else (), tuple(found[rest_port]) if rest_port else ()


def by_path(sockets: Sequence[socket.socket], paths: Sequence[str]) -> dict[str, socket.socket]:
    """Those of the sockets that are on one of these paths, by it."""
    found = {_path_of(given): given for given in sockets if given.family == socket.AF_UNIX}
    return {path: found[path] for path in paths if path in found}


def refuse_other_paths(sockets: Sequence[socket.socket], paths: Sequence[str]) -> None:
    """Refuse sockets on paths that no setting has.

    Raises:
        BootError: There is one.
    """
    for given in sockets:
        if given.family == socket.AF_UNIX and _path_of(given) not in paths:
            raise BootError(
                f"the service manager handed over the socket unix:{_path_of(given)}, which is neither in "
                "--grpc_bind_address nor in --rest_bind_address; make the socket unit and these flags agree"
            )


def _path_of(given: socket.socket) -> str:
    """A Unix socket's path; an abstract name begins with ``@``."""
    name = given.getsockname()
    return f"@{os.fsdecode(name[1:])}" if isinstance(name, bytes) else os.path.abspath(name)
