# SPDX-License-Identifier: Apache-2.0
"""Random small graphs for the comparison of served answers with the engine's own: what passes between the processes.

The graphs are built, and answered by OpenVINO directly, in a process of their own
(:mod:`tests.support.build_random_graphs`), as the test process never imports openvino.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path


class Tensor(msgspec.Struct, frozen=True):
    """A tensor as bytes, so that NaNs compare."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes


class Call(msgspec.Struct, frozen=True):
    """Inputs, and what ``compiled_model(inputs)`` answers."""

    inputs: list[Tensor]
    outputs: list[Tensor]


class Graph(msgspec.Struct, frozen=True):
    """A graph that OpenVINO can compile and run.

    Attributes:
        seed: It is made from; ``python -m tests.support.build_random_graphs DIRECTORY SEED 1`` makes it alone.
        file: The IR.
        story: Its operations, for people.
        calls: At least two, with different values.
    """

    seed: int
    file: str
    story: str
    calls: list[Call]


def build_random_graphs(directory: Path, first_seed: int, count: int) -> list[Graph]:
    """Build the graphs of consecutive seeds in a process of its own."""
    directory.mkdir(parents=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.support.build_random_graphs",
            str(directory),
            str(first_seed),
            str(count),
        ],
        check=True,
        timeout=600,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    return msgspec.msgpack.decode((directory / "graphs.msgpack").read_bytes(), type=list[Graph])
