# SPDX-License-Identifier: Apache-2.0
"""The status of a server of the tests, as its administrator sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.server import Server

_WITHIN_S = 30


def local_status(server: Server) -> dict[str, Any]:
    """What ``ovms_mp status --json`` prints."""
    ports = ("--port", str(server.port), "--rest_port", str(server.rest_port))
    command = [sys.executable, "-m", "ovms_mp", "status", "--json", *ports]
    answer = subprocess.run(command, capture_output=True, check=True, timeout=_WITHIN_S)
    status: dict[str, Any] = json.loads(answer.stdout)
    return status
