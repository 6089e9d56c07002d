# SPDX-License-Identifier: Apache-2.0
"""What a service manager is told, as its socket receives it."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovms_mp.manager.service.service_manager import ServiceManager

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.setblocking(False)
        yield made


@pytest.fixture
def told(listener: socket.socket) -> Iterator[ServiceManager]:
    made = ServiceManager(listener.getsockname(), 10.0)
    yield made
    made.close()


def received(listener: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(listener.recv(4096).decode())
        except BlockingIOError:
            return found


def test_all_that_it_may_be_told(told: ServiceManager, listener: socket.socket) -> None:
    told.busy(30.0)
    told.ready()
    told.alive()
    told.reloading(5_000_999)
    told.stopping(1.5)
    assert received(listener) == [
        "EXTEND_TIMEOUT_USEC=30000000",
        "READY=1",
        "WATCHDOG=1",
        "RELOADING=1\nMONOTONIC_USEC=5000",
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=1500000",
    ]


def test_a_status_is_told_once_and_is_one_line(told: ServiceManager, listener: socket.socket) -> None:
    for text in ("serving a/1", "serving a/1", "two\nREADY=1"):
        told.status(text)
    assert received(listener) == ["STATUS=serving a/1", "STATUS=two READY=1"]


def test_readiness_waits_for_a_socket_that_is_full(told: ServiceManager, listener: socket.socket) -> None:
    most = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    for number in range(most + 10):
        told.status(f"{number}")
    told.ready()
    before = received(listener)
    told.alive()
    assert before[0] == "STATUS=0"
    assert "READY=1" not in before
    assert received(listener) == [f"STATUS={most + 9}", "READY=1", "WATCHDOG=1"]


def test_a_service_manager_that_is_gone_harms_nobody(
    told: ServiceManager, listener: socket.socket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "notify").unlink()
    told.ready()
    told.stopping(1.0)
    assert caplog.text.count("event=service_manager_not_told") == 2


def test_nobody_is_told_without_one() -> None:
    alone = ServiceManager.of_environment({})
    alone.ready()
    alone.status("text")
    alone.close()
    assert not alone.is_there


@pytest.mark.parametrize(
    ("variables", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_watchdog_that_is_meant_for_this_process(
    variables: dict[str, str], watchdog_s: float, listener: socket.socket
) -> None:
    environment = {"NOTIFY_SOCKET": listener.getsockname(), "PATH": "/bin", **variables}
    found = ServiceManager.of_environment(environment)
    found.alive()
    assert (found.watchdog_s, found.is_there) == (watchdog_s, True)
    assert received(listener) == (["WATCHDOG=1"] if watchdog_s else [])
    assert environment == {"PATH": "/bin"}, "children are told nothing of it"
    found.close()


@pytest.mark.parametrize("address", ["relative", "vsock:2:1234"])
def test_addresses_that_are_none(address: str, caplog: pytest.LogCaptureFixture) -> None:
    found = ServiceManager.of_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "5"})
    assert (found.is_there, found.watchdog_s) == (False, 0.0)
    assert repr(address) in caplog.text


def test_an_abstract_address() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0ovms_mp-test-{os.getpid()}")
        found = ServiceManager(f"@ovms_mp-test-{os.getpid()}")
        found.ready()
        assert listener.recv(100) == b"READY=1"
        found.close()
