# SPDX-License-Identifier: Apache-2.0
"""A stop that was asked for logs that, which processes have ended, and nothing else, whenever it is asked for."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.load import Load
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.models import ModelZoo

BEGUN_S = 30.0
GUESSES = ("Bad file descriptor", "was sent SIG", "out of memory", "Traceback", "event=died", "ERROR")


def stopping_server(zoo: ModelZoo, tmp_path: Path, models: list[str], *flags: str) -> Server:
    """One with the short form on stderr, and events in a file."""
    return Server(
        [
            *("config", "--config_path", str(zoo.config_file(tmp_path, models))),
            *("--log_format", "SHORT", "--log_path", str(tmp_path / "events.log"), *flags),
        ],
        tmp_path / "short.log",
        grpc_workers=2,
        rest_workers=2,
    )


def assert_only_expected_lines(server: Server, tmp_path: Path, number: signal.Signals) -> None:
    """Nothing is logged but the stop and its steps."""
    events = (tmp_path / "events.log").read_text()
    _, found, stop = events.partition(f"event=stopping reason={number.name}")
    assert found
    lines = stop.splitlines()[1:]
    assert lines[-1].endswith("event=stopped")
    # A front that was about to start says first how many connections it takes.
    expected = re.compile(r" - INFO - .*event=(exited|stopped|connection_limit)\b")
    unexpected = [line for line in lines if not expected.search(line)]
    assert not unexpected, events
    short = server.log().splitlines()
    begins = next(index for index, line in enumerate(short) if f" Stopping ({number.name})" in line)
    assert [line.split(" ")[1] for line in short[begins:]] == ["Stopping", "Stopped"], server.log()
    assert not [guess for guess in GUESSES if guess in events + server.log()]


@pytest.mark.parametrize(
    "begun", ["event=spawned child=worker-0.1", "event=trying", "event=spawned child=arbiter.1"]
)
def test_during_the_start(begun: str, zoo: ModelZoo, tmp_path: Path) -> None:
    number = signal.SIGTERM if "arbiter" in begun else signal.SIGINT
    # One alone has no trial.
    models = {"event=trying": ["tiny", "slow"], "event=spawned child=arbiter.1": ["tiny"]}.get(
        begun, ["slow"]
    )
    server = stopping_server(zoo, tmp_path, models)
    with server.launched():
        path = tmp_path / "events.log"
        eventually(lambda: path.exists() and begun in path.read_text(), BEGUN_S, begun)
        assert server.stop(number=number) == 0, server.log()
    assert_only_expected_lines(server, tmp_path, number)


def test_under_load(zoo: ModelZoo, tmp_path: Path) -> None:
    with stopping_server(zoo, tmp_path, ["tiny"]) as server, Load(server.port, server.rest_port) as load:
        eventually(lambda: load.right_answers() > 200, BEGUN_S, "load under way")
        assert server.stop() == 0, server.log()
        load.stop(server_is_gone=True)
    assert_only_expected_lines(server, tmp_path, signal.SIGTERM)


def test_what_gunicorn_says_at_debug_is_no_guess(zoo: ModelZoo, tmp_path: Path) -> None:
    """Its words for a front that ends by the arbiter's signal."""
    server = stopping_server(zoo, tmp_path, ["tiny"], "--log_level", "DEBUG")
    with server.launched():
        path = tmp_path / "events.log"
        eventually(
            lambda: path.exists() and "event=spawned child=arbiter.1" in path.read_text(), BEGUN_S, "arbiter"
        )
        assert server.stop() == 0, server.log()
    assert not [guess for guess in GUESSES if guess in path.read_text() + server.log()]


def test_at_debug_a_served_port_is_closed_once(zoo: ModelZoo, tmp_path: Path) -> None:
    """A number that is closed twice may be another file's by then; gunicorn says so at this level only."""
    with stopping_server(zoo, tmp_path, ["tiny"], "--log_level", "DEBUG") as server:
        assert server.stop() == 0, server.log()
    assert not [guess for guess in GUESSES if guess in (tmp_path / "events.log").read_text() + server.log()]
