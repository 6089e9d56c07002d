# SPDX-License-Identifier: Apache-2.0
"""Models that cannot be reached, in a server with mounts of its own, and addresses that can."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import rest_client
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.models import ModelZoo
    from tests.support.tfs_client import TfsClient

X = np.arange(10, dtype=np.float32)[None]
NOTICED_S = 20.0
SOMEBODY = 12345
"""Whose files the server, without the capabilities of root, may only use as others may."""
LOST = "is not there, as the file system is not mounted any more; what is loaded goes on serving"
NSENTER = shutil.which("nsenter") or "/usr/bin/nsenter"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount, and give files away")
NO_ROOT = ["--without", "DAC_OVERRIDE", "--without", "DAC_READ_SEARCH", "--without", "NET_BIND_SERVICE"]


class Site:
    """A server whose models lie on file systems of their own, or are somebody else's.

    whole: the base path is the mount; below: it lies below one; part: version 1 is one; closed: somebody's;
    gone: nothing odd; secret: its weights are somebody's; many: a directory of models.
    """

    def __init__(self, root: Path, zoo: ModelZoo) -> None:
        self.root = root
        self.zoo = zoo
        self.mounts = {"whole": root / "whole", "below": root / "disk", "part": root / "part" / "1"}
        self.bases = {
            **{name: root / name for name in ("whole", "part", "closed", "gone", "secret", "many")},
            "below": root / "disk" / "models" / "below",
        }
        for mount in self.mounts.values():
            mount.mkdir(parents=True)
        for name in ("closed", "gone", "secret"):
            zoo.install("tiny", root / name, 1)
        zoo.install("tiny", root / "many" / "resnet", 1)
        for path in (root / "closed", root / "secret" / "1" / "model.bin"):
            os.chown(path, SOMEBODY, SOMEBODY)
        (root / "secret" / "1" / "model.bin").chmod(0o600)
        config = root / "config.json"
        entries = [{"config": {"name": name, "base_path": str(base)}} for name, base in self.bases.items()]
        config.write_text(json.dumps({"model_config_list": entries}))
        place = [*NO_ROOT, *(word for path in self.mounts.values() for word in ("--tmpfs", str(path)))]
        environment = {"FILE_SYSTEM_POLL_WAIT_SECONDS": "0.1"}
        arguments = ["config", "--config_path", str(config)]
        self.server = Server(arguments, root / "server.log", environment, place=place)

    def inside(self, *command: str) -> None:
        """Run a command where the server's mounts are."""
        space = f"--mount=/proc/{self.server.process.pid}/ns/mnt"
        subprocess.run([NSENTER, space, *command], check=True, timeout=30)

    def put(self, name: str) -> None:
        version = self.bases[name] / "1"
        self.inside("mkdir", "-p", str(version))
        self.inside("cp", "-r", f"{self.zoo.base_path('tiny')}/1/.", str(version))

    def mount_again(self, name: str) -> None:
        """Mount something else in the same place, which has the version from the first moment on."""
        again = self.root / "again"
        self.zoo.install("tiny", again / self.bases[name].relative_to(self.root), 1)
        mount = self.mounts[name]
        self.inside("mount", "--bind", str(again / mount.relative_to(self.root)), str(mount))

    def serves(self, name: str) -> bool:
        reply = rest_client.predict(self.server.rest_port, name, {"inputs": X.tolist()})
        return reply.status == 200 and reply.json() == {"outputs": (X + 1).tolist()}

    def wait(self, name: str, *, serves: bool) -> None:
        eventually(lambda: self.serves(name) is serves, NOTICED_S, f"{name} serves: {serves}")

    def lines(self, name: str, text: str) -> list[str]:
        log = self.server.log().splitlines()
        return [line for line in log if f"model={name} " in line and text in line]

    def wait_line(self, name: str, text: str) -> None:
        eventually(lambda: self.lines(name, text), NOTICED_S, f"{name}: {text}")


