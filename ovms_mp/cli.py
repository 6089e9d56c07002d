# SPDX-License-Identifier: Apache-2.0
"""The command line: arguments, environment and configuration file become one frozen ServerConfig.

Two forms mean the same server. The sub-commands ``model`` and ``config`` have the defaults of the legacy
OpenVINO Model Server (gRPC on 9000, REST off); the flat form ``ovms_mp --model_name ... --port ...`` has
those of the modern one (a protocol without a port is off). The only place that reads the environment.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn

from ovms_mp import __version__
from ovms_mp.config import (
    SECTIONS,
    EngineConfig,
    GrpcConfig,
    RepositoryConfig,
    RestConfig,
    ServerConfig,
    SupervisionConfig,
    declared_settings,
)
from ovms_mp.engine_flags import checked_engine, make_cache_dir
from ovms_mp.errors import ConfigError, ExitCode
from ovms_mp.log import keep_standard_descriptors, printable, say
from ovms_mp.model_flags import add_file_flag, add_model_flags, read_models
from ovms_mp.places import absolute_path, module_command, module_environment, usable_cores
from ovms_mp.setting import SWITCH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DESCRIPTION = """\
Serve OpenVINO models over the TensorFlow Serving API, gRPC and REST.

commands:
  ovms_mp demo                               serve a handwritten-digits model and ask it something
  ovms_mp model --model_name N --model_path DIR [--port 9000] [--rest_port 8000] ...
  ovms_mp config --config_path FILE [--port 9000] [--rest_port 8000] ...
  ovms_mp config --check FILE                say what is wrong with a file, or what it means; serve nothing
  ovms_mp status [--rest_port 8000]          what a running server says of its models and workers
  ovms_mp devices [--model FILE]             what OpenVINO sees on this machine
  ovms_mp --model_name N --model_path DIR --port 9000 --rest_port 8000 ...    (flat form: as `model`)
  ovms_mp --config_path FILE --port 9000 ...                                  (flat form: as `config`)

A model lives in DIR/1/model.xml and DIR/1/model.bin, or as ONNX, TensorFlow, TensorFlow Lite or PaddlePaddle in DIR/1;
the highest version is served.
Flags go before environment variables, those before the defaults.
exit codes: 0 clean stop, 2 usage or configuration, 3 could not start, 70 internal; 128+N a second signal N.
"""

_LEGACY_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "_prepare_output_with_make_tensor_proto": "TENSOR_CONTENT",
        "_prepare_output_as_AppendArrayToTensorProto": "TYPED_FIELDS",
    }
)
"""Values of SERIALIZATION_FUNCTION in deployments of the legacy server."""

_IGNORED_VARIABLES = ("PLUGIN_DIR", "ENGINE_REQUESTS_QUEUE_SIZE", "ENGINE_REQUESTS_QUEUE_TIMEOUT")
"""Variables of the legacy server whose subject does not exist here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    keep_standard_descriptors()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given, MappingProxyType(dict(os.environ)))
    except ConfigError as error:
        say("\n".join(f"ovms_mp: error: {line}" for line in error.message.split("\n")))
        return ExitCode.USAGE
    except _EarlyExit as done:
        return done.code


def _run(arguments: list[str], environment: Mapping[str, str]) -> int:
    command = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    match command:
        case "":
            if not arguments:
                sys.stderr.write(_server_parser("").format_help())
                return ExitCode.USAGE
            return _serve(arguments, environment, "")
        case "model" | "config":
            return _serve(arguments[1:], environment, command)
        case "devices":
            return _devices(arguments[1:])
        case "status":
            return _status(arguments[1:])
        case "demo":
            return _demo(arguments[1:])
    raise ConfigError(
        f"unknown command {command!r}; accepted: model, config, demo, status, devices, or flags; see ovms_mp --help"
    )


@dataclass(frozen=True, slots=True)
class Effective:
    """A configuration and what its user should know about it."""

    config: ServerConfig
    notices: tuple[str, ...]


def _serve(arguments: Sequence[str], environment: Mapping[str, str], command: str) -> int:
    given = vars(_server_parser(command).parse_args(list(arguments)))
    check = given.pop("check", None)
    if check:
        if given["config_path"] is not None:
            raise ConfigError("--check FILE and --config_path FILE: name the file once")
        given["config_path"] = check
    effective = _effective_config(given, environment, command, is_check=check is not None)
    config = effective.config
    if check is not None and config.config_path is not None:
        from ovms_mp.config_check import explain

        text = explain(config.models, config.config_path, effective.notices)
        sys.stdout.write("".join(f"{printable(line)}\n" for line in text.split("\n")))
        return ExitCode.CLEAN
    make_cache_dir(config.engine.cache_dir)
    # Imported late: `--help` and usage errors need none of it.
    from ovms_mp.manager.main import run_server

    return run_server(config, effective.notices)


