# SPDX-License-Identifier: Apache-2.0
"""What measurements have in common in which loads of the usual models take turns."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perf.models.declared import build_models
from perf.report.console import say_environment


@dataclass(frozen=True, slots=True)
class Rounds:
    """How many, and how long each load of one lasts."""

    rounds: int
    seconds: float


def rounds_of(command: str, description: str | None, arguments: list[str]) -> Rounds:
    """Read the flags of ``python -m perf COMMAND``."""
    parser = argparse.ArgumentParser(
        prog=f"python -m perf {command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load of a round")
    given = parser.parse_args(arguments)
    return Rounds(given.rounds, given.seconds)


@contextlib.contextmanager
def usual_models() -> Iterator[Path]:
    """A directory for the length of a block, with ``tiny`` and ``payload``; the machine has been said before."""
    say_environment()
    with tempfile.TemporaryDirectory(prefix="ovms-perf-") as name:
        root = Path(name)
        build_models(root, {"tiny", "payload"})
        yield root
