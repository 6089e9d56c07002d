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
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn

import msgspec

from ovms_mp import __version__
from ovms_mp.config import (
    MAX_NIREQ,
    MODEL_KEYS,
    NOT_YET_KEYS,
    SECTIONS,
    GrpcConfig,
    ModelConfig,
    RestConfig,
    ServerConfig,
    SupervisionConfig,
    declared_settings,
)
from ovms_mp.config_file import check_plugin_config, not_yet, parse_config_file
from ovms_mp.errors import ConfigError, ExitCode
from ovms_mp.model.versions import Latest, VersionPolicy, parse_policy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.config import PropertyValue

_DESCRIPTION = """\
Serve OpenVINO models over the TensorFlow Serving API, gRPC and REST.

commands:
  ovms_mp demo                               serve a handwritten-digits model and ask it something
  ovms_mp model --model_name N --model_path DIR [--port 9000] [--rest_port 8000] ...
  ovms_mp config --config_path FILE [--port 9000] [--rest_port 8000] ...
  ovms_mp devices                            what OpenVINO sees on this machine
  ovms_mp --model_name N --model_path DIR --port 9000 --rest_port 8000 ...    (flat form: as `model`)
  ovms_mp --config_path FILE --port 9000 ...                                  (flat form: as `config`)

A model lives in DIR/1/model.xml and DIR/1/model.bin, or DIR/1/model.onnx; the highest version is served.
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
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given, MappingProxyType(dict(os.environ)))
    except ConfigError as error:
        sys.stderr.write(f"ovms_mp: error: {error.message}\n")
        return ExitCode.USAGE
    except _EarlyExit as done:
        return done.code


def _run(arguments: list[str], environment: Mapping[str, str]) -> int:
    command = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    match command:
        case "":
            if not arguments:
                sys.stderr.write(_help_parser().format_help())
                return ExitCode.USAGE
            return _serve(arguments, environment, "")
        case "model" | "config":
            return _serve(arguments[1:], environment, command)
        case "devices":
            return _devices(arguments[1:])
        case "demo":
            return _demo(arguments[1:])
    raise ConfigError(
        f"unknown command {command!r}; accepted: model, config, demo, devices, or flags; see ovms_mp --help"
    )


@dataclass(frozen=True, slots=True)
class Effective:
    """A configuration and what its user should know about it."""

    config: ServerConfig
    notices: tuple[str, ...]


def _serve(arguments: Sequence[str], environment: Mapping[str, str], command: str) -> int:
    effective = effective_config(arguments, environment, command)
    # Imported late: `--help` and usage errors need none of it.
    from ovms_mp.manager.main import run_server

    return run_server(effective.config, effective.notices)


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
    notices = [
        f"{name} is set and has no effect: its subject does not exist here"
        for name in _IGNORED_VARIABLES
        if environment.get(name)
    ]
    sections = _read_settings(given, environment, notices)
    grpc = GrpcConfig(**sections.pop("grpc"))  # type: ignore[arg-type]  # types were made by Setting.parse
    rest = RestConfig(**sections.pop("rest"))  # type: ignore[arg-type]  # as above
    if not command and given["port"] is None:
        grpc = replace(grpc, port=0)
    if not grpc.port and not rest.port:
        raise ConfigError("port and rest_port cannot both be unset; give --port, --rest_port or both")
    if grpc.port == rest.port:
        raise ConfigError(f"port and rest_port cannot have the same values; both are {grpc.port}")
    cores = len(os.sched_getaffinity(0))
    grpc = replace(grpc, workers=_capped("grpc_workers", grpc.workers, cores, notices))
    rest = replace(rest, workers=_capped("rest_workers", rest.workers, cores, notices))
    others = {name: SECTIONS[name](**values) for name, values in sections.items()}
    supervision: SupervisionConfig = others["supervision"]
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
    models, is_single_model = _read_models(given, command, notices)
    config = ServerConfig(models=models, is_single_model=is_single_model, grpc=grpc, rest=rest, **others)
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


def _capped(flag: str, workers: int, cores: int, notices: list[str]) -> int:
    """Legacy deployments give thread counts here; as many processes would only fight for the cores."""
    if workers <= cores:
        return workers
    notices.append(
        f"--{flag} {workers} is lowered to {cores}, the cores that this process may use: each is a process"
    )
    return cores


def _read_models(
    given: Mapping[str, str | None], command: str, notices: list[str]
) -> tuple[tuple[ModelConfig, ...], bool]:
    """The models, and whether there is one by flags."""
    single_flags = [name for name in (*_MODEL_FLAGS, *NOT_YET_KEYS) if given.get(name) is not None]
    path = given.get("config_path")
    if path is not None and single_flags:
        raise ConfigError(
            f"Model parameters in CLI are exclusive with the config file; --{single_flags[0]} belongs into {path}"
        )
    if path is not None:
        models, warnings = parse_config_file(Path(path))
        notices.extend(warnings)
        return models, False
    for name in NOT_YET_KEYS:
        if given.get(name) is not None:
            raise not_yet(f"--{name}", given[name])
    missing = [name for name in ("model_name", "model_path") if not given.get(name)]
    if missing:
        if command == "config":
            raise ConfigError("--config_path is missing; give the JSON file with model_config_list")
        alternative = "" if command == "model" else ", or --config_path FILE"
        raise ConfigError(f"--{missing[0]} is missing; give --model_name and --model_path{alternative}")
    return (_single_model(given),), True


def _single_model(given: Mapping[str, str | None]) -> ModelConfig:
    nireq_text = given.get("nireq")
    nireq = 0
    if nireq_text is not None:
        if not nireq_text.isdecimal() or int(nireq_text) > MAX_NIREQ:
            raise ConfigError(f"--nireq: {nireq_text!r} is not valid; accepted: 0 (automatic) to {MAX_NIREQ}")
        nireq = int(nireq_text)
    policy: VersionPolicy = Latest()
    if given.get("model_version_policy"):
        document = _json_flag(given, "model_version_policy")
        try:
            policy = parse_policy(document)
        except ConfigError as error:
            raise ConfigError(f"--model_version_policy: {error.message}") from None
    plugin_config: Mapping[str, PropertyValue] = MappingProxyType({})
    if given.get("plugin_config"):
        plugin_config = check_plugin_config(_json_flag(given, "plugin_config"), "--plugin_config")
    return ModelConfig(
        name=str(given["model_name"]),
        base_path=Path(str(given["model_path"])).absolute(),
        nireq=nireq,
        target_device=given.get("target_device") or "CPU",
        plugin_config=plugin_config,
        version_policy=policy,
    )


def _json_flag(given: Mapping[str, str | None], name: str) -> object:
    try:
        document: object = msgspec.json.decode(str(given[name]))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ConfigError(f"--{name}: {given[name]!r} is not JSON: {error}") from None
    return document


def _devices(arguments: Sequence[str]) -> int:
    parser = _Parser(
        prog="ovms_mp devices", description="Show the devices that OpenVINO sees on this machine."
    )
    parser.parse_args(list(arguments))
    # A process of its own: only the worker package may import openvino.
    return subprocess.run([sys.executable, "-m", "ovms_mp.worker.devices"], check=False).returncode


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
    )


_MODEL_FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "model_name": MODEL_KEYS["name"],
        "model_path": "Directory of the version directories 1/, 2/, ...",
        **{key: text for key, text in MODEL_KEYS.items() if key not in ("name", "base_path")},
    }
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


def _help_parser() -> _Parser:
    return _server_parser("")


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
    if command != "model":
        group = parser.add_argument_group("several models")
        group.add_argument("--config_path", metavar="FILE", help="JSON file with model_config_list.")
    if command != "config":
        group = parser.add_argument_group("one model")
        for flag, meaning in _MODEL_FLAGS.items():
            group.add_argument(f"--{flag}", help=_escaped(meaning), metavar=flag.rpartition("_")[2].upper())
        for flag in NOT_YET_KEYS:
            group.add_argument(f"--{flag}", help=argparse.SUPPRESS)
    group = parser.add_argument_group("server")
    for declared in declared_settings():
        setting = declared.setting
        default = declared.default
        if setting.flag == "port" and not command:
            default = 0
        facts = f"default {default}" if default != "" else "default none"
        if setting.choices or setting.low is not None:
            facts += f"; accepted {setting.accepted()}"
        if setting.environment:
            facts += f"; variable {setting.environment}"
        group.add_argument(
            f"--{setting.flag}",
            help=_escaped(f"{setting.meaning} ({facts})"),
            metavar=declared.kind.__name__.upper(),
        )
    return parser


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _openvino_version() -> str:
    """Version of the installed package, without importing it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("openvino")
    except PackageNotFoundError:
        return "not installed"
