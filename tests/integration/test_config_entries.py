# SPDX-License-Identifier: Apache-2.0
"""Entries of the configuration file that cannot be served: they fail alone, at the start and in a file that changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support import rest_client
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.models import ModelZoo
    from tests.support.tfs_client import TfsClient

X = np.arange(10, dtype=np.float32)[None]
# Settings of an entry, and a piece of the reason that clients are told.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "hddl": ({"target_device": "HDDL"}, "HDDL is gone since OpenVINO 2023.0"),
    "multi": ({"target_device": "MULTI:MYRIAD,CPU"}, "MYRIAD is gone since OpenVINO 2023.0"),
    "store": ({"base_path": "s3://user:secret@bucket/m"}, "credentials must not be in the URL"),
    "shape": ({"shape": "(1,ten-secret)"}, "shape: not valid; accepted:"),
    "layout": ({"layout": "QX"}, "layout: not valid; accepted:"),
    "json": ({"plugin_config": '{"KEY": "secret'}, "plugin_config: not valid; accepted:"),
    "nan": ({"mean": float("nan"), "layout": "NC"}, "it is not a valid JSON number"),
    "stateful": ({"stateful": True}, "stateful models are not supported"),
}
FAILED: dict[str, tuple[dict[str, Any], str]] = {
    "device": ({"target_device": "NOSUCH"}, "NOSUCH is not available on this machine"),
    "property": ({"plugin_config": {"NO_SUCH": 1}}, "NO_SUCH is not supported by CPU"),
}
"""What only the engine can say."""
NAMES = [*REFUSED, *FAILED]


def entry(name: str, **settings: Any) -> dict[str, Any]:
    return {"config": {"name": name, **settings}}


class Site:
    """A server and its configuration file."""

    def __init__(self, root: Path, zoo: ModelZoo, front: str) -> None:
        self.config, self.zoo = root / "config.json", zoo
        self.good = entry("good", base_path=str(zoo.base_path("tiny")))
        self.wrong = [
            entry(name, **{"base_path": str(zoo.base_path("tiny")), **settings})
            for name, (settings, _) in (REFUSED | FAILED).items()
        ]
        self.write([*self.wrong, self.good, {"config": {"base_path": "x"}}, "no entry"])
        arguments = ["config", "--config_path", str(self.config), "--grpc_front", front]
        self.server = Server(arguments, root / "server.log")

    def write(self, entries: list[Any]) -> None:
        other = self.config.with_name("other")
        other.write_text(json.dumps({"model_config_list": entries}))
        other.replace(self.config)

    def status(self, name: str) -> dict[str, Any]:
        """The status of a model's only version."""
        reply = rest_client.request(self.server.rest_port, "GET", f"/v1/models/{name}")
        assert reply.status == 200, reply.text()
        (status,) = reply.json()["model_version_status"]
        return dict(status)

    def predict(self, name: str) -> rest_client.HttpReply:
        return rest_client.predict(self.server.rest_port, name, {"inputs": X.tolist()})


@pytest.fixture(params=["native", "grpcio"])
def site(request: pytest.FixtureRequest, zoo: ModelZoo, tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, zoo, request.param)
    with made.server:
        yield made


@pytest.mark.timeout(180)
def test_entries_at_the_start_and_later(site: Site, tfs: TfsClient) -> None:
    """One server for all of it, as starting one takes longer than the rest."""
    for name in NAMES:
        hold_one_fails_alone_with_its_reason(site, tfs, name)
    hold_the_others_serve_and_the_log_says_everything(site)
    hold_status_command(site)
    hold_a_served_model_goes_on_serving(site)
    for kind in ("FIFO", "endless", "directory", "no JSON"):
        hold_what_is_no_configuration_changes_nothing(site, kind)