@pytest.fixture(scope="module")
def site(zoo: ModelZoo) -> Iterator[Site]:
    root = Path(tempfile.mkdtemp())  # Everybody may enter it, other than pytest's.
    root.chmod(0o755)
    made = Site(root, zoo)
    with made.server:
        yield made
    shutil.rmtree(root)


@needs_root
def test_a_model_whose_file_may_not_be_read(site: Site, tfs: TfsClient) -> None:
    owner = f"belongs to uid {SOMEBODY}, gid {SOMEBODY}, its mode is 0600, and the server runs as uid 0"
    site.wait_line("secret", f"{site.root}/secret/1/model.bin {owner}")
    reply = rest_client.predict(site.server.rest_port, "secret", {"inputs": X.tolist()})
    assert reply.status == 503
    by_grpc = tfs.predict(site.server.port, "secret", {"x": X})
    for told in (reply.text(), by_grpc.details):
        assert "Permission denied" in told
        assert f"model.bin belongs to uid {SOMEBODY}" in told
        assert str(site.root) not in told


@needs_root
def test_a_directory_of_models(site: Site) -> None:
    (line,) = site.lines("many", "is a directory of models")
    assert (
        f"(resnet), not of one model's versions; give {site.root}/many/resnet, which has 1/model.xml" in line
    )
    assert site.lines("many", "waiting for one") == []


@needs_root
def test_what_cannot_be_reached_goes_on_serving_and_what_is_removed_does_not(
    site: Site, tfs: TfsClient
) -> None:
    for name in site.mounts:
        site.put(name)
    unreachable = (*site.mounts, "closed")
    for name in (*unreachable, "gone"):
        site.wait(name, serves=True)
    for mount in site.mounts.values():
        site.inside("umount", str(mount))
    site.bases["closed"].chmod(0)
    shutil.rmtree(site.bases["gone"])
    site.wait("gone", serves=False)
    for name in site.mounts:
        site.wait_line(name, LOST)
    denied = f"Permission denied: {site.root}/closed belongs to uid {SOMEBODY}"
    site.wait_line("closed", denied)
    for name in unreachable:
        assert site.serves(name)
        assert tfs.predict(site.server.port, name, {"x": X}).code == "OK"

    for name in site.mounts:
        site.mount_again(name)
    site.bases["closed"].chmod(0o755)
    for name in unreachable:
        site.wait_line(name, "event=reachable")
        assert site.serves(name)
        assert len(site.lines(name, denied if name == "closed" else LOST)) == 1
        site.inside("find", str(site.bases[name] / "1"), "-type", "f", "-delete")
        site.wait(name, serves=False)
    tfs.forget(site.server.port)


# --- addresses ---


def test_rest_and_grpc_listen_on_both_families(shared_server: Server, tfs: TfsClient) -> None:
    for host in ("127.0.0.1", "::1"):
        for port in (shared_server.rest_port, shared_server.port):
            connection = http.client.HTTPConnection(host, port, timeout=10)
            with contextlib.closing(connection):
                connection.connect()
                if port == shared_server.rest_port:
                    connection.request("GET", "/v1/models/tiny")
                    assert connection.getresponse().status == 200
    for door in (
        f"Ready: REST http://0.0.0.0:{shared_server.rest_port}",
        f"gRPC 0.0.0.0:{shared_server.port}",
    ):
        assert door in shared_server.log()


@pytest.mark.parametrize("front", ["native", "grpcio"])
def test_a_machine_without_ipv6(front: str, zoo: ModelZoo, log_path: Path, tfs: TfsClient) -> None:
    arguments = ["model", "--model_name", "tiny", "--model_path", str(zoo.base_path("tiny"))]
    with Server([*arguments, "--grpc_front", front], log_path, place=["--no-ipv6"]) as server:
        assert rest_client.predict(server.rest_port, "tiny", {"inputs": X.tolist()}).status == 200
        assert tfs.predict(server.port, "tiny", {"x": X}).code == "OK"
        tfs.forget(server.port)
    log = server.log()
    assert " - WARNING - " not in log
    assert " - ERROR - " not in log
