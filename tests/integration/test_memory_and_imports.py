# SPDX-License-Identifier: Apache-2.0
"""What an idle server holds: little memory, no engine outside the worker, no names in the file system."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from ovms_mp.demo import digits
from tests.support import rest_client
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.tfs_client import TfsClient

MAX_FRONT_MB = 120
HEAVY = ("openvino", "tensorflow", "sklearn", "scipy", "torch")
FRONTS = ("grpc", "rest", "arbiter")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty home directory, also the place for runtime and temporary files."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(home: Path, tmp_path_factory: pytest.TempPathFactory, tfs: TfsClient) -> Iterator[Server]:
    """The digits model in two fronts of each protocol, after some requests."""
    directory = tmp_path_factory.mktemp("memory")
    environment = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "TMPDIR": str(home)}
    arguments = ["--model_name", digits.MODEL_NAME, "--model_path", str(digits.model_directory())]
    before = Ledger.take()
    with Server(arguments, directory / "server.log", environment, grpc_workers=2, rest_workers=2) as server:
        image = digits.load_held_out()[0][:1]
        for _ in range(20):
            assert tfs.predict(server.port, "digits", {"image": image}).code == "OK"
            assert (
                rest_client.predict(server.rest_port, "digits", {"instances": image.tolist()}).status == 200
            )
        tfs.forget(server.port)
        yield server
        assert Ledger.take().shared_memory <= before.shared_memory
    assert_nothing_left(before)


def maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("kind", FRONTS)
def test_fronts_are_small(kind: str, server: Server) -> None:
    pids = server.pids(kind)
    assert len(pids) == (1 if kind == "arbiter" else 2)
    for pid in pids:
        assert psutil.Process(pid).memory_info().rss < MAX_FRONT_MB << 20


def test_only_the_worker_maps_the_engine(server: Server) -> None:
    """A module with an extension cannot be imported without its library being mapped."""
    (worker,) = server.pids("worker")
    assert "/openvino/" in maps(worker)
    others = set(server.all_pids()) - {worker}
    assert len(others) == 6
    for pid in others:
        found = [name for name in HEAVY if re.search(rf"/{name}[/.]", maps(pid))]
        assert not found, (pid, psutil.Process(pid).cmdline()[:4])


@pytest.mark.parametrize(
    "module",
    [
        "ovms_mp.front.grpc.main",
        "ovms_mp.front.rest.app",
        "ovms_mp.front.rest.__main__",
        "ovms_mp.manager.main",
    ],
)
def test_no_front_imports_the_engine(module: str) -> None:
    """Pure Python modules leave no trace in a process's maps, so the imports themselves are looked at too."""
    assert not set(HEAVY) & {name.partition(".")[0] for name in imported_with(module)}


def test_no_worker_imports_the_converter() -> None:
    """It is half of openvino's import, and reports its use over the network."""
    names = imported_with("ovms_mp.worker.loop")
    assert "openvino" in names
    assert not [name for name in names if name.startswith(("openvino_telemetry", "openvino.tools.ovc."))]


def imported_with(module: str) -> list[str]:
    """All modules that a process has once it has imported this one."""
    program = f"import sys, {module}; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.split()


def test_arbiter_has_imported_nothing_heavy_before_its_forks(server: Server) -> None:
    (arbiter,) = server.pids("arbiter")
    found = [name for name in ("numpy", "grpc", "zmq", "falcon") if re.search(rf"/{name}[/.]", maps(arbiter))]
    assert found == []


def test_arenas_have_no_name(server: Server) -> None:
    """They are memfd files: nothing in /dev/shm is open or mapped."""
    for pid in server.all_pids():
        assert "/dev/shm/" not in maps(pid)  # noqa: S108  # looked at, not used
        opened = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
        assert not [path for path in opened if path.startswith("/dev/shm")]  # noqa: S108  # as above
    (worker,) = server.pids("worker")
    assert "/memfd:" in maps(worker)


def test_sockets_of_ours_are_abstract_or_in_the_private_directory(server: Server, home: Path) -> None:
    inodes = {
        match[1]
        for pid in server.all_pids()
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if (match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link)))
    }
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    names = [row[7] for row in rows if len(row) > 7 and row[6] in inodes]
    assert names
    private = f"{home}/ovms_mp-sockets-{server.process.pid}-"
    assert [name for name in names if not name.startswith(("@ovms_mp-", private))] == []


def test_nothing_else_is_at_home_or_in_the_temporary_directory(server: Server, home: Path) -> None:
    """Gunicorn would keep a control socket at home, ZeroMQ one in the temporary directory."""
    assert server.process.poll() is None
    (private,) = home.iterdir()
    assert private.name.startswith(f"ovms_mp-sockets-{server.process.pid}-")
    assert private.stat().st_mode & 0o777 == 0o700


def test_requests_do_not_grow_a_front(server: Server, tfs: TfsClient) -> None:
    """300 requests of changing batch through both protocols: less than 8 MB more in each process."""
    images = np.tile(digits.load_held_out()[0], (2, 1, 1))
    fronts = [pid for kind in ("grpc", "rest") for pid in server.pids(kind)]
    before = {pid: psutil.Process(pid).memory_info().rss for pid in fronts}
    for number in range(1, 151):
        batch = images[:number]
        assert tfs.predict(server.port, "digits", {"image": batch}).code == "OK"
        assert rest_client.predict(server.rest_port, "digits", {"inputs": batch.tolist()}).status == 200
    tfs.forget(server.port)
    grown = {pid: psutil.Process(pid).memory_info().rss - size for pid, size in before.items()}
    assert max(grown.values()) < 8 << 20, grown
