# SPDX-License-Identifier: Apache-2.0
"""The command line: arguments, environment and configuration file become one frozen ServerConfig.

Two forms mean the same server. The sub-commands ``model`` and ``config`` have the defaults of the legacy
OpenVINO Model Server (gRPC on 9000, REST off); the flat form ``ovms_mp --model_name ... --port ...`` has
those of the modern one (a protocol without a port is off). The only place that reads the environment.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from ovms_mp.codes import ExitCode
from ovms_mp.config.access import AccessConfig, check_access
from ovms_mp.config.argument_parser import EarlyExit, Parser
from ovms_mp.config.declared import SECTIONS, declared_settings
from ovms_mp.config.engine_flags import checked_engine, make_cache_dir
from ovms_mp.config.listening import check_client_shm, check_listening, check_ports, check_tls
from ovms_mp.config.metrics import metrics_of
from ovms_mp.config.model_flags import read_models
from ovms_mp.config.ovms_flags import take_ovms_flags
from ovms_mp.config.server import EngineConfig, RepositoryConfig, ServerConfig, SupervisionConfig
from ovms_mp.config.server_parser import server_parser
from ovms_mp.config.store_dir import default_store_dir, make_store_dir
from ovms_mp.config.transports import GrpcConfig, RestConfig, UnixSocketConfig
from ovms_mp.errors import ConfigError
from ovms_mp.log import keep_standard_descriptors, say
from ovms_mp.log_forms import printable
from ovms_mp.places import absolute_path, module_environment, usable_cores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_IGNORED_VARIABLES = ("PLUGIN_DIR", "ENGINE_REQUESTS_QUEUE_SIZE", "ENGINE_REQUESTS_QUEUE_TIMEOUT")
"""Variables of the legacy server whose subject does not exist here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    keep_standard_descriptors()
    if os.getpid() == 1:
        # The kernel keeps from process 1, as it is in a container, all signals that it has no handler for. The server
        # takes this one later.
        signal.signal(signal.SIGTERM, _end)
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given, MappingProxyType(dict(os.environ)))
    except ConfigError as error:
        say("\n".join(f"ovms_mp: error: {line}" for line in error.message.split("\n")))
        return ExitCode.USAGE
    except EarlyExit as done:
        return done.code


