# SPDX-License-Identifier: Apache-2.0
"""`ovms_mp demo`: what a new user runs first."""

from __future__ import annotations

import re
import subprocess
import sys

from ovms_mp.demo import digits
from ovms_mp.demo.command import SURE_DIGIT


def test_demo_once_asks_both_protocols_and_leaves() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ovms_mp", "demo", "--once", "--port", "0", "--rest_port", "0"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _, labels = digits.load_held_out()
    label = int(labels[SURE_DIGIT])
    assert f"gRPC says {label}, REST says {label}, the label is {label}" in done.stdout
    assert re.search(r"^curl .*/v1/models/digits:predict", done.stdout, re.MULTILINE)
    assert "Traceback" not in done.stderr
