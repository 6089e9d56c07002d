# SPDX-License-Identifier: Apache-2.0
"""SIGHUP and the terminal that the server was started on, with a real one."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.models import ModelZoo

NOTICED_S = 15.0
UNCHANGED = "event=reloaded reason=SIGHUP nothing changed"


class Terminal:
    """A pseudo terminal; whoever closes our end closes it for those on the other."""

    def __init__(self) -> None:
        self._ours, theirs = os.openpty()
        self.name = os.ttyname(theirs)
        os.close(theirs)

    def close(self) -> None:
        ours, self._ours = self._ours, -1
        if ours >= 0:
            os.close(ours)


@contextmanager
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    try:
        yield made
    finally:
        made.close()


def arguments(zoo: ModelZoo) -> list[str]:
    return ["model", "--model_name", "tiny", "--model_path", str(zoo.base_path("tiny"))]


def hang_up(server: Server, count: int) -> None:
    """Ask for a reload, and wait for its outcome in the log; a closed terminal may have asked for one more."""
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: server.log().count(UNCHANGED) >= count, NOTICED_S, f"{count} outcomes")


def test_closing_the_terminal_ends_the_server_and_a_signal_alone_does_not(
    zoo: ModelZoo, log_path: Path
) -> None:
    with terminal() as screen, Server(arguments(zoo), log_path, place=["--terminal", screen.name]) as server:
        hang_up(server, 1)
        hang_up(server, 2)
        assert server.process.poll() is None
        screen.close()
        assert server.process.wait(timeout=NOTICED_S) == 0
    log = server.log()
    assert "its terminal was closed (SIGHUP)" in log
    assert "event=stopped" in log
    assert "Traceback" not in log


def test_a_terminal_that_is_closed_while_it_starts_ends_it(zoo: ModelZoo, log_path: Path) -> None:
    with terminal() as screen:
        server = Server(arguments(zoo), log_path, place=["--terminal", screen.name])
        with server.launched():
            eventually(lambda: "event=spawned child=worker" in server.log(), NOTICED_S, "a worker")
            screen.close()
            assert server.process.wait(timeout=NOTICED_S) == 0
    assert "its terminal was closed (SIGHUP)" in server.log()


@pytest.mark.parametrize("place", [["--ignore", "SIGHUP"], []], ids=["nohup", "no terminal"])
def test_with_nohup_and_without_a_terminal_it_goes_on(
    place: list[str], zoo: ModelZoo, log_path: Path
) -> None:
    with terminal() as screen:
        place = [*place, "--terminal", screen.name] if place else []
        with Server(arguments(zoo), log_path, place=place) as server:
            screen.close()
            hang_up(server, 1)
            assert server.process.poll() is None
            assert server.stop() == 0
    assert "its terminal was closed" not in server.log()
