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
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from ovms_mp.codes import ExitCode
from ovms_mp.config.access import AccessConfig, check_access
from ovms_mp.config.argument_parser import EarlyExit
from ovms_mp.config.declared import SECTIONS, declared_settings
from ovms_mp.config.engine_flags import checked_engine, make_cache_dir
from ovms_mp.config.listening import check_client_shm, check_listening, check_tls
from ovms_mp.config.metrics import metrics_of
from ovms_mp.config.model_flags import read_models
from ovms_mp.config.ovms_flags import is_edit, take_ovms_flags
from ovms_mp.config.server import EngineConfig, RepositoryConfig, ServerConfig, SupervisionConfig
from ovms_mp.config.server_parser import server_parser
from ovms_mp.config.store_dir import default_store_dir, make_store_dir
from ovms_mp.config.transports import GrpcConfig, RestConfig, UnixSocketConfig
from ovms_mp.errors import ConfigError
from ovms_mp.log import keep_standard_descriptors, say
from ovms_mp.log_forms import printable
from ovms_mp.places import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SIGNAL_BASE = 128
"""Added to a signal's number, as a shell has it."""
_SERVING = ("", "model", "config")
"""Forms of the command line that serve."""
_COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "demo": ("ovms_mp.commands.demo", "run_demo"),
        "status": ("ovms_mp.commands.status", "run_status"),
        "models": ("ovms_mp.commands.models", "run_models"),
        "predict": ("ovms_mp.commands.predict", "run_predict"),
        "add": ("ovms_mp.commands.edit", "run_add"),
        "remove": ("ovms_mp.commands.edit", "run_remove"),
        "bench": ("ovms_mp.bench.command", "run_bench"),
        "tune": ("ovms_mp.tuning.command", "run_tune"),
        "fleet": ("ovms_mp.commands.fleet", "run_fleet"),
        "devices": ("ovms_mp.commands.devices", "run_devices"),
        "install-service": ("ovms_mp.commands.install_service", "run_install_service"),
        "help": ("ovms_mp.commands.topics", "run_help"),
        "completion": ("ovms_mp.commands.completion", "run_completion"),
    }
)
"""The others: module and function, which is given the arguments and the environment."""
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
    sys.exit(_SIGNAL_BASE + number)


def _run(arguments: list[str], environment: Mapping[str, str]) -> int:
    command = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    if not arguments:
        sys.stderr.write(server_parser("").usual)
        return ExitCode.USAGE
    if command in _SERVING:
        return _serve(arguments[1:] if command else arguments, environment, command)
    if command not in _COMMANDS:
        known = ", ".join((*_SERVING[1:], *_COMMANDS))
        raise ConfigError(f"unknown command {command!r}; accepted: {known}, or flags; see ovms_mp --help")
    # Imported when they are needed: most take longer to import than to run.
    module, function = _COMMANDS[command]
    run: Callable[[Sequence[str], Mapping[str, str]], int] = getattr(import_module(module), function)
    try:
        code = run(arguments[1:], environment)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who read it has enough, e.g. `head`; nothing is to be written there at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), sys.stdout.fileno())
        return _SIGNAL_BASE + signal.SIGPIPE
    return code


@dataclass(frozen=True, slots=True)
class Effective:
    """A configuration and what its user should know about it."""

    config: ServerConfig
    notices: tuple[str, ...]


def _serve(arguments: Sequence[str], environment: Mapping[str, str], command: str) -> int:
    given = server_parser(command).read(arguments)
    if is_edit(given):
        from ovms_mp.commands.edit import run_as_ovms

        return run_as_ovms(given, environment)
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
