# SPDX-License-Identifier: Apache-2.0
"""The five models of the example configuration of OVMS's page about its container, from this disk and two stores."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support import rest_client
from tests.support.object_stores import INSTALL, Gcs, Moto
from tests.support.server import Server
from tests.support.status import local_status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.support.models import ModelZoo

STARTED_WITHIN_S = 90.0


def entries(local: Path) -> list[dict[str, Any]]:
    """As the page has them, but for the sizes of the models' inputs."""
    return [
        {
            "name": "model_name1",
            "base_path": f"{local}/model1",
            "batch_size": "16",
            "model_version_policy": {"all": {}},
        },
        {
            "name": "model_name2",
            "base_path": f"{local}/model2",
            "batch_size": "auto",
            "model_version_policy": {"latest": {"num_versions": 2}},
        },
        {
            "name": "model_name3",
            "base_path": "gs://models/model3",
            "model_version_policy": {"specific": {"versions": [1, 3]}},
            "shape": "auto",
        },
        {
            "name": "model_name4",
            "base_path": "s3://models/model4",
            "shape": {"a": "(4,3)", "b": "(4,3)"},
            "plugin_config": {"CPU_THROUGHPUT_STREAMS": "CPU_THROUGHPUT_AUTO"},
        },
        {
            "name": "model_name5",
            "base_path": "s3://models/model5",
            "shape": "auto",
            "nireq": 32,
            "target_device": "HDDL",
        },
    ]


@pytest.mark.skipif(
    not (Moto.is_installed() and Gcs.is_installed()), reason=f"no emulators of stores; {INSTALL} has them"
)
def test_four_are_served_and_the_fifth_says_what_replaced_its_device(
    zoo: ModelZoo, tmp_path: Path, log_path: Path
) -> None:
    tiny = zoo.base_path("tiny") / "1"
    for model, versions in (("model1", (1, 2)), ("model2", (1, 2, 3))):
        for version in versions:
            shutil.copytree(tiny, tmp_path / model / str(version))
    config = tmp_path / "config.json"
    document = {"model_config_list": [{"config": entry} for entry in entries(tmp_path)]}
    config.write_text(json.dumps(document))
    (tmp_path / "s3").mkdir()
    (tmp_path / "gs").mkdir()
    with Moto.running(tmp_path / "s3") as s3, Gcs.running(tmp_path / "gs") as gs:
        for version in (1, 2, 3):
            gs.put_version(tiny, "model3", version)
        s3.put_version(zoo.base_path("pair") / "1", "model4", 1)
        s3.put_version(tiny, "model5", 1)
        server = Server(
            ["config", "--config_path", str(config), "--store_dir", str(tmp_path / "mirrors")],
            log_path,
            environment={**s3.environment(s3.port), **gs.environment(gs.port)},
            start_within_s=STARTED_WITHIN_S,
        )
        with server:
            x = np.arange(10, dtype=np.float32)[None]
            assert served(server) == {
                "model_name1": [1, 2],
                "model_name2": [2, 3],
                "model_name3": [1, 3],
                "model_name4": [1],
            }
            assert answer(server, "model_name1", {"x": np.repeat(x, 16, 0)}) == [(x + 1).tolist()[0]] * 16
            assert answer(server, "model_name2", {"x": np.repeat(x, 5, 0)}) == [(x + 1).tolist()[0]] * 5
            assert answer(server, "model_name3", {"x": x}) == (x + 1).tolist()
            ones = np.ones((4, 3))
            both = answer(server, "model_name4", {"a": ones, "b": ones.astype(np.int64)})
            assert both == {"sum": (ones * 2).tolist(), "product": ones.tolist()}
            told = json.dumps(local_status(server))
            assert "HDDL is gone since OpenVINO 2023.0; use CPU, GPU, or NPU of a newer processor" in told
            assert server.stop() == 0


def served(server: Server) -> Mapping[str, Sequence[int]]:
    """Versions that answer, by model."""
    models = local_status(server)["models"]
    found = {
        name: [entry["version"] for entry in model["versions"] if entry["state"] == "AVAILABLE"]
        for name, model in models.items()
    }
    return {name: versions for name, versions in found.items() if versions}


def answer(server: Server, model: str, inputs: Mapping[str, np.ndarray[Any, Any]]) -> object:
    """Outputs of a predict request, by columns."""
    body = {name: values.tolist() for name, values in inputs.items()}
    reply = rest_client.predict(server.rest_port, model, {"inputs": body})
    assert reply.status == 200, reply.text()
    return reply.json()["outputs"]
