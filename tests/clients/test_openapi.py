# SPDX-License-Identifier: Apache-2.0
"""The server answers as ``/openapi.json`` says: schemathesis makes requests of it, right and wrong ones.

The full run: ``python -m pytest tests/clients/test_openapi.py --openapi-examples 500``.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from ovms_mp.demo import digits
from tests.support import client_process, rest_client
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HERE = client_process.SCRIPTS.parent / "schemathesis"
REAL_NAMES = '\n[parameters]\n"path.model" = "digits"\n"path.version" = "1"\n'
"""Without them schemathesis makes up names, which are those of no models."""


@pytest.fixture(scope="module")
def schemathesis(clients_cache: Path) -> Path:
    """The program, in an environment of its own: it needs much."""
    python = client_process.install(clients_cache, HERE / "requirements.txt")
    return python.with_name("schemathesis")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("openapi")
    flags = ["--model_name", "digits", "--model_path", str(digits.model_directory()), "--allow_client_shm"]
    flags += ["--metrics_enable"]
    before = Ledger.take()
    with Server(["model", *flags], directory / "server.log") as server:
        pids = server.all_pids()
        yield server
        assert server.all_pids() == pids
        assert "event=defect" not in server.log()
    assert_nothing_left(before)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("names", "phases"), [(REAL_NAMES, "coverage,fuzzing"), ("", "fuzzing")], ids=["real", "made_up"]
)
def test_no_answer_is_undocumented(
    server: Server, schemathesis: Path, names: str, phases: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """No 5xx but 501 and 503, no status, type or document that the description lacks, no wrong request accepted."""
    config = tmp_path / "schemathesis.toml"
    config.write_text((HERE / "schemathesis.toml").read_text() + names)
    url = f"http://127.0.0.1:{server.rest_port}"
    flags = ["--phases", phases, "--generation-database", "none", "--no-color"]
    flags += ["--max-examples", str(pytestconfig.getoption("--openapi-examples")), "--warnings", "off"]
    done = subprocess.run(
        [schemathesis, "--config-file", config, "run", f"{url}/openapi.json", "--url", url, *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=3500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    described = rest_client.request(server.rest_port, "GET", "/openapi.json").json()
    count = sum(len(methods) for methods in described["paths"].values())
    # All but the description itself, which has been asked for already.
    assert f"Tested: {count - 1}\n" in done.stdout, done.stdout[-2000:]
