# SPDX-License-Identifier: Apache-2.0
"""The command line of measurements in which loads take turns."""

from __future__ import annotations

import argparse
from dataclasses import dataclass


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
