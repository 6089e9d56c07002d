# SPDX-License-Identifier: Apache-2.0
"""A fleet's file: TOML that says what the fleet is to be.

A model has the keys of a server's configuration file, ``copies`` and ``memory_mb``. Sections ``scaling``, ``update``
and ``deadlines`` have the fields of :mod:`ovms_mp.fleet.decisions.specification`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from ovms_mp.config.model_keys import MODEL_KEYS
from ovms_mp.config.server_parser import server_parser
from ovms_mp.errors import ConfigError
from ovms_mp.fleet.decisions.specification import (
    Deadlines,
    FleetSpec,
    ModelSpec,
    ScalingRule,
    ServerSpec,
    UpdateRule,
)
from ovms_mp.fleet.haproxy import Entry
from ovms_mp.fleet.reports import ServerSettings, plain

RuleT = TypeVar("RuleT")

_OURS = (
    "port",
    "rest_port",
    "grpc_bind_address",
    "rest_bind_address",
    "rest_prefix",
    "config_path",
    "store_dir",
    "fleet_file",
)
_OURS_TOO = ("tls_cert", "tls_key", "tls_client_ca", "api_key_file", "stop_notice_s", "stop_grace_s")
_MEBIBYTE = 1 << 20
_Count = Annotated[int, msgspec.Meta(ge=1)]


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8000
    address: str = ""
    machines: Literal["head", "all"] = "head"
    longest_wait_s: Annotated[float, msgspec.Meta(ge=1)] = 310.0
    again_kb: Annotated[int, msgspec.Meta(ge=16, le=16384)] = 64


class _Servers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    min: _Count = 1
    max: Annotated[int, msgspec.Meta(ge=0, le=500)] = 0
    cores: _Count = 1
    resources: dict[str, float] = {}
    flags: tuple[str, ...] = ()
    directory: str = ""
    memory_mb: Annotated[int, msgspec.Meta(ge=0)] = 0


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]{1,32}$")] = "fleet"
    entry: _Entry = _Entry()
    servers: _Servers = _Servers()
    scaling: dict[str, Any] = {}
    update: dict[str, Any] = {}
    deadlines: dict[str, Any] = {}
    models: Annotated[tuple[dict[str, Any], ...], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What a file says.

    Attributes:
        name: By which Ray knows it.
        has_many_entries: Whether every machine has the address, or the head only.
    """

    name: str
    entry: Entry
    has_many_entries: bool
    specification: FleetSpec


def read_fleet(text: str, directory: Path) -> Fleet:
    """Read a file's text.

    Args:
        text: TOML.
        directory: Where relative paths of models start.

    Raises:
        ConfigError: Naming what is wrong.
    """
    try:
        given = msgspec.convert(tomllib.loads(text), _File)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(str(error)) from None
    deadlines = _rule(Deadlines, given.deadlines, "deadlines")
    update = _rule(UpdateRule, given.update, "update")
    models = tuple(_model(entry, directory) for entry in given.models)
    if len({model.name for model in models}) < len(models):
        raise ConfigError("models: two have the same name")
    servers = given.servers
    most = servers.max or servers.min
    if most < servers.min:
        raise ConfigError(f"servers: max {servers.max} is less than min {servers.min}")
    settings = ServerSettings(
        flags=_flags(servers.flags),
        cores=servers.cores,
        resources=servers.resources,
        directory=str(directory / servers.directory) if servers.directory else "",
        drain_s=deadlines.drain_s,
    )
    text_of_settings = json.dumps(plain(settings), sort_keys=True)
    revisions = [model.revision for model in models] if update.is_consistent else []
    server = ServerSpec(
        revision=_digest(text_of_settings, *revisions),
        settings=text_of_settings,
        memory_bytes=servers.memory_mb * _MEBIBYTE,
    )
    return Fleet(
        name=given.name,
        entry=Entry(
            port=given.entry.port,
            address=given.entry.address,
            # A consistent update has all servers twice, and those that end are there for a while.
            slots=2 * (most + update.surge) + 2,
            longest_wait_s=given.entry.longest_wait_s,
            again_kb=given.entry.again_kb,
            drain_s=deadlines.drain_s,
        ),
        has_many_entries=given.entry.machines == "all",
        specification=FleetSpec(
            models=models,
            server=server,
            servers_min=servers.min,
            servers_max=most,
            scaling=_rule(ScalingRule, given.scaling, "scaling"),
            update=update,
            deadlines=deadlines,
        ),
    )


def _rule(kind: type[RuleT], given: dict[str, Any], section: str) -> RuleT:
    """A section as a dataclass, all of whose fields have bounds: none is negative."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]  # each is a dataclass
    for name, value in given.items():
        if name not in names:
            raise ConfigError(f"{section}: {name} is unknown; accepted: {', '.join(names)}")
        if isinstance(value, (int, float)) and value < 0:
            raise ConfigError(f"{section}: {name} {value} is negative")
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{section}: {error}") from None


def _model(given: dict[str, Any], directory: Path) -> ModelSpec:
    settings = dict(given)
    copies, memory_mb = settings.pop("copies", None), settings.pop("memory_mb", 0)
    name = settings.get("name")
    if not isinstance(name, str) or not name:
        raise ConfigError("models: one has no name")
    for key in settings:
        if key not in MODEL_KEYS:
            raise ConfigError(
                f"model {name}: key {key} is unknown; accepted: {', '.join(MODEL_KEYS)}, copies, memory_mb"
            )
    if not (copies is None or (isinstance(copies, int) and copies >= 0)) or not isinstance(memory_mb, int):
        raise ConfigError(f"model {name}: copies and memory_mb are whole numbers")
    path = settings.get("base_path")
    if not isinstance(path, str):
        raise ConfigError(f"model {name}: base_path is missing")
    if "://" not in path:
        settings["base_path"] = str(directory / path)
    text = json.dumps(settings, sort_keys=True)
    return ModelSpec(
        name=name, revision=_digest(text), settings=text, memory_bytes=memory_mb * _MEBIBYTE, copies=copies
    )


def _flags(given: tuple[str, ...]) -> tuple[str, ...]:
    """Flags of a server.

    Raises:
        ConfigError: There is no such flag, or the fleet sets it itself.
    """
    found = server_parser("config").read(given)
    for name in (*_OURS, *_OURS_TOO):
        if found.get(name) is not None:
            raise ConfigError(f"servers: the flag --{name} is the fleet's own; leave it out")
    return given


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:10]
