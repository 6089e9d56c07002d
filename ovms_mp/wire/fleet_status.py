# SPDX-License-Identifier: Apache-2.0
"""What the live page of each server of a fleet shows of the whole fleet, and how it gets there.

The controller says it to each server's actor with every question; the actor writes it to a file in the server's own
directory, by a rename; fronts that have pages open read that. It is short, however large the fleet is, as every server
is told of all.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MOST_BYTES = 48 << 10
"""Of a status: Ray carries an argument of up to 100 KB with the call."""
MOST_FILE_BYTES = 64 << 10
_LONGEST = 200
"""Characters of a name, a reason or a note."""
_MOST_ENTRIES = 16
_MOST_NOTES = 8
_STEPS = ((128, 16), (128, 6), (128, 2), (128, 0), (2, 0))
"""How many servers, and models of each, are told of, where more would be too long."""

_Text = Annotated[str, msgspec.Meta(max_length=_LONGEST)]
_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
_Figure = Annotated[float, msgspec.Meta(ge=0)]


class FleetEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An address that clients use, or why it is not there."""

    host: _Text = ""
    port: _Port = 0
    error: _Text = ""


class FleetModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A model on a server: the revision that it was told, the one that answers, and why they differ."""

    name: _Text
    revision: _Text
    served: _Text = ""
    failure: _Text = ""


class FleetServer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server; figures are None where they are not known."""

    number: _Count
    state: _Text
    revision: _Text
    host: _Text = ""
    port: _Port = 0
    rest_port: _Port = 0
    queue_depth: _Figure | None = None
    utilisation: _Figure | None = None
    used_bytes: Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)] | None = None
    models: Annotated[tuple[FleetModel, ...], msgspec.Meta(max_length=_STEPS[0][1])] = ()
    hidden_models: _Count = 0


class FleetStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From a fleet's controller to each of its servers, every turn.

    Attributes:
        revision: Of the servers that the file asks for.
        servers: By number; where there are too many, those that are not ready come in before others.
        count: Of all servers.
        ready: Of those that are ready.
    """

    fleet: _Text
    revision: _Text
    wanted: _Count
    count: _Count
    ready: _Count
    is_settled: bool
    entries: Annotated[tuple[FleetEntry, ...], msgspec.Meta(max_length=_MOST_ENTRIES)] = ()
    servers: Annotated[tuple[FleetServer, ...], msgspec.Meta(max_length=_STEPS[0][0])] = ()
    notes: Annotated[tuple[_Text, ...], msgspec.Meta(max_length=_MOST_NOTES)] = ()


class FleetFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a server's file holds.

    Attributes:
        seen_ns: When the status was so, by this machine's monotonic clock.
        host: Of the server whose file it is.
        port: Its gRPC port.
    """

    seen_ns: Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]
    host: _Text
    port: _Port
    status: FleetStatus


def abridged(status: Mapping[str, Any]) -> bytes:
    """The status that a controller gives, as JSON of a :class:`FleetStatus` that is at most so long.

    Args:
        status: In plain values; fields that a page does not show may be there.
    """
    text = b""
    for most_servers, most_models in _STEPS:
        text = msgspec.json.encode(_brief(status, most_servers, most_models))
        if len(text) <= MOST_BYTES:
            break
    return text


def write_news(path: Path, status: bytes, age_s: float, own: tuple[str, int]) -> None:
    """Write a server's file; by a rename, as fronts may be reading it.

    Args:
        path: Of the file.
        status: JSON of a :class:`FleetStatus`.
        age_s: Since when it is so.
        own: Host and gRPC port of the server whose file it is.

    Raises:
        OSError: It cannot be written.
        msgspec.MsgspecError: That is no status.
    """
    news = FleetFile(
        seen_ns=time.monotonic_ns() - int(age_s * 1e9),
        host=own[0],
        port=own[1],
        status=msgspec.json.decode(status, type=FleetStatus),
    )
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(news))
    fresh.replace(path)


def _brief(status: Mapping[str, Any], most_servers: int, most_models: int) -> FleetStatus:
    servers: Sequence[Mapping[str, Any]] = status["servers"]
    # What is not as it should be is shown first.
    told = sorted(servers, key=lambda server: (_is_ready(server), server["number"]))[:most_servers]
    return FleetStatus(
        fleet=_cut(status["fleet"]),
        revision=_cut(status["revision"]),
        wanted=status["wanted"],
        count=len(servers),
        ready=sum(map(_is_ready, servers)),
        is_settled=status["is_settled"],
        entries=tuple(
            FleetEntry(
                host=_cut(entry.get("host", "")),
                port=entry.get("port", 0),
                error=_cut(entry.get("error", "")),
            )
            for entry in status["entries"][:_MOST_ENTRIES]
        ),
        servers=tuple(
            _server(server, most_models) for server in sorted(told, key=lambda server: server["number"])
        ),
        notes=tuple(map(_cut, status["notes"][:_MOST_NOTES])),
    )


def _server(server: Mapping[str, Any], most_models: int) -> FleetServer:
    models = sorted(server["models"].items(), key=lambda item: (_is_well(item[1]), item[0]))
    return FleetServer(
        number=server["number"],
        state=_cut(server["state"]),
        revision=_cut(server["revision"]),
        host=_cut(server.get("host", "")),
        port=server.get("port", 0),
        rest_port=server.get("rest_port", 0),
        queue_depth=server["queue_depth"],
        utilisation=server["utilisation"],
        used_bytes=server["used_bytes"],
        models=tuple(
            FleetModel(
                name=_cut(name),
                revision=_cut(held["revision"]),
                served=_cut(held["served"]),
                failure=_cut(held["failure"]),
            )
            for name, held in models[:most_models]
        ),
        hidden_models=max(0, len(models) - most_models),
    )


def _is_ready(server: Mapping[str, Any]) -> bool:
    return bool(server["state"] == "ready")


def _is_well(model: Mapping[str, Any]) -> bool:
    return bool(model["served"] == model["revision"] and not model["failure"])


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
