# SPDX-License-Identifier: Apache-2.0
"""What HAProxy is told: its configuration, and the commands by which it learns of servers while it runs.

One port for both protocols: HTTP/2 without TLS is recognized by its preface. A request goes to the backend of its
model, which gRPC has in the first field of its message and REST in the path, and from there to the server with the
fewest requests under way. Names of models are in hexadecimal digits, as HAProxy's names have few characters. What
names no model of the fleet goes to any server.

Each backend has the same slots for servers, which are filled and emptied while HAProxy runs: a connection outlives all
servers that come and go. Only other models or limits take a new configuration, with which HAProxy hands its port over
to a successor and ends with its last connection.

Least connections, and no weights by load: servers are alike, what is under way is known at each moment, and a load that
is a second old would send everybody to the same server.

A request is sent again where nothing of an answer has come: to another server if there was no connection, or if one was
lost, and then only if it is an inference, which may run twice.

Source: https://docs.haproxy.org/2.8/configuration.html, https://docs.haproxy.org/2.8/management.html.
"""

from __future__ import annotations

import json
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from ovms_mp.fleet.decisions.specification import Value

if TYPE_CHECKING:
    from collections.abc import Iterator

ANY = ""
"""Stands for the model of requests that name none of the fleet; its backend also has the health checks."""
_ANY = "any"
SEQUENCE = "x-sequence-id"
"""A header, over gRPC metadata: requests of a model that have the same go to the same server while it is there."""
_NO_STATE = (
    "the servers of a fleet are changed by `ovms_mp fleet update` only: a call that loads or unloads models, hands "
    "memory over or sets what is logged would reach one of them"
)
_NOBODY = "no server of the fleet can take this request now; try again"
_INFERENCES = "/inference.GRPCInferenceService/ModelInfer /tensorflow.serving.PredictionService/Predict"


class Entry(Value, frozen=True, kw_only=True):
    """The address that clients have: a section of the fleet's file.

    Attributes:
        port: For both protocols; 0 for any that is free.
        address: Of the machine; empty for all of its addresses.
        machines: Of those of the cluster which have it.
        longest_wait_s: For a server's answer.
        again_kb: The longest request that can be sent again once a connection is lost, in KiB.
    """

    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8000
    address: str = ""
    machines: Literal["head", "all"] = "head"
    longest_wait_s: Annotated[float, msgspec.Meta(ge=1)] = 310.0
    again_kb: Annotated[int, msgspec.Meta(ge=16, le=16384)] = 64


class Place(Value, frozen=True, kw_only=True):
    """Where a server listens."""

    host: str
    port: int
    rest_port: int

    def of(self, protocol: str) -> int:
        """The port for ``grpc`` or ``rest``."""
        return self.port if protocol == "grpc" else self.rest_port


_NOWHERE = Place(host="127.0.0.1", port=1, rest_port=1)


class Table(Value, frozen=True, kw_only=True):
    """What HAProxy is told.

    Attributes:
        entry: Where clients come, with the port that was chosen.
        asked_for: The port that was asked for, 0 for any.
        slots: Servers that there may be at a time.
        slot_of: The slot of each server, by its number.
        routes: Of each model, and first of ``ANY``, the servers that get its requests, by their slots.
    """

    entry: Entry
    asked_for: int = 0
    slots: int = 16
    slot_of: dict[int, int] = msgspec.field(default_factory=dict)
    routes: dict[str, dict[int, Place]] = msgspec.field(default_factory=dict)

    @property
    def lasting(self) -> tuple[Entry, int, frozenset[str]]:
        """What no command changes."""
        return self.entry, self.slots, frozenset(self.routes)


def backend_of(model: str) -> str:
    """A model's backend, or that of ``ANY``, without the protocol."""
    return f"m-{model.encode().hex().upper()}" if model else _ANY


def configuration(table: Table, socket: str) -> str:
    """The whole file.

    Args:
        table: What it is to say.
        socket: Path of the one that takes commands.
    """
    entry = table.entry
    template = Template(files(__package__).joinpath("haproxy.cfg").read_text("utf-8"))
    head = template.substitute(
        socket=socket,
        longest_wait=f"{entry.longest_wait_s:g}s",
        bufsize=(entry.again_kb + 1) << 10,
        bind=f"{entry.address or '*'}:{entry.port}",
        nobody=_error(_NOBODY),
        no_state=_error(_NO_STATE),
    )
    return "\n".join([head, *(line for name in table.routes for line in _backends(name, table))]) + "\n"


def _backends(name: str, table: Table) -> Iterator[str]:
    for protocol in ("grpc", "rest"):
        yield f"backend {backend_of(name)}-{protocol}"
        if protocol == "grpc":
            yield f"  http-request disable-l7-retry unless {{ path {_INFERENCES} }}"
        else:
            yield "  http-request disable-l7-retry unless { path_reg -- (:predict|/infer)$ }"
        yield "  stick-table type string len 64 size 100k expire 10m"
        yield f"  stick on req.hdr({SEQUENCE})"
        has_checks = name == ANY and protocol == "grpc"
        if has_checks:
            yield "  option httpchk"
            yield "  http-check send meth GET uri /v2/health/ready ver HTTP/1.1 hdr host fleet"
        for slot in range(1, table.slots + 1):
            place = table.routes[name].get(slot, _NOWHERE)
            checks = (
                f"check check-proto h1 port {place.rest_port}" if has_checks else f"track {_ANY}-grpc/s{slot}"
            )
            h2 = " proto h2" if protocol == "grpc" else ""
            state = " disabled" if place is _NOWHERE else ""
            # HAProxy 2.8 takes `tcp-ut` in `default-server`, and does nothing of the kind.
            yield f"  server s{slot} {place.host}:{place.of(protocol)}{h2} tcp-ut 3s {checks}{state}"


def commands(before: Table, after: Table) -> list[str]:
    """What turns one table into another of the same models.

    A slot that gets another server is emptied first. Then slots are filled before others are emptied, as a backend
    without a server refuses requests at once. The backend that all others track is the last to be filled and the first
    to be emptied: so all change over between a few commands. A server that gets no more requests goes on with those
    that it has.
    """
    placed: list[str] = []
    filled: list[str] = []
    emptied: list[str] = []
    for name, new in reversed(after.routes.items()):
        old = before.routes[name]
        changed = sorted(slot for slot in new if new[slot] != old.get(slot))
        for protocol in ("rest", "grpc"):
            backend = f"set server {backend_of(name)}-{protocol}"
            placed += [f"{backend}/s{slot} state maint" for slot in changed if slot in old]
            for slot in changed:
                host, rest_port = new[slot].host, new[slot].rest_port
                placed.append(f"{backend}/s{slot} addr {host} port {new[slot].of(protocol)}")
                if name == ANY and protocol == "grpc":
                    placed.append(f"{backend}/s{slot} check-addr {host} port {rest_port}")
            filled += [f"{backend}/s{slot} state ready" for slot in changed]
            emptied[:0] = [f"{backend}/s{slot} state maint" for slot in sorted(old.keys() - new.keys())]
    return [*placed, *filled, *emptied]


def _error(text: str) -> str:
    """What both protocols' REST clients read, in strong quotes."""
    return f"'{json.dumps({'error': text})}'"