def effective_config(arguments: Sequence[str], environment: Mapping[str, str], command: str) -> Effective:
    """Build the configuration.

    Args:
        arguments: Flags, without the command.
        environment: Variables to read.
        command: ``model``, ``config``, or empty for the flat form.

    Raises:
        ConfigError: Naming the flag or variable, the value and what is accepted.
    """
    given = vars(_server_parser(command).parse_args(list(arguments)))
    given.pop("check", None)
    return _effective_config(given, environment, command)


def _effective_config(
    given: Mapping[str, str | None], environment: Mapping[str, str], command: str, *, is_check: bool = False
) -> Effective:
    notices = [
        f"{name} is set and has no effect: its subject does not exist here"
        for name in _IGNORED_VARIABLES
        if environment.get(name)
    ]
    sections = _read_settings(given, environment, notices)
    grpc = GrpcConfig(**sections.pop("grpc"))  # type: ignore[arg-type]  # types were made by Setting.parse
    rest = RestConfig(**sections.pop("rest"))  # type: ignore[arg-type]  # as above
    engine = EngineConfig(**sections.pop("engine"))  # type: ignore[arg-type]  # as above
    if not command and given["port"] is None:
        grpc = replace(grpc, port=0)
    _check_ports(grpc.port, rest.port)
    cores = len(usable_cores())
    grpc = replace(grpc, workers=_capped("grpc_workers", grpc.workers, cores, notices))
    rest = replace(rest, workers=_capped("rest_workers", rest.workers, cores, notices))
    engine = replace(engine, cpu_workers=_capped("cpu_workers", engine.cpu_workers, cores, notices))
    engine = checked_engine(engine, given, notices)
    others = {name: SECTIONS[name](**values) for name, values in sections.items()}
    supervision: SupervisionConfig = others["supervision"]
    _check_supervision(supervision)
    repository: RepositoryConfig = others["repository"]
    named = read_models(given, command, notices, is_strict=repository.is_strict, is_check=is_check)
    config = ServerConfig(
        models=named.models,
        refused=named.refused,
        config_path=named.config_path,
        grpc=grpc,
        rest=rest,
        engine=engine,
        **others,
    )
    return Effective(config, tuple(notices))


def _read_settings(
    given: Mapping[str, str | None], environment: Mapping[str, str], notices: list[str]
) -> dict[str, dict[str, object]]:
    """Values that differ from the defaults, by section and field."""
    sections: dict[str, dict[str, object]] = {name: {} for name in SECTIONS}
    for declared in declared_settings():
        setting = declared.setting
        text, source = given.get(setting.flag), f"--{setting.flag}"
        if text is None and setting.environment and environment.get(setting.environment):
            text, source = environment[setting.environment], setting.environment
            text = _LEGACY_WORDS.get(text, text)
            if setting.choices and text.upper() not in setting.choices:
                # The legacy server took any other LOG_LEVEL for the default, so deployments may carry one.
                notices.append(
                    f"{source}: {text!r} is unknown, {declared.default} is used; accepted: {setting.accepted()}"
                )
                continue
        if text is not None:
            sections[declared.section][declared.name] = setting.parse(text, declared.kind, source)
    return sections


def _check_ports(port: int, rest_port: int) -> None:
    if not port and not rest_port:
        raise ConfigError("port and rest_port cannot both be unset; give --port, --rest_port or both")
    if port == rest_port:
        raise ConfigError(f"port and rest_port cannot have the same values; both are {port}")


def _check_supervision(supervision: SupervisionConfig) -> None:
    if supervision.heartbeat_timeout_s < 2 * supervision.heartbeat_interval_s:
        raise ConfigError(
            f"--heartbeat_timeout_s {supervision.heartbeat_timeout_s:g} is too short; accepted: at least twice "
            f"--heartbeat_interval_s, which is {supervision.heartbeat_interval_s:g}"
        )
    if supervision.stuck_timeout_s < 3 * supervision.heartbeat_interval_s:
        raise ConfigError(
            f"--stuck_timeout_s {supervision.stuck_timeout_s:g} is too short; accepted: at least three times "
            f"--heartbeat_interval_s, which is {supervision.heartbeat_interval_s:g}"
        )


