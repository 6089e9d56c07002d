# SPDX-License-Identifier: Apache-2.0
"""The flags of a server and their help, in the three forms of the command line: ``model``, ``config`` and flat."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from ovms_mp import __version__
from ovms_mp.config.argument_parser import Parser
from ovms_mp.config.declared import declared_settings
from ovms_mp.config.model_flags import add_file_flag, add_model_flags, flag_of
from ovms_mp.config.model_keys import MODEL_KEYS
from ovms_mp.config.ovms_flags import add_ovms_flags
from ovms_mp.config.setting import SWITCH
from ovms_mp.model.devices import OPENVINO_DEVICES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from ovms_mp.config.declared import DeclaredSetting

_PURPOSE = "Serve OpenVINO models over the TensorFlow Serving API and KServe v2, gRPC and REST.\n"
COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "demo": "serve a handwritten-digits model and send it a request",
        "model": "serve one model: --model_name NAME --model_path DIR",
        "config": "serve several models: --config_path FILE; or only check the file: --check FILE",
        "status": "show the models and workers of a running server; --watch: live",
        "models": "show the models of a running server with their inputs and outputs",
        "predict": "send a model one request: URL MODEL --input NAME=VALUE",
        "add": "add a model to a configuration file: PATH --model_name NAME",
        "remove": "remove a model from a configuration file: NAME",
        "bench": "measure how fast a running server answers: URL MODEL",
        "tune": "find the streams, workers and infer requests that suit a model",
        "fleet": "serve from several machines behind one address: up FILE, status, update FILE, down",
        "devices": "show the devices that OpenVINO finds on this machine",
        "install-service": "write systemd units for a server; nothing is started",
        "help": "show a page of the documentation",
        "completion": "print a script for bash, zsh or fish",
    }
)
"""What each command is for."""
_COMMANDS = "\n".join(
    (
        "commands:",
        *(f"  {name:16} {text}" for name, text in COMMANDS.items()),
        "Without a command, flags have the defaults of newer OVMS releases: a protocol without a port is off.",
        "",
    )
)
_USUAL_FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "model_name": "name that clients use",
        "model_path": "directory of the version directories 1/, 2/, ..., or one model file",
        "config_path": "JSON file with model_config_list; read again when it changes",
        "check": "check a configuration file and explain it; serve nothing",
        "port": "gRPC port, 0 for none",
        "rest_port": "REST port, 0 for none",
        "target_device": f"{', '.join(OPENVINO_DEVICES)}, AUTO, AUTO:GPU,CPU, ...",
        "cpu_workers": "number of inference worker processes for the CPU",
        "cache_dir": "directory to keep compiled models in, for faster starts",
    }
)
"""What ``--help`` says of the flags that most people need, in their order."""
_EXAMPLES = """\
examples:
  ovms_mp model --model_name resnet --model_path /models/resnet --rest_port 8000
  ovms_mp config --config_path /models/config.json --rest_port 8000
"""
_RULES = """\
Flags override environment variables, which override the defaults.
exit codes: 0 clean stop, 2 usage or configuration, 3 could not start, 70 internal; 128+N a second signal N.
"""


def server_parser(command: str) -> Parser:
    """The parser of one form of the command line.

    Args:
        command: ``model``, ``config``, or empty for the flat form.
    """
    prog = f"ovms_mp {command}".strip()
    description = "\n".join((_PURPOSE, *((_COMMANDS,) if not command else ()), _RULES))
    parser = Parser(prog=prog, description=description, usual=_usual_help(command, prog))
    parser.add_argument(
        "--version", action="version", version=f"ovms_mp {__version__} (OpenVINO {_openvino_version()})"
    )
    if command == "config":
        parser.add_argument(
            "--check",
            metavar="FILE",
            nargs="?",
            const="",
            help="Only check the file: print its errors (exit code 2), or what it means and what would be served (0).",
        )
    if command != "model":
        add_file_flag(parser)
    if command != "config":
        add_model_flags(parser)
    _add_settings(parser, command)
    add_ovms_flags(parser)
    return parser


def _usual_help(command: str, prog: str) -> str:
    """The help that fits a terminal."""
    defaults = {declared.setting.flag: _default_text(declared, command) for declared in declared_settings()}
    defaults |= {flag_of(key): declared.default for key, declared in MODEL_KEYS.items()}
    rows: list[tuple[str, str]] = []
    for flag, meaning in _USUAL_FLAGS.items():
        value = defaults.get(flag) or "FILE"
        if flag in ("model_name", "model_path", "cache_dir"):
            value = "NAME" if flag == "model_name" else "DIR"
        if (flag == "check" and command != "config") or (flag == "config_path" and command == "model"):
            continue
        if flag.startswith(("model_", "target_")) and command == "config":
            continue
        rows.append((f"--{flag} {value}", meaning))
    width = max(len(flag) for flag, _ in rows)
    blocks = (
        f"usage: {prog} {'FLAGS' if command else 'COMMAND FLAGS'}\n",
        _PURPOSE,
        *((_COMMANDS,) if not command else ()),
        "\n".join(
            ("usual flags, with their defaults:", *(f"  {flag:{width}}  {text}" for flag, text in rows), "")
        ),
        _EXAMPLES,
        f"{_RULES}All flags: {prog} --help all\n",
    )
    return "\n".join(blocks)


def _default_text(declared: DeclaredSetting, command: str) -> str:
    """The default in this form of the command line: the flat one starts no gRPC server without a port."""
    return "0" if declared.setting.flag == "port" and not command else declared.default_text


def _add_settings(parser: argparse.ArgumentParser, command: str) -> None:
    group = parser.add_argument_group("server")
    for declared in declared_settings():
        setting = declared.setting
        default = _default_text(declared, command)
        facts = f"default {default or 'none'}"
        if setting.choices or setting.low is not None:
            facts += f"; accepted {setting.accepted()}"
        if setting.environment:
            facts += f"; variable {setting.environment}"
        is_switch = setting.choices == SWITCH
        group.add_argument(
            f"--{setting.flag}",
            help=f"{setting.meaning} ({facts})".replace("%", "%%"),
            metavar=declared.kind.__name__.upper(),
            nargs="?" if is_switch else None,
            const="true" if is_switch else None,
        )


def _openvino_version() -> str:
    """Version of the installed package, without importing it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("openvino")
    except PackageNotFoundError:
        return "not installed"
