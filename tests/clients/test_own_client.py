# SPDX-License-Identifier: Apache-2.0
"""The client of the package in one process with Triton's, whose messages have the names of ours."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.server import Server

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
import numpy as np
import tritonclient.grpc
import tritonclient.http
from ovms_mp.client import Client

x = np.arange(10, dtype=np.float32).reshape(1, 10)
with Client(sys.argv[1]) as client:
    ours = client.predict("tiny", {"x": x})["y"]
triton = tritonclient.grpc.InferenceServerClient(sys.argv[1].removeprefix("grpc://"))
given = tritonclient.grpc.InferInput("x", x.shape, "FP32")
given.set_data_from_numpy(x)
assert (triton.infer("tiny", [given]).as_numpy("y") == ours).all()
"""


def test_it_lives_beside_tritons(clients_python: Path, shared_server: Server) -> None:
    url = f"grpc://127.0.0.1:{shared_server.port}"
    done = subprocess.run(
        [clients_python, "-c", SCRIPT, url],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
