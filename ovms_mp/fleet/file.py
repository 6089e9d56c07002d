# SPDX-License-Identifier: Apache-2.0
"""A fleet's file: TOML that says what the fleet is to be.

A model has the keys of a server's configuration file, ``copies`` and ``memory_mb``. Sections ``scaling``, ``update``
and ``deadlines`` have the fields of :mod:`ovms_mp.fleet.decisions.specification`.
"""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec.structs import replace

from ovms_mp.config.model_keys import MODEL_KEYS
from ovms_mp.config.server_parser import server_parser
from ovms_mp.errors import ConfigError
from ovms_mp.fleet.decisions.specification import (
    Count,
    Deadlines,
    FleetSpec,
    ModelSpec,
    ScalingRule,
    ServerSettings,
    ServerSpec,
    UpdateRule,
    Value,
    Whole,
)
from ovms_mp.fleet.haproxy import Entry

_OWN_FLAGS = (
    *("port", "rest_port", "grpc_bind_address", "rest_bind_address", "rest_prefix"),
    *("config_path", "store_dir", "fleet_file"),
    *("tls_cert", "tls_key", "tls_client_ca", "api_key_file", "stop_notice_s", "stop_grace_s"),
)
_MEBIBYTE = 1 << 20


class _Servers(ServerSettings, frozen=True, kw_only=True):
    min: Count = 1
    max: Annotated[int, msgspec.Meta(ge=0, le=500)] = 0
    memory_mb: Whole = 0


class _File(Value, frozen=True, kw_only=True):
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]{1,32}$")] = "fleet"
    entry: Entry = Entry()
    servers: _Servers = _Servers()
    scaling: ScalingRule = ScalingRule()
    update: UpdateRule = UpdateRule()
    deadlines: Deadlines = Deadlines()
    models: Annotated[tuple[dict[str, Any], ...], msgspec.Meta(min_length=1)]


class _ModelKeys(msgspec.Struct, frozen=True, kw_only=True):
    """Those of a model that are of interest here."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    base_path: str
    copies: Whole | None = None
    memory_mb: Whole = 0


class Fleet(Value, frozen=True, kw_only=True):
    """What a file says.

    Attributes:
        name: By which Ray knows it.
        slots: Servers that there may be at a time.
    """

    name: str
    entry: Entry
    slots: int
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
        models = tuple(_model(entry, directory) for entry in given.models)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(str(error)) from None
    if len({model.name for model in models}) < len(models):
        raise ConfigError("models: two have the same name")
    servers, update = given.servers, given.update
    most = servers.max or servers.min
    if most < servers.min:
        raise ConfigError(f"servers: max {servers.max} is less than min {servers.min}")
    _check_flags(servers.flags)
    settings = msgspec.convert(servers, ServerSettings, from_attributes=True)
    if settings.directory:
        settings = replace(settings, directory=str(directory / settings.directory))
    drain_s = given.deadlines.drain_s
    revisions = [model.revision for model in models] if update.is_consistent else []
    return Fleet(
        name=given.name,
        entry=given.entry,
        # A consistent update has all servers twice, and those that end are there for a while.
        slots=2 * (most + update.surge) + 2,
        specification=FleetSpec(
            models=models,
            server=ServerSpec(
                revision=_digest([settings, drain_s, revisions]),
                settings=settings,
                drain_s=drain_s,
                memory_bytes=servers.memory_mb * _MEBIBYTE,
            ),
            servers_min=servers.min,
            servers_max=most,
            scaling=given.scaling,
            update=update,
            deadlines=given.deadlines,
        ),
    )


def _model(given: dict[str, Any], directory: Path) -> ModelSpec:
    try:
        ours = msgspec.convert(given, _ModelKeys)
    except msgspec.ValidationError as error:
        raise ConfigError(f"model {given.get('name', '')!r}: {error}") from None
    for key in given:
        if key not in MODEL_KEYS and key not in ("copies", "memory_mb"):
            accepted = ", ".join(MODEL_KEYS)
            raise ConfigError(
                f"model {ours.name}: key {key} is unknown; accepted: {accepted}, copies, memory_mb"
            )
    settings = {key: value for key, value in given.items() if key in MODEL_KEYS}
    if "://" not in ours.base_path:
        settings["base_path"] = str(directory / ours.base_path)
    return ModelSpec(
        name=ours.name,
        revision=_digest(settings),
        settings=settings,
        memory_bytes=ours.memory_mb * _MEBIBYTE,
        copies=ours.copies,
    )


def _check_flags(given: tuple[str, ...]) -> None:
    """Refuse what a server does not know.

    Raises:
        ConfigError: There is no such flag, or the fleet sets it itself.
    """
    found = server_parser("config").read(given)
    for name in _OWN_FLAGS:
        if found.get(name) is not None:
            raise ConfigError(f"servers: the flag --{name} is the fleet's own; leave it out")


def _digest(value: object) -> str:
    """Ten digits that change with the value, whatever the order of its keys."""
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:10]
