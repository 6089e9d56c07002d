# SPDX-License-Identifier: Apache-2.0
"""Node's gRPC client, ``@grpc/grpc-js``, in a process of its own, and its driver.

Its versions are locked in ``grpc_js/package-lock.json``; npm fetches them from its registry, or from its cache.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

_FILES = Path(__file__).parent / "grpc_js"
_INSTALL_WITHIN_S = 120
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def install(cache: Path) -> Path:
    """The directory with the client and what it needs, made once for all test processes and later runs.

    Skips the test where npm or its registry is not there.
    """
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    content = b"\0".join(path.read_bytes() for path in sorted(_FILES.iterdir()))
    found = cache / f"grpc_js-{hashlib.sha256(content).hexdigest()[:16]}"
    with found.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            half_done = found.with_suffix(".part")
            shutil.rmtree(half_done, ignore_errors=True)
            shutil.copytree(_FILES, half_done)
            _fetch(npm, half_done)
            half_done.rename(found)
    return found


def _fetch(npm: str, directory: Path) -> None:
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=_INSTALL_WITHIN_S, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not install @grpc/grpc-js within {_INSTALL_WITHIN_S} s")
    if done.returncode:
        pytest.skip(f"npm could not install @grpc/grpc-js: {done.stderr[-500:]}")


class JsClient:
    """Owner of the process; one call at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[str]

    def __enter__(self) -> Self:
        """Start it."""
        self._process = subprocess.Popen(
            ["/usr/bin/env", "node", "client.js"],
            cwd=self._directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it."""
        with self._process as process:
            if process.stdin is not None:
                process.stdin.close()
            process.wait(timeout=20)

    def start(
        self,
        port: int,
        path: str,
        bodies: Sequence[bytes],
        *,
        timeout_s: float = 30,
        metadata: Mapping[str, str] | None = None,
        **more: Any,  # whatever client.js knows
    ) -> None:
        """Begin a call; :meth:`wait` has its end."""
        self._send(
            {
                "port": port,
                "path": path,
                "bodies": [base64.b64encode(body).decode() for body in bodies],
                "timeout_ms": int(timeout_s * 1000),
                "metadata": metadata or {},
                **more,
            }
        )

    def wait(self) -> tuple[grpc.StatusCode, str, list[bytes]]:
        """Code, details and answers."""
        answer = self._receive()
        return (
            _CODES[answer["code"]],
            answer["details"],
            [base64.b64decode(text) for text in answer["bodies"]],
        )

    def ask(self, port: int, path: str, body: bytes, **more: Any) -> tuple[grpc.StatusCode, str, list[bytes]]:
        """Make a unary call."""
        self.start(port, path, [body], **more)
        return self.wait()

    def forget(self) -> None:
        """Close all connections."""
        self._send({"close": True})
        self._receive()

    def _send(self, command: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "node has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer
