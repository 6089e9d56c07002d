# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp status``: what a running server says of itself, for people; once, or once a second."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from ovms_mp.codes import ExitCode
from ovms_mp.commands.http_target import NoAnswer, read_trust
from ovms_mp.commands.printing import failed, show
from ovms_mp.commands.status_source import Source
from ovms_mp.commands.status_text import read_status, status_lines
from ovms_mp.commands.watch import watch
from ovms_mp.config.argument_parser import Parser
from ovms_mp.config.declared import declared_settings
from ovms_mp.config.target_flags import add_target_flags, read_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def status_parser() -> Parser:
    """The flags."""
    parser = Parser(
        prog="ovms_mp status",
        description="Show the workers, models and versions of a running server: what serves, what failed and why, "
        "and what each took. A server of this user on this machine is found automatically.",
        examples=(
            ("the server on this machine", "ovms_mp status"),
            ("once a second, on one screen", "ovms_mp status --watch"),
            ("one of several on this machine", "ovms_mp status --port 9001"),
            (
                "one elsewhere, by its REST port",
                "ovms_mp status --host 10.0.0.1 --rest_port 8000 --api_key @keys",
            ),
        ),
        closing="Exit codes: 0 shown, 2 usage, 3 nothing answers.",
    )
    parser.add_argument("--watch", action="store_true", help="show it once a second, until Ctrl-C")
    add_place_flags(parser)
    parser.add_argument("--json", action="store_true", help="print the status document as JSON")
    return parser


def add_place_flags(parser: Parser) -> None:
    """Declare what says which server is meant."""
    parser.add_argument(
        "--host", help="host of the server, if it is not this machine; requires its REST port"
    )
    parser.add_argument("--port", help="gRPC port of the server, to select one of several on this machine")
    parser.add_argument("--rest_port", help="REST port of the server (default with --host: 8000)")
    parser.add_argument("--rest_prefix", help="what the paths of a server elsewhere begin with, e.g. /models")
    add_target_flags(parser)


def read_source(given: Mapping[str, str | None], environment: Mapping[str, str]) -> Source:
    """What these flags say.

    Raises:
        ConfigError: One is wrong.
    """
    settings = {entry.setting.flag: entry.setting for entry in declared_settings()}
    ports: dict[str, int | None] = {}
    for flag in ("port", "rest_port"):
        text = given[flag]
        ports[flag] = None if text is None else int(settings[flag].parse(text, int, f"--{flag}"))
    return Source(
        host=given["host"],
        port=ports["port"],
        rest_port=ports["rest_port"],
        prefix=(given["rest_prefix"] or "").rstrip("/"),
        trust=read_trust(given),
        key=read_key(given, environment),
    )


def run_status(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Ask a server and print what it says; the exit code.

    Raises:
        ConfigError: A flag is wrong.
    """
    given = status_parser().read(arguments)
    source = read_source(given, environment)
    try:
        if given["watch"]:
            return watch(source, environment, as_json=given["json"])
        document = source.document()
        if given["json"]:
            show(document.decode().rstrip("\n").split("\n"), {"NO_COLOR": "1"})
        else:
            show(status_lines(read_status(document)), environment)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return failed(f"the answer is not a status document: {error}")
    except NoAnswer as error:
        return failed(str(error))
    sys.stdout.flush()
    return ExitCode.CLEAN
