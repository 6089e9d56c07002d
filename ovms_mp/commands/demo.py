# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp demo``: its flags; what it does is in :mod:`ovms_mp.demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ovms_mp.codes import ExitCode
from ovms_mp.config.argument_parser import Parser
from ovms_mp.config.declared import declared_settings
from ovms_mp.config.target_flags import key_of_file
from ovms_mp.errors import ConfigError
from ovms_mp.log_forms import printable
from ovms_mp.places import absolute_path, module_environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def demo_parser() -> Parser:
    """The flags."""
    parser = Parser(
        prog="ovms_mp demo",
        description="Serve the packaged handwritten-digits model and send it a digit over both protocols. "
        "Flags that are not listed here go to the server, e.g. --log_level DEBUG.",
        examples=(
            ("see that everything works", "ovms_mp demo --once"),
            ("serve until Ctrl-C, to try clients and the live page with", "ovms_mp demo"),
            ("the model and requests for it, as files", "ovms_mp demo --export demo"),
        ),
        closing="Exit codes: 0 both answers were right, 2 usage, 3 the server could not start, 70 an answer was wrong.",
    )
    parser.add_argument("--port", default="9000", help="gRPC port; 0 selects a free one (default 9000)")
    parser.add_argument("--rest_port", default="8000", help="REST port; 0 selects a free one (default 8000)")
    parser.add_argument("--rest_prefix", metavar="PATH", help="what all REST paths begin with, e.g. /models")
    parser.add_argument(
        "--api_key_file", metavar="FILE", help="keys that the server asks for; the demo sends the first one"
    )
    parser.add_argument(
        "--once", action="store_true", help="stop after the check; exit 0 only if both answers are correct"
    )
    parser.add_argument(
        "--export",
        metavar="DIR",
        help="serve nothing; write the model to DIR/digits and a request for it to DIR/digit.json",
    )
    return parser


def run_demo(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Serve the model and ask for a digit, or write the model to a directory; the exit code.

    Raises:
        ConfigError: A flag is wrong.
    """
    known, others = demo_parser().read_known(arguments)
    if any(other.startswith("--tls_") for other in others):
        raise ConfigError(
            "the demo asks its server in plain text; for TLS use ovms_mp model, see ovms_mp --help all"
        )
    key = ""
    if known["api_key_file"]:
        key = key_of_file(known["api_key_file"], "--api_key_file")
        others += ["--api_key_file", known["api_key_file"]]
    if known["rest_prefix"]:
        others += ["--rest_prefix", known["rest_prefix"]]
    if known["export"] is not None:
        return _export(known["export"], others)
    ports = {entry.setting.flag: entry.setting for entry in declared_settings()}
    from ovms_mp.demo.check import Place
    from ovms_mp.demo.command import run

    place = Place(
        int(ports["port"].parse(known["port"], int, "--port")),
        int(ports["rest_port"].parse(known["rest_port"], int, "--rest_port")),
        known["rest_prefix"] or "",
        key,
    )
    return run(place, known["once"], others, module_environment(environment))


def _export(directory: str, others: Sequence[str]) -> int:
    if others:
        raise ConfigError(
            f"{others[0]!r} goes to the server, and --export starts none; see ovms_mp demo --help"
        )
    absolute_path(directory, "--export")
    from ovms_mp.demo.export import export

    for path in export(Path(directory)):
        sys.stdout.write(f"{printable(str(path))}\n")
    return ExitCode.CLEAN
