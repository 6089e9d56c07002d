# SPDX-License-Identifier: Apache-2.0
"""What HAProxy is told: its configuration, and the commands by which it learns of servers while it runs.

One port for both protocols: HTTP/2 without TLS is recognized by its preface. A request goes to the backend of its
model, which gRPC has in the first field of its message and REST in the path, and from there to the server with the
fewest requests under way. Names of models are in hexadecimal digits, as HAProxy's names have few characters. What
names no model of the fleet goes to any server.

Each backend has the same slots for servers, which are filled and emptied while HAProxy runs: a connection outlives all
servers that come and go. Only other models or limits take a new configuration, with which HAProxy hands its port over
to a successor and ends with its last connection.

A request is sent again where nothing of an answer has come: to another server if there was no connection, or if one was
lost, and then only if it is an inference, which may run twice.

Source: https://docs.haproxy.org/2.8/configuration.html, https://docs.haproxy.org/2.8/management.html.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ANY = ""
"""Stands for the model of requests that name none of the fleet; its backend also has the health checks."""
_ANY = "any"
_NO_STATE = (
    "the servers of a fleet are changed by `ovms_mp fleet update` only: a call that loads or unloads models, hands "
    "memory over or sets what is logged would reach one of them"
)
_NOBODY = "no server of the fleet can take this request now; try again"
_KSERVE = "/inference.GRPCInferenceService/"
_STREAM = f"{_KSERVE}ModelStreamInfer"
_INFERENCES = (
    f"{_KSERVE}ModelInfer",
    "/tensorflow.serving.PredictionService/Predict",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The address that clients have.

    Attributes:
        address: Of the machine; empty for all of its addresses.
        longest_wait_s: For a server's answer.
        drain_s: For connections of a configuration that has been replaced.
        again_kb: The longest request that can be sent again once a connection is lost, in KiB.
    """

    port: int
    address: str = ""
    slots: int = 16
    longest_wait_s: float = 310.0
    drain_s: float = 60.0
    again_kb: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a server listens."""

    host: str
    port: int
    rest_port: int


def backend_of(model: str) -> str:
    """A model's backend, or that of ``ANY``, without the protocol."""
    return f"m-{model.encode().hex().upper()}" if model else _ANY


def configuration(
    entry: Entry,
    models: Sequence[str],
    places: Mapping[int, Place],
    routes: Mapping[str, frozenset[int]],
    socket: str,
) -> str:
    """The whole file.

    Args:
        entry: Where clients come.
        models: All of the fleet's.
        places: Servers by their slots.
        routes: Which of them get requests.
        socket: Path of the one that takes commands.
    """
    lines = [
        "global",
        f"  stats socket {socket} mode 600 level admin",
        f"  hard-stop-after {entry.drain_s:g}s",
        f"  tune.bufsize {(entry.again_kb + 1) << 10}",
        "defaults",
        "  mode http",
        "  timeout connect 1s",
        "  timeout queue 5s",
        "  timeout http-request 30s",
        *(
            f"  timeout {name} {entry.longest_wait_s:g}s"
            for name in ("client", "server", "http-keep-alive", "tunnel")
        ),
        "  timeout check 2s",
        # A connection that is idle when its process is replaced gets its next request answered.
        "  option idle-close-on-response",
        "  option redispatch 1",
        "  option http-no-delay",
        "  retries 3",
        "  retry-on conn-failure empty-response",
        "  http-reuse always",
        "  balance leastconn",
        # A machine that is gone says nothing: what waits for it is given up after three seconds.
        "  option srvtcpka",
        "  srvtcpka-idle 1s",
        "  srvtcpka-intvl 1s",
        "  srvtcpka-cnt 2",
        "  default-server inter 500ms fastinter 300ms downinter 500ms fall 3 rise 1",
        *(
            f"  http-error status {status} content-type application/json string {_quoted(_json(_NOBODY))}"
            for status in (502, 503, 504)
        ),
        "frontend entry",
        f"  bind {entry.address or '*'}:{entry.port}",
        *_refusals(),
        *_naming(),
        f"  default_backend {_ANY}-rest",
    ]
    for name in (ANY, *models):
        lines += _backends(name, entry.slots, places, routes.get(name, frozenset()))
    return "\n".join(lines) + "\n"


def _refusals() -> Iterator[str]:
    """Calls that change one server's state."""
    yield r"  acl changes path_reg ^/(v1/config/reload|v2/(repository/models/.*|(models/.*)?trace/setting|logging)$)"
    yield r"  acl changes path_reg ^/v2/(system|cuda)sharedmemory/.*register$"
    calls = "RepositoryModel(Load|Unload)|.*SharedMemory.*egister|TraceSetting|LogSettings"
    yield f"  acl changes path_reg ^{_KSERVE}({calls})$"
    yield "  acl changes path /tensorflow.serving.ModelService/HandleReloadConfigRequest"
    yield "  acl asks method GET HEAD OPTIONS"
    yield (
        "  http-request deny status 403 content-type application/json "
        f"string {_quoted(_json(_NO_STATE))} if changes !asks"
    )


