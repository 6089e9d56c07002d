# SPDX-License-Identifier: Apache-2.0
"""A version of a few kilobytes that takes gigabytes to compile: its trial is ended, with the limit as its reason."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np

from tests.support import rest_client
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.models import ModelCache, ModelZoo
    from tests.support.tfs_client import TfsClient

LIMIT_MB = 400
TAKES_MB = 1000
X = np.arange(10, dtype=np.float32)[None]


def test_a_trial_that_takes_too_much_memory(
    zoo: ModelZoo, model_cache: ModelCache, tmp_path: Path, log_path: Path, tfs: TfsClient
) -> None:
    base_paths = {
        "tiny": zoo.base_path("tiny"),
        "fold": model_cache.get("tests.support.build_fold_model") / "fold",
    }
    entries = [{"config": {"name": name, "base_path": str(path)}} for name, path in base_paths.items()]
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    arguments = ["config", "--config_path", str(config), "--trial_memory_limit_mb", str(LIMIT_MB)]
    with Server(arguments, log_path) as server:
        text = eventually(lambda: _failure(server), 60.0, "fold has failed")
        reply = tfs.call(server.port, "GetModelStatus", {"modelSpec": {"name": "fold"}})
        assert reply.response["model_version_status"][0]["status"]["error_message"] == text
        found = re.fullmatch(
            rf"its trial takes (\d+) MiB of memory; --trial_memory_limit_mb {LIMIT_MB} is the most", text
        )
        assert found
        assert LIMIT_MB < int(found[1]) <= TAKES_MB + 200
        assert rest_client.predict(server.rest_port, "tiny", {"inputs": X.tolist()}).status == 200
        refused = rest_client.predict(server.rest_port, "fold", {"inputs": [1.0]})
        assert f"--trial_memory_limit_mb {LIMIT_MB}" in refused.json()["error"]
        tfs.forget(server.port)
    log = server.log()
    assert "out of memory" not in log
    # Others pay for another try, so it is not soon.
    assert re.search(r"event=load_failed model=fold version=1 retry_in_s=60 reason=its trial takes", log)


def _failure(server: Server) -> str:
    """Why ``fold`` is not served; empty while that is not known."""
    document = rest_client.request(server.rest_port, "GET", "/v1/models/fold").json()
    text: str = document["model_version_status"][0]["status"].get("error_message", "")
    return text
