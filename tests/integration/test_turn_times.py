# SPDX-License-Identifier: Apache-2.0
"""The manager's loop is not held up by loads, however busy the cores are: what takes long is done by others."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import rest_client
from tests.support.server import Server
from tests.support.status import local_status
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSIONS = 3
BURNERS = 4
LONGEST_TURN_MS = 150
"""Turns take 20 to 45 ms beside the burners, most of it waiting for a core; what this is about took 280 to 520."""


@pytest.fixture
def busy_cores() -> Iterator[None]:
    """Two processes for each of two cores that do nothing but turn."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BURNERS)]
    yield
    for burner in burners:
        burner.kill()
        burner.wait()


@pytest.mark.quiet
@pytest.mark.usefixtures("busy_cores")
def test_the_end_of_a_trial_holds_up_nobody(resnet50: Path, tmp_path: Path, log_path: Path) -> None:
    base_path = tmp_path / "m"
    base_path.mkdir()
    (base_path / "1").symlink_to(resnet50 / "1")
    policy = json.dumps({"latest": {"num_versions": 1}})
    arguments = [
        "model",
        "--model_name",
        "m",
        "--model_path",
        str(base_path),
        "--model_version_policy",
        policy,
    ]
    with Server([*arguments, "--settle_s", "0.1"], log_path) as server:
        for version in range(2, VERSIONS + 2):
            (base_path / str(version)).symlink_to(resnet50 / "1")

            def is_served(wanted: int = version) -> bool:
                reply = rest_client.request(server.rest_port, "GET", f"/v1/models/m/versions/{wanted}")
                return '"AVAILABLE"' in reply.text()

            eventually(is_served, 60.0, f"version {version} is served")
        eventually(lambda: server.log().count("event=exited child=probe.") == VERSIONS, 30.0, "trials ended")
        assert local_status(server)["manager"]["longest_turn_ms"] <= LONGEST_TURN_MS
