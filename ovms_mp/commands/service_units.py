# SPDX-License-Identifier: Apache-2.0
"""The systemd units of a server, and the file of its arguments. ``deploy/systemd/`` has them with their defaults."""

from __future__ import annotations

from dataclasses import dataclass

SERVICE, SOCKET = "ovms_mp.service", "ovms_mp.socket"

_ARGUMENTS = "OVMS_MP_ARGUMENTS"

_SERVICE = """\
# ovms_mp as a service of {whom}. Written by: ovms_mp install-service{user_flag}
[Unit]
Description=Model server for OpenVINO (ovms_mp)
Documentation=man:systemd.service(5)
{after}
[Service]
Type=notify
# A file of NAME=VALUE lines; {arguments} are the server's flags.
EnvironmentFile={environment_file}
ExecStart={command} ${arguments}
ExecReload=/bin/kill -s HUP $MAINPID
# SIGTERM goes to the manager, which drains its processes; what is left after that is killed.
KillMode=mixed
# The server asks for more while models load and while requests end.
TimeoutStartSec=60
TimeoutStopSec=60
# A manager whose loop does not turn for so long is replaced.
WatchdogSec=30
Restart=on-failure
RestartSec=1
# Errors of usage; another start would not help.
RestartPreventExitStatus=2
# A worker that the kernel ends for want of memory is replaced by the manager; the others go on.
OOMPolicy=continue
LimitNOFILE=65536
TasksMax=8192
MemoryAccounting=yes
CPUAccounting=yes
{more}
[Install]
WantedBy={target}
"""

_SYSTEM = """\
# Versions are tried at idle priority, which this lets them leave again.
LimitNICE=+0

# It runs as a user of its own that exists only as long as it does, and can write only here.
DynamicUser=yes
StateDirectory=ovms_mp
CacheDirectory=ovms_mp
RuntimeDirectory=ovms_mp
WorkingDirectory=/var/lib/ovms_mp
# GPU and NPU. Systems without these groups: remove the line.
{groups}
DevicePolicy=closed
DeviceAllow=char-drm rw
DeviceAllow=char-accel rw
# Models below /home: BindReadOnlyPaths=/home/me/models:/srv/models
ProtectHome=yes
ProtectSystem=strict
ProtectProc=invisible
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
PrivateTmp=yes
PrivateUsers=yes
# Ports below 1024: use ovms_mp.socket, which opens them.
CapabilityBoundingSet=
NoNewPrivileges=yes
LockPersonality=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077
# MemoryDenyWriteExecute= is not possible: OpenVINO compiles models to machine code.
"""

_SOCKET = """\
# Ports of ovms_mp, kept open by {whom} while the server restarts: who connects meanwhile waits. Optional.
# The ports are those of --port and --rest_port in {environment_file}.
[Unit]
Description=Ports of the model server for OpenVINO (ovms_mp)

[Socket]
ListenStream={port}
ListenStream={rest_port}
Backlog=4096
NoDelay=yes

[Install]
WantedBy=sockets.target
"""

_ENVIRONMENT = """\
# Read by {service}. Flags: ovms_mp --help all. Every flag that has a variable may be set by it as well.
{arguments}="config --config_path {config_file} --port {port} --rest_port {rest_port}"
"""

CONFIGURATION = """\
{
  "model_config_list": []
}
"""
"""A server without models, to begin with."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a service's files are.

    Attributes:
        is_user: A service of one user instead of the machine's.
        command: The program, as an absolute path.
        unit_directory: Where units are looked for.
        environment_file: Path of the file of arguments.
        config_file: Path of the configuration file.
        port: Of gRPC.
        rest_port: Of REST.
        groups: Supplementary groups that exist and that devices need.
    """

    is_user: bool
    command: str
    unit_directory: str
    environment_file: str
    config_file: str
    port: int
    rest_port: int
    groups: tuple[str, ...]

    def service(self) -> str:
        """The text of the service unit."""
        groups = (
            f"SupplementaryGroups={' '.join(self.groups)}" if self.groups else "# SupplementaryGroups=render"
        )
        return _SERVICE.format(
            whom="this user" if self.is_user else "the machine",
            user_flag=" --user" if self.is_user else "",
            after="" if self.is_user else "Wants=network-online.target\nAfter=network-online.target\n",
            arguments=_ARGUMENTS,
            environment_file=self.environment_file,
            command=self.command,
            more="" if self.is_user else "\n" + _SYSTEM.format(groups=groups),
            target="default.target" if self.is_user else "multi-user.target",
        )

    def socket(self) -> str:
        """The text of the socket unit."""
        return _SOCKET.format(
            whom="the user's systemd" if self.is_user else "systemd",
            environment_file=self.environment_file,
            port=self.port,
            rest_port=self.rest_port,
        )

    def environment(self) -> str:
        """The text of the file of arguments."""
        return _ENVIRONMENT.format(
            service=SERVICE,
            arguments=_ARGUMENTS,
            config_file=self.config_file,
            port=self.port,
            rest_port=self.rest_port,
        )
