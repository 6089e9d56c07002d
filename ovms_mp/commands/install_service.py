# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp install-service``: write the systemd units of a server, or show them."""

from __future__ import annotations

import grp
import shutil
import sys
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from ovms_mp.codes import ExitCode
from ovms_mp.commands.service_units import CONFIGURATION, SERVICE, SOCKET, Layout
from ovms_mp.config.argument_parser import Parser
from ovms_mp.config.declared import declared_settings
from ovms_mp.config.listening import check_ports
from ovms_mp.errors import ConfigError
from ovms_mp.log import say
from ovms_mp.log_forms import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_PROGRAM = "ovms_mp"
_DEVICE_GROUPS = ("render", "video")
_HIDDEN: Mapping[str, str] = MappingProxyType(
    {
        "/home": "ProtectHome=yes",
        "/root": "ProtectHome=yes",
        "/run/user": "ProtectHome=yes",
        "/tmp": "PrivateTmp=yes",  # noqa: S108  # named, not used
        "/var/tmp": "PrivateTmp=yes",  # noqa: S108  # as above
    }
)
"""What the machine's unit hides, and by what."""


def install_service_parser() -> Parser:
    """The flags."""
    parser = Parser(
        prog="ovms_mp install-service",
        description="Write systemd units for a server on this machine, and the files of its settings where there are "
        "none. Nothing is started. `ovms_mp help systemd` is the page about it.",
        examples=(
            ("what would be written", "ovms_mp install-service --dry-run"),
            ("a service of the machine, as root", "ovms_mp install-service --port 9000 --rest_port 8000"),
            ("one of your own", "ovms_mp install-service --user"),
        ),
        closing="Exit codes: 0 written, 2 usage, or a file cannot be written.",
    )
    parser.add_argument("--dry_run", action="store_true", help="write nothing; print the files")
    parser.add_argument("--user", action="store_true", help="a service of this user instead of the machine's")
    parser.add_argument("--port", default="9000", help="gRPC port (default 9000)")
    parser.add_argument("--rest_port", default="8000", help="REST port (default 8000)")
    return parser


def run_install_service(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Write the files of a service; the exit code.

    Raises:
        ConfigError: A flag is wrong, or a file cannot be written.
    """
    given = install_service_parser().read(arguments)
    settings = {entry.setting.flag: entry.setting for entry in declared_settings()}
    port, rest_port = (
        int(settings[flag].parse(given[flag], int, f"--{flag}")) for flag in ("port", "rest_port")
    )
    check_ports(port, rest_port)
    command = installed_command()
    if given["user"]:
        return install(user_layout(command, port, rest_port, environment), is_dry_run=given["dry_run"])
    code = install(default_layout(command, port, rest_port, device_groups()), is_dry_run=given["dry_run"])
    if hidden := hidden_text((Path(command), Path(sys.executable).resolve(), Path(__file__))):
        sys.stdout.flush()
        say(printable(f"ovms_mp: warning: {hidden}"))
    return code


def hidden_text(places: Iterable[Path]) -> str:
    """Why the machine's service would not start from these places; empty where it can see them all."""
    for place in places:
        for hidden, setting in _HIDDEN.items():
            if place.is_relative_to(hidden):
                return (
                    f"the service cannot see {place}, as it has {setting}; install ovms_mp with a Python that lies "
                    "elsewhere, e.g. /usr/bin/python3 -m venv /opt/ovms_mp, and run this again from there"
                )
    return ""


def default_layout(command: str, port: int, rest_port: int, groups: tuple[str, ...]) -> Layout:
    """The machine's own service."""
    return Layout(
        is_user=False,
        command=command,
        unit_directory="/etc/systemd/system",
        environment_file="/etc/ovms_mp/environment",
        config_file="/etc/ovms_mp/config.json",
        port=port,
        rest_port=rest_port,
        groups=groups,
    )


def user_layout(command: str, port: int, rest_port: int, environment: Mapping[str, str]) -> Layout:
    """A service of the user who asks."""
    home = environment.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Layout(
        is_user=True,
        command=command,
        unit_directory=f"{home}/systemd/user",
        environment_file=f"{home}/ovms_mp/environment",
        config_file=f"{home}/ovms_mp/config.json",
        port=port,
        rest_port=rest_port,
        groups=(),
    )


def install(layout: Layout, *, is_dry_run: bool) -> int:
    """Write the files, or print them; what to do next goes to stdout. Files of settings that exist are kept.

    Raises:
        ConfigError: A file cannot be written.
    """
    units = Path(layout.unit_directory)
    files = {
        units / SERVICE: (layout.service(), False),
        units / SOCKET: (layout.socket(), False),
        Path(layout.environment_file): (layout.environment(), True),
        Path(layout.config_file): (CONFIGURATION, True),
    }
    if is_dry_run:
        for path, (text, _) in files.items():
            _print(f"# {path}\n{text}")
        return ExitCode.CLEAN
    for path, (text, is_kept) in files.items():
        if is_kept and path.exists():
            _print(f"kept     {path}")
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            # Variables with credentials belong into the environment; systemd reads it with its own rights.
            path.chmod(0o600 if path == Path(layout.environment_file) else 0o644)
        except OSError as error:
            remedy = "" if layout.is_user else "; run it as root, or give --user for a service of your own"
            raise ConfigError(f"cannot write {path}: {error.strerror}{remedy}") from None
        _print(f"written  {path}")
    control = "systemctl --user" if layout.is_user else "systemctl"
    _print(
        f"Put your models into {layout.config_file}, then:\n"
        f"  {control} daemon-reload\n"
        f"  {control} enable --now {SOCKET} {SERVICE}\n"
        f"  {control} status {SERVICE}"
    )
    if layout.is_user:
        _print("  loginctl enable-linger   # to have it run while you are not logged in")
    return ExitCode.CLEAN


def device_groups() -> tuple[str, ...]:
    """Groups of this machine whose members may use GPU and NPU."""
    known = {group.gr_name for group in grp.getgrall()}
    return tuple(name for name in _DEVICE_GROUPS if name in known)


def installed_command() -> str:
    """The absolute path of this program.

    Raises:
        ConfigError: It is not installed.
    """
    beside = Path(sys.executable).parent / _PROGRAM
    found = str(beside) if beside.exists() else shutil.which(_PROGRAM)
    if not found:
        raise ConfigError(f"no program {_PROGRAM} beside {sys.executable} or on PATH; install it with pip")
    return str(Path(found).absolute())


def _print(text: str) -> None:
    sys.stdout.write("".join(f"{printable(line)}\n" for line in text.rstrip("\n").split("\n")))
