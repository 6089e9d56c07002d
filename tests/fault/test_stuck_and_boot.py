# SPDX-License-Identifier: Apache-2.0
"""Long work, stuck work, and children that cannot boot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.fault.test_stop_under_load import SlowCalls, slow_server
from tests.support import rest_client
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.models import ModelZoo
    from tests.support.tfs_client import TfsClient

_ENDLESS = 16_000_000
"""Steps that take some twenty seconds."""


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
@pytest.mark.quiet
def test_work_without_progress_is_stuck(zoo: ModelZoo, log_path: Path, tfs: TfsClient) -> None:
    """A run that does not end, on the worker and on its successor, is answered with the reason; so is its like."""
    flags = ("--stuck_timeout_s", "0.7", "--heartbeat_interval_s", "0.1", "--retry_window_s", "10")
    arguments = ["model", "--model_name", "steps", "--model_path", str(zoo.base_path("steps")), *flags]
    with Server(arguments, log_path) as server:
        (worker,) = server.pids("worker")
        answer = rest_client.predict(server.rest_port, "steps", {"inputs": [_ENDLESS]})
        assert answer.status == 500
        assert "no progress within 0.7 s (--stuck_timeout_s)" in answer.json()["error"]
        reply = tfs.predict(server.port, "steps", {"count": np.array([_ENDLESS], np.int32)})
        assert reply.code == "INTERNAL"
        assert "the same inputs" in reply.details
        eventually(lambda: server.pids("worker") not in ([], [worker]), 10.0, "worker replaced")
        eventually(
            lambda: rest_client.predict(server.rest_port, "steps", {"inputs": [3]}).status == 200,
            10.0,
            "it serves",
        )
        tfs.forget(server.port)
    assert server.log().count("event=stuck") == 2


@pytest.mark.timeout(120)
def test_child_that_cannot_boot_stops_the_server(zoo: ModelZoo, log_path: Path, tmp_path: Path) -> None:
    """Once, with the reason, instead of a respawn loop."""
    no_library = tmp_path / "lib.so"
    no_library.write_text("no library")
    arguments = ["model", "--model_name", "tiny", "--model_path", str(zoo.base_path("tiny"))]
    server = Server([*arguments, "--cpu_extension", str(no_library)], log_path)
    with server.launched():
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
