# SPDX-License-Identifier: Apache-2.0
"""What the program refuses at once, asked in this process: to start another takes longer than all that it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.cli import main
from ovms_mp.codes import ExitCode

if TYPE_CHECKING:
    import pytest


def refusal(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The words with which the command line refuses these arguments."""
    code = main(arguments)
    printed = capfd.readouterr()
    assert (code, printed.out) == (ExitCode.USAGE, ""), printed.err
    assert "Traceback" not in printed.err
    return printed.err
