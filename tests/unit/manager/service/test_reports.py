# SPDX-License-Identifier: Apache-2.0
"""When the service manager is told what."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from ovms_mp.manager.service.reports import ServiceReports
from ovms_mp.manager.service.service_manager import ServiceManager
from ovms_mp.manager.timers import Timers
from ovms_mp.model.status import State
from ovms_mp.wire.records import ModelRecord, VersionRecord
from tests.unit.manager.kernel import Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Told:
    """A service manager with a watchdog of nine seconds, and what it hears."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.kernel = Kernel()
        self.timers = Timers(self.kernel)
        self.reports = ServiceReports(ServiceManager(listener.getsockname(), 9.0), self.timers, self.kernel)
        self.reports.open()

    def passed(self, seconds: float) -> None:
        self.kernel.now += seconds
        self.timers.run_due()

    def heard(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self._listener.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        made = Told(listener)
        yield made
        made.reports.close()


def model(name: str, *versions: tuple[int, State, int]) -> ModelRecord:
    return ModelRecord(
        name=name,
        default_version=0,
        versions=tuple(
            VersionRecord(
                version=number,
                state=state,
                error_code=code,
                error_message="",
                handle=1,
                endpoints=(),
                nireq=1,
                detail="",
                inputs=(),
                outputs=(),
            )
            for number, state, code in versions
        ),
    )


def test_a_start_that_goes_on_asks_for_time_until_it_is_over(told: Told) -> None:
    assert told.heard() == ["WATCHDOG=1", "EXTEND_TIMEOUT_USEC=60000000"]
    told.passed(5.0)
    assert "EXTEND_TIMEOUT_USEC=60000000" in told.heard()
    told.reports.serving([model("a", (1, State.AVAILABLE, 0))])
    assert told.heard() == ["STATUS=Serving a/1", "READY=1"]
    told.passed(5.0)
    assert told.heard() == ["WATCHDOG=1"]


def test_a_loop_that_does_not_turn_gives_no_sign_of_life(told: Told) -> None:
    told.heard()
    told.kernel.now += 100.0
    assert told.heard() == []
    told.timers.run_due()
    assert "WATCHDOG=1" in told.heard()


def test_the_status_names_what_is_served_and_what_has_failed(told: Told) -> None:
    told.heard()
    told.reports.serving([model("a", (1, State.AVAILABLE, 0), (2, State.LOADING, 13)), model("b")])
    told.reports.serving([model(f"m{number}", (1, State.AVAILABLE, 0)) for number in range(12)])
    told.reports.serving([])
    named = ", ".join(f"m{number}/1" for number in range(10))
    assert told.heard() == [
        "STATUS=Serving a/1; failed: a/2",
        "READY=1",
        f"STATUS=Serving {named} and 2 more",
        "STATUS=Serving nothing",
    ]


def test_a_reload_begins_and_ends(told: Told) -> None:
    told.reports.reloading()
    told.reports.serving([])
    told.heard()
    told.reports.reloading()
    told.reports.reloaded()
    heard = told.heard()
    assert heard[0].startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert heard[1:] == ["READY=1"]


def test_nothing_is_ready_any_more_once_the_stop_has_begun(told: Told) -> None:
    told.reports.serving([])
    told.reports.reloading()
    told.heard()
    told.reports.stopping(30.0)
    told.reports.reloaded()
    told.reports.serving([model("a", (1, State.AVAILABLE, 0))])
    assert told.heard() == [
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=35000000",
        "STATUS=Stopping: requests in flight are answered",
    ]
