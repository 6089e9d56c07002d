# SPDX-License-Identifier: Apache-2.0
"""The server as somebody has it on a terminal: what the start and the stop say there."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ovms_mp import __version__
from tests.support.server import free_ports
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from tests.support.models import ModelZoo

READY_S = 60.0
CTRL_C = b"\x03"
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
"""Becomes a program that Ctrl-C on its stdin's terminal is sent to."""


class Terminal:
    """The program on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._controller, program_end = pty.openpty()
        os.set_blocking(self._controller, False)
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, sys.executable, "-m", "ovms_mp", *arguments],
            stdin=program_end,
            stdout=program_end,
            stderr=program_end,
        )
        os.close(program_end)
        self._text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A terminal that is closed ends what runs on it.
        os.close(self._controller)
        self.process.wait(30)

    def lines(self) -> list[str]:
        """All that stands on it, without the times."""
        try:
            while octets := os.read(self._controller, 65536):
                self._text += octets.decode()
        except OSError:
            pass  # Nothing more for now, or for ever.
        return [re.sub(r"^(\^C)?\d\d:\d\d:\d\d ", "", line) for line in self._text.splitlines()]

    def wait_for(self, beginning: str) -> None:
        eventually(lambda: any(line.startswith(beginning) for line in self.lines()), READY_S, beginning)

    def type(self, keys: bytes) -> None:
        os.write(self._controller, keys)


def served(zoo: ModelZoo, directory: Path, names: list[str]) -> list[str]:
    """Arguments that serve these models on free ports."""
    port, rest_port = free_ports(2)
    ports = ["--port", str(port), "--rest_port", str(rest_port)]
    if len(names) == 1:
        return ["model", "--model_name", names[0], "--model_path", str(zoo.base_path(names[0])), *ports]
    entries = [{"config": {"name": name, "base_path": str(zoo.base_path(name))}} for name in names]
    config = directory / "config.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    return ["config", "--config_path", str(config), *ports]


@pytest.mark.parametrize("names", [["tiny"], ["tiny", "pair", "batch"]])
def test_a_start_is_five_lines_and_a_stop_two(names: list[str], zoo: ModelZoo, tmp_path: Path) -> None:
    with Terminal(*served(zoo, tmp_path, names)) as terminal:
        terminal.wait_for("Ask: ")
        version, plan, loaded, ready, ask = terminal.lines()
        assert version.startswith(f"ovms_mp {__version__} (OpenVINO 20")
        assert re.match(r"\d+ cores .*: CPU on ", plan)
        if len(names) == 1:
            assert loaded.startswith("Loaded tiny/1: load_s=")
        else:
            assert loaded.startswith("Loaded 3 versions: ")
            assert all(f"{name}/1" in loaded for name in names)
        assert ready.startswith("Ready: REST http://")
        assert all(f"{name}/1" in ready for name in names)
        assert "curl http://" in ask
        terminal.type(CTRL_C)
        assert terminal.process.wait(30) == 0
        assert [line.split(" ")[0] for line in terminal.lines()[5:]] == ["Stopping", "Stopped"]


def test_a_second_ctrl_c_is_one_more_line(zoo: ModelZoo, tmp_path: Path) -> None:
    with Terminal(*served(zoo, tmp_path, ["tiny"])) as terminal:
        terminal.wait_for("Ask: ")
        terminal.type(CTRL_C)
        terminal.wait_for("Stopping (SIGINT)")
        terminal.type(CTRL_C)
        assert terminal.process.wait(30) in (0, 130)
        # It may have stopped before the second one came.
        stop = terminal.lines()[5:]
        assert stop[0].startswith("Stopping (SIGINT)")
        assert stop[1] in ("Stopped", "warning: event=stop_now reason=second SIGINT")
        assert [line for line in stop[2:] if line.strip("^C")] == []
