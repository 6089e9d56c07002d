# SPDX-License-Identifier: Apache-2.0
"""Sockets that a service manager hands over, in a process of their own, as they must be descriptors 3 and up."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from ovms_mp.errors import BootError
from ovms_mp.manager.service.sockets import by_path, by_port, refuse_other_paths, take_inherited

if TYPE_CHECKING:
    from pathlib import Path

_CHILD = """
import os
from ovms_mp.errors import BootError
from ovms_mp.manager.service.sockets import take_inherited
environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": os.environ["COUNT"], "LISTEN_FDNAMES": "a:b"}
try:
    found = take_inherited(environment)
    print([each.getsockname()[1] for each in found], [os.get_inheritable(each.fileno()) for each in found], environment)
except BootError as error:
    print(error)
"""


def handed(*given: socket.socket, count: int | None = None) -> str:
    """What a process says that has these as its descriptors 3 and up."""
    with ExitStack() as stack:
        # First far away from the numbers that they shall have.
        moved = [os.dup2(each.fileno(), 200 + number) for number, each in enumerate(given)]
        for number in moved:
            stack.callback(os.close, number)
        redirections = [f"{index + 3}<&{number} {number}<&-" for index, number in enumerate(moved)]
        known = os.pathsep.join(sys.path)
        done = subprocess.run(
            ["/bin/bash", "-c", f'exec "$0" -c "$1" {" ".join(redirections)}', sys.executable, _CHILD],
            pass_fds=moved,
            env={**os.environ, "COUNT": str(len(given) if count is None else count), "PYTHONPATH": known},
            capture_output=True,
            text=True,
            check=True,
        )
    return done.stdout.strip()


def listener(family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
    made.listen()
    return made


def test_they_are_taken_and_children_do_not_get_them() -> None:
    with listener() as first, listener(socket.AF_INET6) as second:
        ports = [first.getsockname()[1], second.getsockname()[1]]
        assert handed(first, second) == f"{ports} [False, False] {{}}"


def test_what_is_no_listening_socket_is_refused() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert handed(bound) == (
            "LISTEN_FDS=1: descriptor 3 is no listening TCP or Unix socket; in the socket unit, use ListenStream= with "
            "a port or a path, and Accept=no"
        )
    assert handed(count=1).startswith("LISTEN_FDS=1: descriptor 3 is no socket: ")


@pytest.mark.parametrize("variables", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "2"}, {"LISTEN_FDS": "2"}])
def test_those_of_another_process_are_left_alone(variables: dict[str, str]) -> None:
    environment = dict(variables)
    assert take_inherited(environment) == ()
    assert environment == {}


def test_each_protocol_gets_those_on_its_port() -> None:
    with listener() as first, listener(socket.AF_INET6) as second:
        grpc, rest = first.getsockname()[1], second.getsockname()[1]
        assert by_port([first, second], grpc, rest) == ((first,), (second,))
        assert by_port([second], 0, rest) == ((), (second,))
        assert by_port([], grpc, rest) == ((), ())


def test_sockets_with_paths_are_told_by_them(tmp_path: Path) -> None:
    path = str(tmp_path / "given.sock")
    with listener() as tcp, socket.socket(socket.AF_UNIX) as given:
        given.bind(path)
        assert by_path([tcp, given], ["/other", path]) == {path: given}
        assert by_port([given], 9, 0) == ((), ())
        refuse_other_paths([tcp, given], [path])
        with pytest.raises(BootError, match=r"unix:.*given.sock, which is neither in --grpc_bind_address"):
            refuse_other_paths([given], ["/other"])


def test_a_port_that_no_flag_names_is_refused() -> None:
    with listener() as given:
        port = given.getsockname()[1]
        with pytest.raises(
            BootError, match=rf"on port {port}, which is neither --port \(9\) nor --rest_port \(0\)"
        ):
            by_port([given], 9, 0)
