# SPDX-License-Identifier: Apache-2.0
"""Everything that can change about models changes under load, and no client notices more than another version."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from tests.support import rest_client
from tests.support.server import Server
from tests.support.version_load import VersionLoad, install_adder
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.models import ModelZoo

SERVED_WITHIN_S = 30.0
"""For a machine whose two cores are full with the load's own clients."""
ROUTE_SLACK_S = 0.5
"""Fronts take a snapshot a moment after the manager wrote its log line."""


@dataclass(frozen=True)
class Doses:
    """How often each thing is done; the issue's own numbers take some minutes."""

    switches: int
    reloads: int
    restores: int


@pytest.fixture
def doses(fault_seconds: float) -> Doses:
    return Doses(50, 20, 10) if fault_seconds >= 60 else Doses(4, 3, 2)


@pytest.mark.timeout(900)
def test_no_request_fails_while_versions_and_configuration_change(
    zoo: ModelZoo, log_path: Path, tmp_path: Path, doses: Doses
) -> None:
    steady, moving = tmp_path / "steady", tmp_path / "moving"
    install_adder(zoo, steady, 1)
    install_adder(zoo, moving, 1)
    config = tmp_path / "config.json"
    write_config(config, steady, moving, nireq=1)
    server = Server(["config", "--config_path", str(config), "--settle_s", "0.1"], log_path)
    with server, VersionLoad(server.port, server.rest_port, ["steady", "moving"]) as load:
        eventually(lambda: load.count("steady") > 50 and load.count("moving") > 50, 30.0, "load under way")
        latest = 1
        changes = ["switch"] * doses.switches + ["reload"] * doses.reloads + ["restore"] * doses.restores
        random.Random(3).shuffle(changes)
        for number, change in enumerate(changes):
            match change:
                case "switch":
                    latest += 1
                    install_adder(zoo, moving, latest)
                    wait_answered(load, "moving", latest)
                    if latest > 3:
                        shutil.rmtree(moving / str(latest - 3))
                case "reload":
                    before = available_lines(server)
                    write_config(config, steady, moving, nireq=1 + number, hint=number)
                    wait_reloaded(server, before)
                case "restore":
                    hidden = tmp_path / ".hidden"
                    (moving / str(latest)).rename(hidden)
                    wait_answered(load, "moving", max(existing(moving)))
                    hidden.rename(moving / str(latest))
                    wait_answered(load, "moving", latest)
        log = server.log()
        failures = load.failures()
    assert not failures, f"{len(failures)} of {len(load.answers)}: {failures[:5]}"
    assert load.count("steady") > 100
    for model in ("steady", "moving"):
        assert_was_available(load, log, model)
    assert {answer.version for answer in load.answers if answer.model == "steady"} == {1}


def write_config(path: Path, steady: Path, moving: Path, *, nireq: int, hint: int = 0) -> None:
    """Replace the configuration file, as an editor does: by a rename."""
    plugin_config = {"PERFORMANCE_HINT": "LATENCY" if hint % 3 else "THROUGHPUT"}
    entries = [
        {"config": {"name": "steady", "base_path": str(steady)}},
        {
            "config": {
                "name": "moving",
                "base_path": str(moving),
                "nireq": nireq,
                "plugin_config": plugin_config,
                "model_version_policy": {"latest": {"num_versions": 1 + hint % 2}},
            }
        },
    ]
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"model_config_list": entries}))
    os.replace(new, path)


def existing(base_path: Path) -> list[int]:
    return [int(entry.name) for entry in base_path.iterdir()]


def wait_answered(load: VersionLoad, model: str, version: int) -> None:
    """Wait until both protocols have had a new answer of this version, which then is the default."""
    before = len(load.answers)

    def is_answered() -> bool:
        protocols = {
            answer.protocol
            for answer in load.answers[before:]
            if answer.model == model and answer.version == version
        }
        return protocols == {"gRPC", "REST"}

    eventually(is_answered, SERVED_WITHIN_S, f"answers of {model} version {version}")


def available_lines(server: Server) -> int:
    return server.log().count("event=available model=moving")


