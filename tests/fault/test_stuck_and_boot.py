# SPDX-License-Identifier: Apache-2.0
"""Long work, stuck work, and children that cannot boot."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.fault.test_stop_under_load import SlowCalls, slow_server
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.models import ModelZoo


@pytest.mark.timeout(120)
def test_heartbeat_survives_a_long_inference(zoo: ModelZoo, log_path: Path) -> None:
    """Each run takes much longer than the silence that counts as death."""
    flags = ("--heartbeat_timeout_s", "0.4", "--heartbeat_interval_s", "0.1")
    with slow_server(zoo, log_path, *flags) as server:
        workers = server.pids("worker")
        calls = SlowCalls(server, each=2)
        calls.join(60.0)
        assert calls.answers == ["right"] * 4, server.log()
        assert server.pids("worker") == workers
        assert "event=silent" not in server.log()


@pytest.mark.timeout(120)
def test_work_without_progress_is_stuck(zoo: ModelZoo, log_path: Path) -> None:
    """A run that passes the limit twice, on the worker and on its successor, is answered with the reason."""
    flags = ("--stuck_timeout_s", "0.7", "--heartbeat_interval_s", "0.1", "--retry_window_s", "10")
    with slow_server(zoo, log_path, *flags) as server:
        workers = server.pids("worker")
        start = time.monotonic()
        calls = SlowCalls(server, each=1)
        calls.join(60.0)
        assert time.monotonic() - start < 30.0
        assert sorted(answer[:3] for answer in calls.answers) == ["503", "UNA"], calls.answers
        assert all("two inference workers died" in answer for answer in calls.answers), calls.answers
        eventually(lambda: server.pids("worker") not in ([], workers), 10.0, "worker replaced")
        assert "--stuck_timeout_s" in server.log()


@pytest.mark.timeout(120)
def test_child_that_cannot_boot_stops_the_server(zoo: ModelZoo, log_path: Path, tmp_path: Path) -> None:
    """Once, with the reason, instead of a respawn loop."""
    no_library = tmp_path / "lib.so"
    no_library.write_text("no library")
    arguments = ["model", "--model_name", "tiny", "--model_path", str(zoo.base_path("tiny"))]
    server = Server([*arguments, "--cpu_extension", str(no_library)], log_path)
    server.launch()
    assert server.process.wait(timeout=30) == 3
    log = server.log()
    assert f"--cpu_extension {no_library}" in log
    assert log.count("event=spawned child=worker") == 1


@pytest.mark.timeout(120)
def test_broken_model_is_a_status_and_others_serve(zoo: ModelZoo, log_path: Path, tmp_path: Path) -> None:
    """A version that cannot be read is failed with its reason; the server starts and serves the others."""
    base = tmp_path / "broken" / "1"
    base.mkdir(parents=True)
    (base / "model.xml").write_text("<net/>")
    (base / "model.bin").write_bytes(b"")
    config = zoo.config_file(tmp_path, ["tiny"])
    text = config.read_text().replace(
        '"model_config_list": [',
        f'"model_config_list": [{{"config": {{"name": "broken", "base_path": "{base.parent}"}}}}, ',
    )
    config.write_text(text)
    with Server(["config", "--config_path", str(config)], log_path) as server:
        log = server.log()
        assert "event=load_failed model=broken version=1" in log
        assert "event=available model=tiny version=1" in log
