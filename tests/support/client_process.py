# SPDX-License-Identifier: Apache-2.0
"""Client libraries that cannot live with ours: a virtual environment of their own, and their cases in one process.

The scripts in ``clients/`` have a function for each case. All cases of a script run in one process, as starting it
takes longer than most of them; each is a test of its own by its name.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.server import Server

SCRIPTS = Path(__file__).parent / "clients"
_INSTALL_WITHIN_S = 300
_CASES_WITHIN_S = 240


def case_names(script: str) -> list[str]:
    """The cases of a script, without running it."""
    tree = ast.parse((SCRIPTS / f"{script}.py").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [node.name.removeprefix("case_") for node in functions if node.name.startswith("case_")]


def install(directory: Path, requirements: Path = SCRIPTS / "requirements.txt") -> Path:
    """The Python that has the client libraries, once for all test processes and later runs.

    Skips the test where they cannot be installed.

    Args:
        directory: May be kept; a new version of the requirements makes another environment in it.
        requirements: What else is to be installed, by hash.
    """
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
    found = directory / f"{requirements.parent.name}-{digest}"
    with found.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (found / "complete").exists():
            shutil.rmtree(found, ignore_errors=True)
            python = str(found / "bin" / "python")
            _run([sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, str(found)])
            install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python]
            _run([*install, "--require-hashes", "--requirement", str(requirements)])
            (found / "complete").touch()
    return found / "bin" / "python"


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_WITHIN_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"the client libraries were not installed within {_INSTALL_WITHIN_S} s")
    if done.returncode:
        pytest.skip(f"the client libraries cannot be installed: {done.stderr[-500:]}")


def run_cases(command: Sequence[str | Path], server: Server) -> dict[str, str]:
    """Run a script against a server; the failure of each case, empty where it went well."""
    address = {
        "GRPC_ADDRESS": f"127.0.0.1:{server.port}",
        "REST_ADDRESS": f"127.0.0.1:{server.rest_port}",
    }
    done = subprocess.run(
        command,
        env=os.environ | address,
        capture_output=True,
        text=True,
        timeout=_CASES_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"case"')]
    return {line["case"]: line["failure"] for line in lines}
