# SPDX-License-Identifier: Apache-2.0
"""The committed protobuf code is what ``protos/generate.py`` makes of the ``.proto`` files."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

GENERATE = Path(__file__).resolve().parents[2] / "protos" / "generate.py"


def test_the_generated_code_is_current() -> None:
    """``--check`` exits 0; what it has to say otherwise is the test's message."""
    check = subprocess.run([sys.executable, GENERATE, "--check"], capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stderr


def test_drift_is_named(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A file that differs, one that is missing and one too many are each named, with the remedy."""
    script = runpy.run_path(str(GENERATE))
    main, root = script["main"], script["ROOT"]
    current = {path: path.read_text() for path in script["committed"]()}
    altered, missing, surplus = sorted(current)[:3]
    wanted = current | {altered: "other", missing.with_name("new_pb2.py"): "new"}
    del wanted[surplus]
    monkeypatch.setitem(main.__globals__, "generated", lambda _scratch: wanted)
    assert main(["--check"]) == 1
    said = capfd.readouterr().err
    for path in (altered, missing.with_name("new_pb2.py"), surplus):
        assert str(path.relative_to(root)) in said
    assert "python protos/generate.py" in said
