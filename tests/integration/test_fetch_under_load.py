# SPDX-License-Identifier: Apache-2.0
"""Sixteen clients ask one model while another one trickles in from a slow store: they do not notice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import rest_client
from tests.support.load import Load
from tests.support.object_stores import INSTALL, Moto
from tests.support.server import Server, free_ports
from tests.support.status import local_status
from tests.support.tcp_proxy import Weather, proxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.models import ModelZoo

BALLAST_BYTES = 4 << 20
PAUSE_S = 0.01
"""The machine is left room for what they must not notice."""
PARTS_AT_ONCE = 4
BYTES_PER_S = 1_000_000
FETCHED_WITHIN_S = 60.0


@pytest.mark.skipif(not Moto.is_installed(), reason=f"moto is not installed; {INSTALL} or the extra `test`")
def test_no_request_fails_while_a_model_is_fetched(zoo: ModelZoo, tmp_path: Path, log_path: Path) -> None:
    (port,) = free_ports(1)
    with Moto.running(tmp_path) as store, proxy(port, store.port, tmp_path) as network:
        network.set(Weather(bytes_per_s=BYTES_PER_S // PARTS_AT_ONCE))
        config = tmp_path / "config.json"
        entries: list[dict[str, Any]] = [
            {"name": "tiny", "base_path": str(zoo.base_path("tiny"))},
            {"name": "slow", "base_path": "s3://models/slow"},
        ]
        config.write_text(json.dumps({"model_config_list": [{"config": entry} for entry in entries]}))
        arguments = ["config", "--config_path", str(config), "--store_dir", str(tmp_path / "mirrors")]
        with Server(arguments, log_path, environment=store.environment(port)) as server:

            def is_coming() -> bool:
                notes = local_status(server)["models"]["slow"].get("notes", ())
                return any("MiB are here" in note for note in notes)

            def has_come() -> bool:
                reply = rest_client.request(server.rest_port, "GET", "/v1/models/slow")
                return "AVAILABLE" in reply.text()

            with Load(server.port, server.rest_port, pause_s=PAUSE_S) as load:
                store.put_version(zoo.base_path("plus_two") / "1", "slow", 1)
                store.put({"slow/1/ballast.dat": b"x" * BALLAST_BYTES})
                eventually(is_coming, FETCHED_WITHIN_S, "the status says how far it is")
                answered = load.right_answers()
                eventually(has_come, FETCHED_WITHIN_S, "the model is served")
            assert load.right_answers() > answered, "clients were answered meanwhile"
            assert set(load.outcome.counts) == {"right"}, load.outcome
            assert local_status(server)["manager"]["longest_turn_ms"] > 0