def _naming() -> Iterator[str]:
    """Which backend a request goes to."""
    yield "  acl is_grpc req.hdr(content-type) -m beg application/grpc"
    yield "  acl is_tfs path_beg /tensorflow.serving."
    yield f"  acl is_stream path {_STREAM}"
    # The name comes first in the message. A stream's first message may be short, and no end follows it.
    yield "  http-request wait-for-body time 10s at-least 256 if is_grpc !is_stream"
    yield "  http-request wait-for-body time 10s at-least 8 if is_stream"
    yield "  http-request set-var(txn.model) req.body,ungrpc(1.1),hex if is_grpc is_tfs"
    yield "  http-request set-var(txn.model) req.body,ungrpc(1),hex if is_grpc !is_tfs"
    yield "  http-request set-var(txn.model) path,field(4,/),field(1,:),url_dec,hex if { path_reg ^/v[12]/models/. }"
    yield "  acl has_model var(txn.model) -m found"
    # A backend that does not exist is passed over.
    yield "  use_backend m-%[var(txn.model)]-grpc if is_grpc has_model"
    yield f"  use_backend {_ANY}-grpc if is_grpc"
    yield "  use_backend m-%[var(txn.model)]-rest if has_model"


def _backends(name: str, slots: int, places: Mapping[int, Place], routed: frozenset[int]) -> Iterator[str]:
    backend = backend_of(name)
    for protocol in ("grpc", "rest"):
        yield f"backend {backend}-{protocol}"
        if protocol == "grpc":
            yield f"  http-request disable-l7-retry unless {{ path {' '.join(_INFERENCES)} }}"
        else:
            yield "  http-request disable-l7-retry unless { path_reg -- (:predict|/infer)$ }"
        has_checks = name == ANY and protocol == "grpc"
        if has_checks:
            yield "  option httpchk"
            yield "  http-check send meth GET uri /v2/health/ready ver HTTP/1.1 hdr host fleet"
        for slot in range(1, slots + 1):
            place = places.get(slot)
            where = f"{place.host}:{_port(place, protocol)}" if place else "127.0.0.1:1"
            checks = (
                f"check check-proto h1 port {place.rest_port if place else 1}"
                if has_checks
                else f"track {_ANY}-grpc/s{slot}"
            )
            h2 = " proto h2" if protocol == "grpc" else ""
            state = "" if slot in routed and place else " disabled"
            # HAProxy 2.8 takes `tcp-ut` in `default-server`, and does nothing of the kind.
            yield f"  server s{slot} {where}{h2} tcp-ut 3s {checks}{state}"


def _port(place: Place, protocol: str) -> int:
    return place.port if protocol == "grpc" else place.rest_port


def commands(
    models: Sequence[str],
    before: tuple[Mapping[int, Place], Mapping[str, frozenset[int]]],
    after: tuple[Mapping[int, Place], Mapping[str, frozenset[int]]],
) -> Iterator[str]:
    """What turns one assignment of slots into another; those whose servers go are emptied before they are filled.

    A server that gets no more requests goes on with those that it has.

    Args:
        models: All of the fleet's.
        before: Servers by their slots, and which of them get requests.
        after: The same, as it is to be.
    """
    moved = {slot for slot in {*before[0], *after[0]} if before[0].get(slot) != after[0].get(slot)}
    for name in (ANY, *models):
        backend = backend_of(name)
        old, new = before[1].get(name, frozenset()), after[1].get(name, frozenset())
        for protocol in ("grpc", "rest"):
            for slot in sorted((old - new) | (old & moved)):
                yield f"set server {backend}-{protocol}/s{slot} state maint"
            for slot in sorted(moved & after[0].keys()):
                place = after[0][slot]
                yield f"set server {backend}-{protocol}/s{slot} addr {place.host} port {_port(place, protocol)}"
                if name == ANY and protocol == "grpc":
                    yield f"set server {backend}-grpc/s{slot} check-addr {place.host} port {place.rest_port}"
            for slot in sorted((new - old) | (new & moved)):
                yield f"set server {backend}-{protocol}/s{slot} state ready"


def _json(text: str) -> str:
    """What both protocols' REST clients read."""
    return json.dumps({"error": text})


def _quoted(text: str) -> str:
    """A word of the configuration file, in strong quotes."""
    return "'" + text.replace("'", "'\\''") + "'"
