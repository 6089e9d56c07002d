# SPDX-License-Identifier: Apache-2.0
"""SIGKILL and SIGSTOP of every kind of process but the manager, again and again, under load on both protocols."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.load import Load
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.models import ModelZoo

KINDS = ("worker", "grpc", "rest", "arbiter")
HEARTBEAT_TIMEOUT_S = 1.5
ANSWER_WITHIN_S = 1.0
"""After a death is visible every waiting request is answered within this time."""
NOISE_S = 5.0
"""Other tests run beside this one: a machine whose two cores are busy may schedule the client so much later."""


def tiny_server(zoo: ModelZoo, log_path: Path) -> Server:
    return Server(
        [
            *("model", "--model_name", "tiny", "--model_path", str(zoo.base_path("tiny"))),
            *("--heartbeat_timeout_s", str(HEARTBEAT_TIMEOUT_S), "--heartbeat_interval_s", "0.2"),
        ],
        log_path,
        grpc_workers=2,
        rest_workers=2,
    )


def hit(server: Server, kind: str, number: signal.Signals) -> int:
    """Send the signal to one process of the kind, chosen at random; its pid."""
    pids = eventually(lambda: server.pids(kind), 10.0, f"a {kind} process to hit")
    victim = random.choice(pids)
    os.kill(victim, number)
    return victim


def wait_gone(pids: Sequence[int], within_s: float) -> None:
    eventually(lambda: not any(_is_running(pid) for pid in pids), within_s, f"processes {pids} gone")


def wait_served(load: Load, answers: int) -> None:
    before = load.right_answers()
    eventually(lambda: load.right_answers() > before + answers, 15.0, "service back")


def wait_until(moment: float) -> None:
    eventually(lambda: time.monotonic() >= moment, 2.0, "the next hit is due")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["kill", "stop"])
def test_every_request_is_answered_and_service_returns(
    number: signal.Signals, zoo: ModelZoo, log_path: Path, fault_seconds: float
) -> None:
    with tiny_server(zoo, log_path) as server:
        with Load(server.port, server.rest_port) as load:
            eventually(lambda: load.right_answers() > 100, 20.0, "load under way")
            ends_at = time.monotonic() + fault_seconds
            hits: list[str] = []
            for kind in itertools.cycle(KINDS):
                if time.monotonic() > ends_at and len(hits) >= len(KINDS):
                    break
                next_at = time.monotonic() + 1.0
                victim = hit(server, kind, number)
                hits.append(kind)
                limit_s = 10.0 + (HEARTBEAT_TIMEOUT_S if number is signal.SIGSTOP else 0.0)
                wait_gone([victim], limit_s)
                wait_served(load, 20)
                wait_until(next_at)
        outcome = load.outcome
        assert set(hits) == set(KINDS)
        assert outcome.counts["hung"] == 0, outcome
        assert outcome.counts["wrong"] == 0, outcome
        assert outcome.counts["other"] == outcome.counts["turned_away"] == 0, outcome
        limit_s = ANSWER_WITHIN_S + NOISE_S + (HEARTBEAT_TIMEOUT_S + 0.2 if number is signal.SIGSTOP else 0.0)
        assert outcome.slowest_failure_s <= limit_s, outcome
        if number is signal.SIGKILL:
            assert outcome.right_share >= 0.99, outcome
        assert server.stop() == 0, server.log()


@pytest.mark.timeout(120)
def test_killing_only_the_worker_costs_no_request_when_it_returns_in_time(
    zoo: ModelZoo, log_path: Path
) -> None:
    """The retry is real: with a long window no client sees the deaths at all."""
    server = tiny_server(zoo, log_path)
    server.arguments = [*server.arguments, "--retry_window_s", "10"]
    with server:
        with Load(server.port, server.rest_port) as load:
            eventually(lambda: load.right_answers() > 100, 20.0, "load under way")
            for _ in range(3):
                victim = hit(server, "worker", signal.SIGKILL)
                wait_gone([victim], 10.0)
                wait_served(load, 50)
        assert set(load.outcome.counts) == {"right"}, load.outcome


def test_all_children_follow_a_killed_manager(zoo: ModelZoo, log_path: Path) -> None:
    with tiny_server(zoo, log_path) as server, Load(server.port, server.rest_port) as load:
        eventually(lambda: load.right_answers() > 100, 20.0, "load under way")
        children = server.all_pids()[1:]
        assert len(children) >= 6
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(timeout=20)
        wait_gone(children, 20.0)
        load.stop(server_is_gone=True)
    assert load.outcome.counts["wrong"] == 0, load.outcome
    assert load.outcome.counts["hung"] == 0, load.outcome


def test_stopped_children_follow_a_killed_manager(zoo: ModelZoo, log_path: Path) -> None:
    """SIGKILL by the kernel also ends what could not run a handler."""
    with tiny_server(zoo, log_path) as server:
        children = server.all_pids()[1:]
        for pid in children:
            os.kill(pid, signal.SIGSTOP)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(timeout=20)
        wait_gone(children, 20.0)


def _is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