def _end(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def _run(arguments: list[str], environment: Mapping[str, str]) -> int:
    command = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    match command:
        case "":
            if not arguments:
                sys.stderr.write(server_parser("").usual)
                return ExitCode.USAGE
            return _serve(arguments, environment, "")
        case "model" | "config":
            return _serve(arguments[1:], environment, command)
        case "devices":
            from ovms_mp.commands.devices import run_devices

            return run_devices(arguments[1:], environment)
        case "status":
            return _status(arguments[1:])
        case "demo":
            return _demo(arguments[1:])
        case "install-service":
            return _install_service(arguments[1:], environment)
    raise ConfigError(
        f"unknown command {command!r}; accepted: model, config, demo, status, devices, install-service, or "
        "flags; see ovms_mp --help"
    )


@dataclass(frozen=True, slots=True)
class Effective:
    """A configuration and what its user should know about it."""

    config: ServerConfig
    notices: tuple[str, ...]


def _serve(arguments: Sequence[str], environment: Mapping[str, str], command: str) -> int:
    given = server_parser(command).read(arguments)
    check = given.pop("check", None)
    if check:
        if given["config_path"] is not None:
            raise ConfigError("--check FILE and --config_path FILE: name the file once")
        given["config_path"] = check
    effective = _effective_config(given, environment, command, is_check=check is not None)
    config = effective.config
    notices = (*effective.notices, *check_tls(config.tls, config.grpc, config.rest))
    if check is not None and config.config_path is not None:
        from ovms_mp.commands.config_check import explain

        text = explain(config.models, config.config_path, notices)
        sys.stdout.write("".join(f"{printable(line)}\n" for line in text.split("\n")))
        return ExitCode.CLEAN
    make_cache_dir(config.engine.cache_dir)
    if config.config_store or any(model.store for model in config.models):
        make_store_dir(config.repository.store_dir)
    # Imported late: `--help` and usage errors need none of it.
    from ovms_mp.manager.main import run_server

    return run_server(config, notices, os.environ)


def effective_config(arguments: Sequence[str], environment: Mapping[str, str], command: str) -> Effective:
    """Build the configuration.

    Args:
        arguments: Flags, without the command.
        environment: Variables to read.
        command: ``model``, ``config``, or empty for the flat form.

    Raises:
        ConfigError: Naming the flag or variable, the value and what is accepted.
    """
    given = server_parser(command).read(arguments)
    given.pop("check", None)
    return _effective_config(given, environment, command)


def _effective_config(
    given: Mapping[str, str | None], environment: Mapping[str, str], command: str, *, is_check: bool = False
) -> Effective:
    notices: list[str] = []
    take_ovms_flags(given, notices)
    notices += [
        f"{name} is set and has no effect: this server has no such setting"
        for name in _IGNORED_VARIABLES
        if environment.get(name)
    ]
    sections = _read_settings(given, environment, notices)
    grpc = GrpcConfig(**sections.pop("grpc"))  # type: ignore[arg-type]  # types were made by Setting.parse
    rest = RestConfig(**sections.pop("rest"))  # type: ignore[arg-type]  # as above
    engine = EngineConfig(**sections.pop("engine"))  # type: ignore[arg-type]  # as above
    if not command and given["port"] is None:
        grpc = replace(grpc, port=0)
    unix = UnixSocketConfig(**sections.pop("unix"))  # type: ignore[arg-type]  # as above
    check_listening(grpc, rest, unix)
    access = AccessConfig(**sections.pop("access"))  # type: ignore[arg-type]  # as above
    notices += check_access(access, rest.prefix, has_rest=rest.is_served)
    cores = len(usable_cores())
    grpc = replace(grpc, workers=_capped("grpc_workers", grpc.workers, cores, notices))
    rest = replace(rest, workers=_capped("rest_workers", rest.workers, cores, notices))
    engine = replace(engine, cpu_workers=_capped("cpu_workers", engine.cpu_workers, cores, notices))
    engine = checked_engine(engine, given, notices)
    are_metrics_given = bool(sections["metrics"])
    others = {name: SECTIONS[name](**values) for name, values in sections.items()}
    check_client_shm(others["clients"])
    supervision: SupervisionConfig = others["supervision"]
    _check_supervision(supervision)
    repository: RepositoryConfig = others["repository"]
    if not repository.store_dir:
        repository = others["repository"] = replace(repository, store_dir=default_store_dir(environment))
    named = read_models(
        given,
        command,
        notices,
        is_strict=repository.is_strict,
        store_dir=repository.store_dir,
        is_check=is_check,
    )
    others["metrics"] = metrics_of(
        others["metrics"], named.metrics, is_given=are_metrics_given, has_rest=is_check or rest.is_served
    )
    config = ServerConfig(
        models=named.models,
        refused=named.refused,
        config_path=named.config_path,
        config_store=named.config_store,
        grpc=grpc,
        rest=rest,
        unix=unix,
        access=access,
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
            if setting.choices and setting.choice(text) is None:
                # The legacy server took any other LOG_LEVEL for the default, so deployments may carry one.
                notices.append(
                    f"{source}: {text!r} is unknown, {declared.default} is used; accepted: {setting.accepted()}"
                )
                continue
        if text is not None:
            sections[declared.section][declared.name] = setting.parse(text, declared.kind, source)
    return sections


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


def _status(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="ovms_mp status",
        description="Show the workers, models and versions of a running server. A server of this user on this "
        "machine is found automatically.",
    )
    parser.add_argument(
        "--host", help="host of the server, if it is not this machine; requires its REST port"
    )
    parser.add_argument("--port", help="gRPC port of the server, to select one of several on this machine")
    parser.add_argument("--rest_port", help="REST port of the server (default with --host: 8000)")
    parser.add_argument("--tls_ca", help="certificate of the authority of a server elsewhere that speaks TLS")
    parser.add_argument("--tls_cert", help="certificate for a server that asks for one; requires --tls_ca")
    parser.add_argument("--tls_key", help="private key of --tls_cert")
    parser.add_argument("--json", action="store_true", help="print the status document as JSON")
    given = parser.read(arguments)
    settings = {entry.setting.flag: entry.setting for entry in declared_settings()}
    ports = {
        flag: None if given[flag] is None else int(settings[flag].parse(given[flag], int, f"--{flag}"))
        for flag in ("port", "rest_port")
    }
    from ovms_mp.commands.status import StatusTls, run_status

    ca, cert, key = (given[name] or "" for name in ("tls_ca", "tls_cert", "tls_key"))
    if (cert or key) and not ca:
        raise ConfigError("--tls_cert and --tls_key need --tls_ca, by which the server is trusted")
    tls = StatusTls(ca, cert, key) if ca else None
    return run_status(given["host"], ports["port"], ports["rest_port"], tls, as_json=given["json"])


def _demo(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="ovms_mp demo",
        description="Serve the packaged handwritten-digits model and send it a digit over both protocols. "
        "Flags that are not listed here go to the server, e.g. --log_level DEBUG.",
    )
    parser.add_argument("--port", default="9000", help="gRPC port; 0 selects a free one (default 9000)")
    parser.add_argument("--rest_port", default="8000", help="REST port; 0 selects a free one (default 8000)")
    parser.add_argument(
        "--once", action="store_true", help="stop after the check; exit 0 only if both answers are correct"
    )
    parser.add_argument(
        "--export",
        metavar="DIR",
        help="serve nothing; write the model to DIR/digits and a request for it to DIR/digit.json",
    )
    known, others = parser.read_known(arguments)
    if any(other.startswith("--tls_") for other in others):
        raise ConfigError(
            "the demo asks its server in plain text; for TLS use ovms_mp model, see ovms_mp --help all"
        )
    if known["export"] is not None:
        return _export_demo(known["export"], others)
    ports = {entry.setting.flag: entry.setting for entry in declared_settings()}
    from ovms_mp.demo.command import run

    return run(
        int(ports["port"].parse(known["port"], int, "--port")),
        int(ports["rest_port"].parse(known["rest_port"], int, "--rest_port")),
        known["once"],
        others,
        module_environment(os.environ),
    )


def _install_service(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    parser = Parser(
        prog="ovms_mp install-service",
        description="Write systemd units for a server on this machine, and the files of its settings where there are "
        "none. Nothing is started.",
    )
    parser.add_argument("--dry_run", action="store_true", help="write nothing; print the files")
    parser.add_argument("--user", action="store_true", help="a service of this user instead of the machine's")
    parser.add_argument("--port", default="9000", help="gRPC port (default 9000)")
    parser.add_argument("--rest_port", default="8000", help="REST port (default 8000)")
    given = parser.read(arguments)
    settings = {entry.setting.flag: entry.setting for entry in declared_settings()}
    port, rest_port = (
        int(settings[flag].parse(given[flag], int, f"--{flag}")) for flag in ("port", "rest_port")
    )
    check_ports(port, rest_port)
    from ovms_mp.commands import install_service

    command = install_service.installed_command()
    if given["user"]:
        layout = install_service.user_layout(command, port, rest_port, environment)
    else:
        layout = install_service.default_layout(command, port, rest_port, install_service.device_groups())
    return install_service.install(layout, is_dry_run=given["dry_run"])


def _export_demo(directory: str, others: Sequence[str]) -> int:
    if others:
        raise ConfigError(
            f"{others[0]!r} goes to the server, and --export starts none; see ovms_mp demo --help"
        )
    absolute_path(directory, "--export")
    from ovms_mp.demo.export import export

    for path in export(Path(directory)):
        sys.stdout.write(f"{printable(str(path))}\n")
    return ExitCode.CLEAN
