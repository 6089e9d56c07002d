# SPDX-License-Identifier: Apache-2.0
"""Runs the examples of a page in their order, as they stand there, and compares what they print with what it shows.

What is changed: ports become free ones, and commands that choose ports by themselves are given these, as other servers
may run on this machine. What is left out: blocks with a mark (see ``tests/support/readme.py``).
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.readme import Block, difference, outputs, text_pattern
from tests.support.server import free_ports
from tests.support.terminal import Terminal
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import ExitStack

ROOT = Path(__file__).parents[2]
_SERVER = re.compile(r"^ovms_mp (?:model |config |--)(?=.*--rest_port[ =](\d+))")
PORTS = ("9000", "8000", "9001", "8001", "8500", "8501")
"""Those that pages name."""
_FINDS_A_SERVER = re.compile(r"^(ovms_mp (?:status|models))$", re.MULTILINE)
_CHOOSES_PORTS = re.compile(r"^(ovms_mp demo --once)$", re.MULTILINE)
_PROGRAM = "example.py"
_ENDS_WITHIN_S = 60.0


class Reader:
    """Someone who does what a page says, in two terminals."""

    def __init__(
        self, home: Path, cleanup: ExitStack, *, place: str = "", python: Path | str = sys.executable
    ) -> None:
        """Go to a directory.

        Args:
            home: An empty one.
            cleanup: Ends what is left.
            place: Blocks that are run in it are, too.
            python: What ``python`` is there; the server has the one of the tests.
        """
        self._home = home
        self._cleanup = cleanup
        self._place = place
        self._environment = _environment(home, python)
        self._ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        self._server: Terminal | None = None
        self._rest_port = "8000"
        self._seen = 0
        """How much of the server's output has been shown."""

    def follow(self, page: Sequence[Block], at_the_end: Callable[[str], None] | None = None) -> None:
        """Do what each block says, in turn.

        Args:
            page: Its blocks.
            at_the_end: Is given the REST port while the last server still runs.
        """
        for block, shown in outputs(page):
            if block.not_run or block.run_in not in ("", self._place):
                continue
            if block.file:
                (self._home / block.file).write_text(self._with_free_ports(block.text))
            elif block.language == "sh":
                self._run(block.text.strip().replace("\\\n", " "), shown)
            elif block.language == "python":
                (self._home / _PROGRAM).write_text(self._with_free_ports(block.text))
                self._run(f"python {_PROGRAM}", shown)
            elif block.language == "text" and not block.follows:
                self._expect_of_server(block)
        if at_the_end is not None:
            at_the_end(self._ports[self._rest_port])
        self.stop_server()

    def _run(self, command: str, shown: Block | None) -> None:
        *before, last = command.split("\n")
        if server := _SERVER.match(last):
            self.stop_server()
            if before:
                self._run("\n".join(before), Block("text", "", "", ""))
            self._server = self._cleanup.enter_context(self._terminal(last))
            self._rest_port = server[1]
            self._seen = 0
            assert shown is not None, f"the page does not show what {command!r} prints"
            self._expect_of_server(shown)
            return
        command = _FINDS_A_SERVER.sub(rf"\1 --rest_port {self._rest_port}", command)
        command = _CHOOSES_PORTS.sub(r"\1 --port 9000 --rest_port 8000", command)
        with self._terminal(f"set -e\n{command}") as terminal:
            code = terminal.exit_code(_ENDS_WITHIN_S)
            printed = self._as_in_readme(terminal.printed)
        is_refused = shown is not None and "ovms_mp: error: " in shown.text
        assert (code != 0) is is_refused, f"{command!r} ended with {code}:\n{printed}"
        if shown is not None:
            assert not (wrong := difference(shown, printed)), f"{command!r}: {wrong}"

    def _expect_of_server(self, block: Block) -> None:
        """Wait until the server has printed the block: at first nothing else, later anywhere below what was seen."""
        server = self._server
        assert server is not None, f"no server prints {block.text}"
        # "..." at the end waits for nothing.
        pattern = text_pattern(re.sub(r"(?:^\.\.\.\n)+\Z", "", block.text, flags=re.MULTILINE))

        def has_printed() -> bool:
            find = pattern.search if self._seen else pattern.match
            found = find(self._as_in_readme(server.read())[self._seen :])
            if found is None:
                return False
            self._seen += found.end()
            return True

        try:
            eventually(has_printed, _ENDS_WITHIN_S, "what the page shows")
        except AssertionError:
            printed = self._as_in_readme(server.printed)[self._seen :]
            pytest.fail(f"the page shows\n{block.text}\nand the server printed\n{printed}")

    def stop_server(self) -> None:
        """Press Ctrl-C, if one runs."""
        if self._server is not None:
            self._server.press_ctrl_c()
            assert self._server.exit_code(_ENDS_WITHIN_S) == 0, self._server.printed
            self._server = None

    def _terminal(self, command: str) -> Terminal:
        return Terminal(self._with_free_ports(command), self._home, self._environment)

    def _with_free_ports(self, text: str) -> str:
        for port, free in self._ports.items():
            text = re.sub(rf"\b{port}\b", free, text)
        return text

    def _as_in_readme(self, text: str) -> str:
        for port, free in self._ports.items():
            text = re.sub(rf"\b{free}\b", port, text)
        return text


def _environment(home: Path, python: Path | str) -> Mapping[str, str]:
    """That of this process, with ``ovms_mp`` being the one that is tested."""
    binaries = home / ".bin"
    binaries.mkdir()
    programs = {"python": python, "python3": python, "ovms_mp": f'{sys.executable}" -P -m "ovms_mp'}
    for name, program in programs.items():
        script = binaries / name
        script.write_text(f'#!/bin/sh\nexec "{program}" "$@"\n')
        script.chmod(0o755)
    return {
        **os.environ,
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
        "NO_PROXY": "127.0.0.1",
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "no_proxy": "127.0.0.1",
    }