def _capped(flag: str, workers: int, cores: int, notices: list[str]) -> int:
    """Legacy deployments give thread counts here; as many processes would only fight for the cores."""
    if workers <= cores:
        return workers
    notices.append(
        f"--{flag} {workers} is lowered to {cores}, the cores that this process may use: each is a process"
    )
    return cores


def _devices(arguments: Sequence[str]) -> int:
    parser = _Parser(
        prog="ovms_mp devices",
        description="Show the devices that OpenVINO sees on this machine, and AUTO's choice.",
    )
    flags = {
        "model": "model file: show what each device would do with it",
        "target_device": "device string: show what OpenVINO makes of it, e.g. AUTO:GPU,CPU",
        "plugins_xml": "OpenVINO's plugins.xml that registers further devices",
        "cpu_extension": "shared library with custom operations for the CPU",
    }
    for flag, text in flags.items():
        parser.add_argument(f"--{flag}", help=text, metavar=flag.rpartition("_")[2].upper())
    given = vars(parser.parse_args(list(arguments)))
    for flag in ("model", "plugins_xml", "cpu_extension"):
        if given[flag]:
            given[flag] = str(absolute_path(given[flag], f"--{flag}"))
    passed_on = [word for flag in flags if given[flag] is not None for word in (f"--{flag}", given[flag])]
    # A process of its own: only the worker package may import openvino.
    command = module_command("ovms_mp.worker.devices", *passed_on)
    return subprocess.run(command, check=False, cwd="/", env=module_environment(os.environ)).returncode


def _status(arguments: Sequence[str]) -> int:
    parser = _Parser(
        prog="ovms_mp status",
        description="Show what a running server says of its workers, models and versions.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="where it runs (default 127.0.0.1)")
    parser.add_argument("--rest_port", default="8000", help="its REST port (default 8000)")
    given = parser.parse_args(list(arguments))
    settings = {entry.setting.flag: entry.setting for entry in declared_settings()}
    from ovms_mp.status_command import run_status

    return run_status(given.host, int(settings["rest_port"].parse(given.rest_port, int, "--rest_port")))


def _demo(arguments: Sequence[str]) -> int:
    parser = _Parser(
        prog="ovms_mp demo",
        description="Serve the packaged handwritten-digits model and send it a digit over both protocols. "
        "Flags that are not listed here go to the server, e.g. --log_level DEBUG.",
    )
    parser.add_argument("--port", default="9000", help="gRPC port, 0 for any free one (default 9000)")
    parser.add_argument("--rest_port", default="8000", help="REST port, 0 for any free one (default 8000)")
    parser.add_argument(
        "--once", action="store_true", help="stop after the check; exit 0 only if both answers are right"
    )
    known, others = parser.parse_known_args(list(arguments))
    ports = {entry.setting.flag: entry.setting for entry in declared_settings()}
    from ovms_mp.demo.command import run

    return run(
        int(ports["port"].parse(known.port, int, "--port")),
        int(ports["rest_port"].parse(known.rest_port, int, "--rest_port")),
        known.once,
        others,
        module_environment(os.environ),
    )


class _EarlyExit(Exception):
    """``--help`` or ``--version`` was answered."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are ours, and which never ends the process itself."""

    def error(self, message: str) -> NoReturn:
        """Report a usage error."""
        raise ConfigError(f"{message}; see {self.prog} --help")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Leave after ``--help`` or ``--version``."""
        if message:
            sys.stderr.write(message)
        raise _EarlyExit(status)


def _server_parser(command: str) -> _Parser:
    parser = _Parser(
        prog=f"ovms_mp {command}".strip(),
        description=_DESCRIPTION
        if not command
        else f"See ovms_mp --help for the commands. Serve by `{command}`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"ovms_mp {__version__} (OpenVINO {_openvino_version()})"
    )
    if command == "config":
        parser.add_argument(
            "--check",
            metavar="FILE",
            nargs="?",
            const="",
            help="Only say what is wrong with the file (exit code 2), or what it means and what would be served (0).",
        )
    if command != "model":
        add_file_flag(parser)
    if command != "config":
        add_model_flags(parser)
    _add_settings(parser, command)
    return parser


def _add_settings(parser: argparse.ArgumentParser, command: str) -> None:
    group = parser.add_argument_group("server")
    for declared in declared_settings():
        setting = declared.setting
        default = "0" if setting.flag == "port" and not command else declared.default_text
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