def wait_reloaded(server: Server, lines_before: int) -> None:
    eventually(lambda: available_lines(server) > lines_before, SERVED_WITHIN_S, "reload done")


def assert_was_available(load: VersionLoad, log: str, model: str) -> None:
    """Every answer came from a version that was AVAILABLE at a moment between its request and its answer."""
    spans: dict[int, list[list[float]]] = {}
    for line in log.splitlines():
        found = re.match(rf"(\S+ \S+) .*event=(available|unload) model={model} version=(\d+)", line)
        if not found:
            continue
        moment = datetime.strptime(found[1].replace(",", "."), "%Y-%m-%d %H:%M:%S.%f").timestamp()
        if found[2] == "unload":
            spans[int(found[3])][-1][1] = moment
        elif not spans.get(int(found[3])) or spans[int(found[3])][-1][1] != float("inf"):
            spans.setdefault(int(found[3]), []).append([moment, float("inf")])
    assert spans
    for answer in load.answers:
        if answer.model == model:
            assert any(
                start - ROUTE_SLACK_S <= answer.answered_at and answer.sent_at <= end + ROUTE_SLACK_S
                for start, end in spans.get(answer.version, [])
            ), f"{answer} but {spans}"


@pytest.mark.timeout(180)
def test_a_worker_that_grows_too_large_is_replaced_without_a_failed_request(
    zoo: ModelZoo, log_path: Path, tmp_path: Path
) -> None:
    """The limit is below what any worker needs: it is replaced once, and again only when it has grown."""
    base_path = tmp_path / "adder"
    install_adder(zoo, base_path, 1)
    arguments = ["model", "--model_name", "adder", "--model_path", str(base_path)]
    server = Server([*arguments, "--worker_memory_limit_mb", "20"], log_path)
    with server, VersionLoad(server.port, server.rest_port, ["adder"]) as load:
        first = [int(pid) for pid in re.findall(r"event=spawned child=worker-0\.1 pid=(\d+)", server.log())]
        eventually(lambda: "event=left seat=worker-0" in server.log(), 60.0, "the first worker gone")
        successors = server.pids("worker")
        wait_answered(load, "adder", 1)
        before = len(load.answers)
        eventually(lambda: len(load.answers) > before + 200, 30.0, "answers of the successor")
    assert first
    assert successors
    assert set(first).isdisjoint(successors)
    assert not load.failures(), load.failures()[:5]
    assert server.log().count("event=replacing") == 1


@pytest.mark.timeout(120)
def test_a_device_that_no_worker_serves_yet_is_added_and_removed(
    zoo: ModelZoo, log_path: Path, tmp_path: Path
) -> None:
    base_path = tmp_path / "adder"
    install_adder(zoo, base_path, 1)
    config = tmp_path / "config.json"

    def write(*devices: str) -> None:
        entries = [
            {
                "config": {
                    "name": device.partition(":")[0],
                    "base_path": str(base_path),
                    "target_device": device,
                }
            }
            for device in devices
        ]
        config.with_suffix(".new").write_text(json.dumps({"model_config_list": entries}))
        os.replace(config.with_suffix(".new"), config)

    write("CPU")
    server = Server(["config", "--config_path", str(config)], log_path)
    with server, VersionLoad(server.port, server.rest_port, ["CPU"], clients=4) as load:
        write("CPU", "HETERO:CPU")

        def answers() -> bool:
            asked = json.dumps({"instances": [[1.0] * 10]})
            return (
                rest_client.request(server.rest_port, "POST", "/v1/models/HETERO:predict", asked).status
                == 200
            )

        eventually(answers, SERVED_WITHIN_S, "the new device's model")
        # The first worker is replaced, too: its cores are shared now.
        eventually(lambda: len(server.pids("worker")) == 2, SERVED_WITHIN_S, "a worker for each device")
        write("CPU")
        eventually(lambda: len(server.pids("worker")) == 1, SERVED_WITHIN_S, "the device's worker gone")
    assert not load.failures(), load.failures()[:5]