def hold_one_fails_alone_with_its_reason(site: Site, tfs: TfsClient, name: str) -> None:
    _, reason = (REFUSED | FAILED)[name]
    status = site.status(name)
    assert (status["version"], status["state"]) == ("1", "LOADING")
    assert status["status"]["error_code"] == "UNKNOWN"
    assert reason in status["status"]["error_message"]
    by_grpc = tfs.call(site.server.port, "GetModelStatus", {"modelSpec": {"name": name}})
    assert by_grpc.code == "OK"
    assert reason in json.dumps(by_grpc.response, ensure_ascii=False).replace('\\"', '"')
    refused = site.predict(name)
    assert refused.status == 503
    for text in (status["status"]["error_message"], refused.text()):
        assert reason in text
        assert "secret" not in text
        assert str(site.config.parent) not in text
        assert str(site.zoo.root) not in text


def hold_the_others_serve_and_the_log_says_everything(site: Site) -> None:
    assert site.predict("good").status == 200
    log = site.server.log()
    assert log.count("event=model_refused") >= len(REFUSED) + 2
    for text in ("(1,ten-secret)", '"HDDL" is not valid', "$.model_config_list[11].config.name", "[12]: "):
        assert text in log


def hold_status_command(site: Site) -> None:
    command = [sys.executable, "-m", "ovms_mp", "status", "--rest_port", str(site.server.rest_port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    for _, reason in (REFUSED | FAILED).values():
        assert reason in done.stdout


@pytest.mark.parametrize("flags", [["--check"], ["--strict_config", "--config_path"]])
def test_strictly_and_by_check_it_is_an_error_of_the_file(
    zoo: ModelZoo, tmp_path: Path, flags: list[str]
) -> None:
    config = Site(tmp_path, zoo, "native").config
    command = [sys.executable, "-m", "ovms_mp", "config", *flags, str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 + len(REFUSED) + 2, done.stderr


def hold_a_served_model_goes_on_serving(site: Site) -> None:
    site.write([entry("good", base_path=str(site.zoo.base_path("plus_two")), target_device="HDDL")])
    eventually(lambda: "HDDL is gone" in site.status("good")["status"]["error_message"], 10.0, "the reason")
    assert site.status("good")["state"] == "AVAILABLE"
    assert site.predict("good").json() == {"outputs": (X + 1).tolist()}
    site.write([site.good, site.good, site.wrong[0]])
    eventually(lambda: "has the same name" in site.status("good")["status"]["error_message"], 10.0, "both")
    assert site.predict("good").json() == {"outputs": (X + 1).tolist()}
    assert rest_client.request(site.server.rest_port, "GET", "/v1/models/multi").status == 404
    site.write([site.good, entry("hddl", base_path=str(site.zoo.base_path("plus_two")))])
    eventually(lambda: site.predict("hddl").status == 200, 20.0, "mended")
    assert site.status("good")["status"]["error_message"] == ""
    assert site.predict("hddl").json() == {"outputs": (X + 2).tolist()}


def hold_what_is_no_configuration_changes_nothing(site: Site, kind: str) -> None:
    site.write([site.good])
    eventually(
        lambda: rest_client.request(site.server.rest_port, "POST", "/v1/config/reload").status in (200, 201),
        20.0,
        "a right file",
    )
    site.config.unlink()
    if kind == "FIFO":
        os.mkfifo(site.config)
    elif kind == "endless":
        site.config.symlink_to("/dev/zero")
    elif kind == "directory":
        site.config.mkdir()
    else:
        site.config.write_text('{"model_config_list": [{"secret')
    reply = rest_client.request(site.server.rest_port, "POST", "/v1/config/reload")
    assert reply.status == (412 if kind == "no JSON" else 500), reply.text()
    assert str(site.config.parent) not in reply.text()
    assert "secret" not in reply.text()
    assert site.predict("good").status == 200
    site.config.rmdir() if kind == "directory" else site.config.unlink()
    site.write([site.good])
    eventually(
        lambda: rest_client.request(site.server.rest_port, "POST", "/v1/config/reload").status in (200, 201),
        20.0,
        "the file again",
    )
