# SPDX-License-Identifier: Apache-2.0
"""Run a measurement of the server: ``python -m perf NAME``.

A command is a module with ``main(arguments) -> int``. Only the one that is asked for is imported, so that each needs
what it needs itself; the list takes the first lines of their docstrings from the files.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import signal
import sys
from types import MappingProxyType

from perf import CHECKOUT

_WAYS = MappingProxyType(
    {
        "perf.measurements": (
            "scenarios",
            "against",
            "bench",
            "big_load",
            "changes",
            "client_shm",
            "copies",
            "cpu_workers",
            "cycles",
            "shapes",
            "soak",
            "tls",
            "tune",
        ),
        "perf.fleet": ("fleet",),
        "perf.report": ("plot",),
    }
)
COMMANDS = MappingProxyType({name: f"{room}.{name}" for room, names in _WAYS.items() for name in names})
"""The module of each command."""


def command_list() -> str:
    """A line for each command: its name and what it does."""
    return "\n".join(f"  {name:12} {_first_line(module)}" for name, module in COMMANDS.items())


def _first_line(module: str) -> str:
    path = CHECKOUT.joinpath(*module.split(".")).with_suffix(".py")
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code is the command's."""
    parser = argparse.ArgumentParser(
        prog="python -m perf",
        usage="python -m perf NAME [OPTION ...]",
        description="Measure the server. Each command has --help; most have --quick, for a look.",
        epilog=f"commands:\n{command_list()}\n\nWhat was measured so far is in perf/RECORD.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=COMMANDS, metavar="NAME", help="the command")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="OPTION", help="options of the command")
    given = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    # `timeout` and a terminal's end must not leave servers behind: SIGTERM unwinds like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return int(importlib.import_module(COMMANDS[given.name]).main(given.options))


if __name__ == "__main__":
    sys.exit(main())
