# SPDX-License-Identifier: Apache-2.0
"""Ports, with real sockets on the loopback address."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from ovms_mp.config.addresses import split_addresses
from ovms_mp.errors import BootError
from ovms_mp.manager.fronts import listeners
from ovms_mp.manager.fronts.listeners import bind_rest, hold_grpc_port, lock_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

HOME = "127.0.0.1"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture
def busy_port(stack: ExitStack) -> int:
    """A port on which somebody listens."""
    listener = stack.enter_context(socket.socket())
    listener.bind((HOME, 0))
    listener.listen()
    return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("0.0.0.0", ("0.0.0.0",)),
        ("127.0.0.1,::1", ("127.0.0.1", "::1")),
        (" a , b ,", ("a", "b")),
        ("", ()),
        (",", ()),
    ],
)
def test_split_addresses(text: str, addresses: tuple[str, ...]) -> None:
    assert split_addresses(text) == addresses


def test_rest_sockets_are_bound_and_do_not_listen_yet(stack: ExitStack) -> None:
    (listener,) = bind_rest((HOME,), 0)
    stack.enter_context(listener)
    address = listener.getsockname()

    assert address[0] == HOME
    assert address[1] > 0
    assert not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    assert not listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    assert not listener.get_inheritable()
    listener.listen()
    with socket.create_connection(address, timeout=1):
        pass


def test_one_socket_for_each_address(stack: ExitStack) -> None:
    listeners = [stack.enter_context(made) for made in bind_rest((HOME, "127.0.0.2"), 0)]

    assert [made.getsockname()[0] for made in listeners] == [HOME, "127.0.0.2"]


def test_a_busy_rest_port(busy_port: int) -> None:
    with pytest.raises(BootError) as caught:
        bind_rest((HOME,), busy_port)

    assert caught.value.message == (
        f"Failed to start REST server - at {HOME}:{busy_port} - Address already in use; "
        f"choose another --rest_port or stop what uses it"
    )


def test_a_busy_grpc_port(busy_port: int) -> None:
    with pytest.raises(BootError) as caught:
        hold_grpc_port((HOME,), busy_port)

    assert caught.value.message == (
        f"Failed to start gRPC server - at {HOME}:{busy_port} - Address already in use; "
        f"choose another --port or stop what uses it"
    )


def test_a_server_of_ours_on_the_same_grpc_port_is_noticed(stack: ExitStack) -> None:
    # As a front of another ovms_mp would: with SO_REUSEPORT, which a plain second bind would not mind.
    front = stack.enter_context(socket.socket())
    front.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    front.bind((HOME, 0))
    front.listen()

    with pytest.raises(BootError, match="Address already in use"):
        hold_grpc_port((HOME,), front.getsockname()[1])


def test_a_front_takes_the_held_grpc_port_and_all_its_connections(stack: ExitStack) -> None:
    (held,) = hold_grpc_port((HOME,), 0)
    stack.enter_context(held)
    address = held.getsockname()
    assert not held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)

    front = stack.enter_context(socket.socket())
    front.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    front.bind(address)
    front.listen()
    with socket.create_connection(address, timeout=1) as client:
        accepted = stack.enter_context(front.accept()[0])
        assert accepted.getpeername() == client.getsockname()


def test_brackets_and_both_families(stack: ExitStack) -> None:
    (listener,) = bind_rest(("[::]",), 0)
    stack.enter_context(listener)
    listener.listen()

    if listener.family == socket.AF_INET6:
        assert not listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    with socket.create_connection((HOME, listener.getsockname()[1]), timeout=1):
        pass


@pytest.mark.parametrize(
    ("bind", "flag"), [(bind_rest, "rest_bind_address"), (hold_grpc_port, "grpc_bind_address")]
)
def test_an_address_that_is_none_names_its_flag(
    bind: type, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    # No resolver is asked: that may take seconds.
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(BootError) as caught:
        bind(("no.such.host",), 1)

    assert caught.value.message == f"--{flag} 'no.such.host': Name or service not known"


def test_an_address_of_another_machine() -> None:
    # TEST-NET-1, RFC 5737.
    with pytest.raises(
        BootError, match=r"REST server - at 192\.0\.2\.1:8000 - Cannot assign requested address"
    ):
        bind_rest(("192.0.2.1",), 8000)


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (("0.0.0.0", "::"), ["0.0.0.0", "::"]),
        (("[::]", "127.0.0.1"), ["::", HOME]),
        (("0.0.0.0", "[::]", "::", "0.0.0.0"), ["0.0.0.0", "::"]),
        ((HOME, "localhost"), [HOME]),
    ],
)
@pytest.mark.parametrize("bind", [bind_rest, hold_grpc_port])
def test_addresses_of_both_families_and_other_spellings(
    bind: type, addresses: tuple[str, ...], expected: list[str], stack: ExitStack, free_port: int
) -> None:
    for lock in lock_ports(addresses, free_port, "REST"):
        stack.enter_context(lock)
    listeners = [stack.enter_context(made) for made in bind(addresses, free_port)]
    for listener in listeners:
        listener.listen()

    assert [made.getsockname()[0] for made in listeners] == expected


@pytest.mark.parametrize("bind", [bind_rest, hold_grpc_port])
@pytest.mark.parametrize("address", ["::", "[::]"])
def test_all_addresses_on_a_machine_without_ipv6(
    bind: type, address: str, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    (listener,) = bind((address,), 0)
    stack.enter_context(listener)

    assert listener.getsockname()[0] == "0.0.0.0"


@pytest.mark.parametrize("bind", [bind_rest, hold_grpc_port])
@pytest.mark.parametrize("host", [HOME, "::1"])
def test_all_addresses_beside_somebody_on_one_of_them(bind: type, host: str, stack: ExitStack) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    other = stack.enter_context(socket.socket(family))
    other.bind((host, 0))
    other.listen()

    with pytest.raises(BootError, match="Address already in use"):
        bind(("[::]",), other.getsockname()[1])


@pytest.fixture
def free_port(stack: ExitStack) -> int:
    with socket.socket() as one:
        one.bind((HOME, 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize(
    "pair", [("0.0.0.0", "0.0.0.0"), ("0.0.0.0", "::"), ("[::]", "0.0.0.0"), (HOME, HOME)]
)
def test_a_server_that_does_not_listen_yet_is_noticed(
    pair: tuple[str, str], stack: ExitStack, free_port: int
) -> None:
    for lock in lock_ports((pair[0],), free_port, "REST"):
        stack.enter_context(lock)

    with pytest.raises(BootError, match=r"port is busy: another ovms_mp has it; choose another --rest_port"):
        lock_ports((pair[1],), free_port, "REST")


BINDS = """
import ctypes, sys
ctypes.CDLL(None).prctl(24, 10, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_NET_BIND_SERVICE
import os
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
TRIES = """
from ovms_mp.errors import BootError
from ovms_mp.manager.fronts.listeners import {function}
try:
    {function}(("{address}",), {port})
except BootError as error:
    print(error.message)
"""


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]", "127.0.0.1"])
@pytest.mark.parametrize(("function", "flag"), [("bind_rest", "rest_port"), ("hold_grpc_port", "port")])
def test_a_port_that_only_root_may_take(address: str, function: str, flag: str) -> None:
    first = int(listeners._FIRST_FREE_PORT.read_text())
    if not first:
        pytest.skip("everybody may take any port here")
    port = min(80, first - 1)
    code = TRIES.format(function=function, address=address, port=port)
    done = subprocess.run([sys.executable, "-c", BINDS, code], capture_output=True, text=True, check=True)

    assert (
        f"at {address}:{port} - Permission denied: ports below {first} (net.ipv4.ip_unprivileged_port_start) need "
        "CAP_NET_BIND_SERVICE, e.g. AmbientCapabilities=CAP_NET_BIND_SERVICE in a systemd unit; or choose a "
        f"higher --{flag}\n"
    ) in done.stdout


SQUATS = """
import os, socket, sys
name, is_listening = sys.argv[1].encode().decode("unicode_escape"), sys.argv[2] == "listens"
with socket.socket(socket.AF_UNIX) as squatter:
    squatter.bind(name)
    os.setuid(65534)
    if is_listening:
        squatter.listen(0)
    print("squats", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may be another user")
@pytest.mark.parametrize("kind", ["listens", "is only bound"])
def test_a_lock_that_another_user_took_is_done_without(
    kind: str, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"\\0ovms_mp-port-0-*-{free_port}"
    with subprocess.Popen(
        [sys.executable, "-c", SQUATS, name, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as squatter:
        assert squatter.stdout is not None
        assert squatter.stdout.readline() == "squats\n"
        for _ in range(3):  # As often as it likes: nothing of it is filled up.
            assert lock_ports(("0.0.0.0",), free_port, "gRPC") == ()
        squatter.communicate("", timeout=10)
    assert f"name=@ovms_mp-port-0-*-{free_port} another user has it" in caplog.text
