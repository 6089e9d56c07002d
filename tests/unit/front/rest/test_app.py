# SPDX-License-Identifier: Apache-2.0
"""Routes about the server itself, bodies and early answers: the ASGI application, called as a server calls it."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from ovms_mp import __version__
from ovms_mp.child.specs import AccessSpec, FrontLimits, OriginSpec
from ovms_mp.errors import ConfigError, ConfigUnreadable, Draining, ModelLoadFailed
from ovms_mp.front.access.proxies import TrustedProxies
from ovms_mp.front.counting import Counting
from ovms_mp.front.gate import Gate
from ovms_mp.front.metrics.families import Family, Kind, Sample
from ovms_mp.front.metrics.page import MetricsPage
from ovms_mp.front.reload import reload_failure
from ovms_mp.front.rest.app import create_app
from ovms_mp.front.rest.early import answering_early
from ovms_mp.front.rest.lifespan import Lifespan
from ovms_mp.front.routing import RoutingTable
from ovms_mp.model.status import State
from ovms_mp.wire.counters import CounterReader, CounterRow
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import NO_COUNTERS, ModelRecord, TensorSpecRecord, VersionRecord, WorkerRecord
from tests.support.protobuf_messages import values_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.child.specs import RestSpec
    from ovms_mp.errors import OvmsError
    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.predict_request import Decode
    from ovms_mp.front.session import FrontSession
    from ovms_mp.model.status import VersionStatus

LIMIT = 1000
X = (TensorSpecRecord("x", "FP32", ((1, 1), (2, 2))),)
WORKERS = (
    WorkerRecord("worker-0", "CPU", 4711, (0,), "ipc://@a"),
    WorkerRecord("worker-1", "CPU", 4712, (1,), "ipc://@b"),
)


def version(number: int, state: State, *, code: int = 0, message: str = "") -> VersionRecord:
    is_served = state is State.AVAILABLE
    endpoints = tuple(worker.endpoint for worker in WORKERS) if is_served else ()
    detail = "2 streams of 1 thread" if is_served else ""
    return VersionRecord(number, state, code, message, number, endpoints, 2 * is_served, detail, X, X)


MODELS = (
    ModelRecord(
        "m",
        1,
        (
            version(2, State.LOADING, code=2, message="no such file"),
            version(1, State.AVAILABLE, message="files have changed"),
        ),
    ),
    ModelRecord("empty", 0, ()),
)
TABLE = RoutingTable(RoutingSnapshot(1, False, WORKERS, ("2 cores", "2 workers"), MODELS))


class PlayedService:
    """Answers from a table; a predict request is answered with its body."""

    def __init__(self) -> None:
        self.table = TABLE
        self.counting = Counting(CounterRow(), CounterReader(NO_COUNTERS))
        self.metrics = MetricsPage((), ())
        self.is_draining = False
        self.reloaded: bool | OvmsError = False
        self.reloads = 0

    def statuses(self, name: str, version: int) -> Sequence[VersionStatus]:
        return [route.status for _, route in sorted(self.table.model(name).versions.items())]

    async def predict(self, name: str, version: int, decode: Decode, *_: Any) -> bytes:
        given = (await decode(self.table.find(name, version))).inputs
        return json.dumps({"given": np.asarray(values_of(given["x"])).tolist()}).encode()

    async def reload(self, context: CallContext) -> bool:
        self.reloads += 1
        if isinstance(self.reloaded, bool):
            return self.reloaded
        raise reload_failure(self.reloaded)


@dataclass
class Reply:
    """What the application sent, and how often it asked for more of the body."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    asked: int = 0

    def json(self) -> Any:
        return json.loads(self.body)


@pytest.fixture
def service() -> PlayedService:
    return PlayedService()


def ask(
    service: PlayedService,
    method: str,
    path: str,
    body: bytes | None = b"",
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Send a request; a body of None never comes."""
    reply = Reply()
    sent = {name.lower(): value for name, value in (headers or {}).items()}
    if body is not None:
        sent.setdefault("content-length", str(len(body)))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }

    async def receive() -> dict[str, Any]:
        reply.asked += 1
        if body is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(event: dict[str, Any]) -> None:
        if event["type"] == "http.response.start":
            reply.status = event["status"]
            reply.headers = {name.decode(): value.decode() for name, value in event["headers"]}
        else:
            reply.body += event.get("body", b"")

    async def call() -> None:
        limits = FrontLimits(
            request_timeout_s=300.0,
            retry_window_s=1.0,
            max_message_bytes=LIMIT,
            max_unpacked_bytes=0,
            max_image_megapixels=32,
            max_body_memory_bytes=64 << 20,
        )
        lifespan = Lifespan(
            cast(
                "RestSpec",
                SimpleNamespace(
                    limits=limits, prefix="", page=None, origins=OriginSpec(), access=AccessSpec()
                ),
            )
        )
        lifespan.session = cast(
            "FrontSession",
            SimpleNamespace(
                service=service, gate=Gate(), proxies=TrustedProxies(()), metrics=service.metrics
            ),
        )
        app = answering_early(create_app(lifespan))
        async with asyncio.timeout(10):
            await app(scope, receive, send)

    asyncio.run(call())
    return reply


CONFIG = {
    "m": {
        "model_version_status": [
            {
                "version": "1",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": "files have changed"},
            },
            {
                "version": "2",
                "state": "LOADING",
                "status": {"error_code": "UNKNOWN", "error_message": "no such file"},
            },
        ]
    },
    "empty": {"model_version_status": []},
}


def test_config_is_every_models_status_document(service: PlayedService) -> None:
    reply = ask(service, "GET", "/v1/config")

    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.json() == CONFIG
    assert ask(service, "GET", "/v1/models/m").json() == CONFIG["m"]


def test_config_of_nothing(service: PlayedService) -> None:
    service.table = RoutingTable(RoutingSnapshot(1, False, (), (), ()))

    assert ask(service, "GET", "/v1/config").json() == {}


@pytest.mark.parametrize(("is_changed", "status"), [(True, 201), (False, 200)])
def test_reload_answers_with_the_config_document(
    service: PlayedService, is_changed: bool, status: int
) -> None:
    service.reloaded = is_changed
    reply = ask(service, "POST", "/v1/config/reload")

    assert (reply.status, reply.json()) == (status, CONFIG)
    assert reply.headers["content-type"] == "application/json"
    assert service.reloads == 1


@pytest.mark.parametrize(
    "body", [b"{}", b"no JSON", b"x" * (LIMIT + 1), None], ids=["object", "text", "long", "never"]
)
def test_reload_reads_no_body(service: PlayedService, body: bytes | None) -> None:
    assert ask(service, "POST", "/v1/config/reload", body).status == 200


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ConfigUnreadable("/c: gone"), 500, "Config file not found or cannot open. /c: gone"),
        (
            ConfigError("$: no"),
            412,
            "Reloading config file failed. Check server logs for more info. $: no",
        ),
        (
            ModelLoadFailed("m 2: no"),
            400,
            "Reloading models versions failed. Check server logs for more info. m 2: no",
        ),
        (Draining("stopping"), 503, "stopping"),
    ],
)
def test_a_reload_that_fails(service: PlayedService, error: OvmsError, status: int, text: str) -> None:
    service.reloaded = error
    reply = ask(service, "POST", "/v1/config/reload")

    assert (reply.status, reply.json()) == (status, {"error": text})


def test_metrics_that_are_off_are_no_path_as_in_ovms(service: PlayedService) -> None:
    reply = ask(service, "GET", "/metrics")

    assert (reply.status, list(reply.json())) == (400, ["error"])
    assert reply.json()["error"].startswith("Invalid request URL")
    assert "--metrics_enable" in reply.json()["error"]


def test_metrics_that_are_on_are_text(service: PlayedService) -> None:
    families = [Family("a", Kind.GAUGE, "A.", [Sample((), 1)])]
    service.metrics = MetricsPage([lambda: families], {"a"})

    reply = ask(service, "GET", "/metrics", headers={"Accept": "application/openmetrics-text"})

    assert (reply.status, reply.headers["content-type"]) == (200, "text/plain; version=0.0.4")
    assert reply.body == b"# HELP a A.\n# TYPE a gauge\na 1\n"


def test_status_shows_the_plan_the_workers_and_the_models(service: PlayedService) -> None:
    reply = ask(service, "GET", "/v1/status")

    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.json() == {
        "server": {"version": __version__, "is_draining": False},
        "configuration": None,
        "plan": ["2 cores", "2 workers"],
        "workers": [
            {"name": "worker-0", "device": "CPU", "pid": 4711, "cores": [0]},
            {"name": "worker-1", "device": "CPU", "pid": 4712, "cores": [1]},
        ],
        "models": {
            "m": {
                "default_version": 1,
                "versions": [
                    {
                        "version": 1,
                        "state": "AVAILABLE",
                        "is_failed": False,
                        "is_being_loaded": False,
                        "next_try_in_s": None,
                        "error_message": "files have changed",
                        "nireq": 2,
                        "workers": 2,
                        "requests": 0,
                        "failures": 0,
                        "cancelled": 0,
                        "detail": "2 streams of 1 thread",
                    },
                    {
                        "version": 2,
                        "state": "LOADING",
                        "is_failed": True,
                        "is_being_loaded": False,
                        "next_try_in_s": None,
                        "error_message": "no such file",
                        "nireq": 0,
                        "workers": 0,
                        "requests": 0,
                        "failures": 0,
                        "cancelled": 0,
                        "detail": "",
                    },
                ],
                "is_unloaded": False,
            },
            "empty": {"default_version": 0, "versions": [], "is_unloaded": False},
        },
    }


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *((method, "/v1/config") for method in ("POST", "PUT", "DELETE", "PATCH")),
        *((method, "/v1/config/reload") for method in ("HEAD", "GET", "PUT", "DELETE", "PATCH")),
        *((method, "/v1/status") for method in ("POST", "PUT", "DELETE", "PATCH")),
        *((method, "/metrics") for method in ("POST", "PUT", "DELETE", "PATCH")),
    ],
)
def test_other_methods_are_not_allowed(service: PlayedService, method: str, path: str) -> None:
    reply = ask(service, method, path)

    assert reply.status == 405
    is_reload = path.endswith("reload")
    allowed = "POST, OPTIONS" if is_reload else "GET, HEAD, OPTIONS"
    assert sorted(reply.headers["allow"].split(", ")) == sorted(allowed.split(", "))
    assert service.reloads == 0
    if method != "HEAD":
        use = "POST" if is_reload else "GET"
        assert reply.json() == {"error": f"Unsupported method: {method} {path}; use {use}"}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        *((method, "/v1/models/m:predict", "POST, OPTIONS") for method in ("GET", "HEAD", "PUT", "DELETE")),
        ("GET", "/v1/models/a/b/versions/1:predict", "POST, OPTIONS"),
        *((method, "/v1/models/m", "GET, HEAD, OPTIONS") for method in ("PUT", "PATCH", "TRACE")),
        *((method, "/v1/models/m/metadata", "GET, HEAD, OPTIONS") for method in ("POST", "DELETE")),
    ],
)
def test_a_method_that_a_path_below_models_has_not(
    service: PlayedService, method: str, path: str, allowed: str
) -> None:
    reply = ask(service, method, path)

    assert (reply.status, reply.headers["allow"]) == (405, allowed)
    if method != "HEAD":
        assert reply.json()["error"].endswith(f"; use {allowed.partition(',')[0]}")
    options = ask(service, "OPTIONS", path)
    assert (options.status, options.headers["allow"], options.body) == (200, allowed, b"")


@pytest.mark.parametrize(
    "path", ["/v1/models/m", "/v1/models/nobody", "/v1/models/m/labels/a", "/v1/config", "/v1/status"]
)
def test_head_is_get_without_the_body(service: PlayedService, path: str) -> None:
    got, asked = ask(service, "GET", path), ask(service, "HEAD", path)

    assert (asked.status, asked.body) == (got.status, b"")
    assert asked.headers == got.headers
    assert asked.headers["content-length"] == str(len(got.body))


FOREIGN = (
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://here:81", "Host": "here"},
)
FETCHED = tuple(
    {"Sec-Fetch-Site": site, "Origin": "http://here"} for site in ("cross-site", "same-site", "x")
)
OWN = (
    {"Host": "here"},
    {"Origin": "https://here:8000", "Host": "here:8000"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://outside.example", "Host": "inside"},
    {"Sec-Fetch-Site": "none"},
)


@pytest.mark.parametrize("kind", ["text/plain", "application/json", ""])
@pytest.mark.parametrize("headers", [*FOREIGN, *FETCHED], ids=str)
def test_a_page_of_another_site_does_not_reload(
    service: PlayedService, headers: dict[str, str], kind: str
) -> None:
    headers = {"Host": "here", **headers, **({"Content-Type": kind} if kind else {})}
    reply = ask(service, "POST", "/v1/config/reload", headers=headers)

    assert (reply.status, service.reloads) == (403, 0)
    assert "a page of another site may not change this server" in reply.json()["error"]
    assert headers.get("Origin", headers.get("Sec-Fetch-Site", "")) in reply.json()["error"]


@pytest.mark.parametrize("headers", OWN, ids=str)
def test_curl_and_pages_of_the_servers_own_host_reload(
    service: PlayedService, headers: dict[str, str]
) -> None:
    reply = ask(service, "POST", "/v1/config/reload", headers={"Content-Type": "text/plain", **headers})

    assert (reply.status, service.reloads) == (200, 1)


# Bodies.

BODY = b'{"inputs": [[1, 2]]}'
PREDICT = "/v1/models/m:predict"


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP", " gzip "])
def test_a_packed_body_is_unpacked(service: PlayedService, coding: str) -> None:
    reply = ask(service, "POST", PREDICT, gzip.compress(BODY), {"Content-Encoding": coding})

    assert (reply.status, reply.json()) == (200, {"given": [1.0, 2.0]})


@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "identity"}, {"Content-Encoding": ""}])
def test_a_body_that_is_not_packed(service: PlayedService, headers: dict[str, str]) -> None:
    assert ask(service, "POST", PREDICT, BODY, headers).json() == {"given": [1.0, 2.0]}


@pytest.mark.parametrize("window", [zlib.MAX_WBITS, -zlib.MAX_WBITS], ids=["zlib", "bare"])
def test_deflated_bodies_are_unpacked_with_their_header_and_without(
    service: PlayedService, window: int
) -> None:
    packer = zlib.compressobj(wbits=window)
    packed = packer.compress(BODY) + packer.flush()
    reply = ask(service, "POST", PREDICT, packed, {"Content-Encoding": "deflate"})

    assert (reply.status, reply.json()) == (200, {"given": [1.0, 2.0]})


@pytest.mark.parametrize("packed", [b"", b"x", b"x\x9c", b"\xff" * 40, zlib.compress(BODY)[:-2]])
def test_what_is_not_deflated_is_the_clients_fault(service: PlayedService, packed: bytes) -> None:
    reply = ask(service, "POST", PREDICT, packed, {"Content-Encoding": "deflate"})

    assert reply.status == 400
    assert reply.json()["error"].startswith("the body is not what Content-Encoding deflate says: ")


@pytest.mark.parametrize("path", [PREDICT, "/v1/models/none:predict", "/v1/nothing"])
def test_a_requests_id_comes_back_with_every_answer(service: PlayedService, path: str) -> None:
    reply = ask(service, "POST", path, BODY, {"X-Request-Id": "a-1"})

    assert reply.headers["x-request-id"] == "a-1"
    assert ask(service, "POST", path, BODY, {"X-Request-Id": "é\t!"}).headers["x-request-id"] == "é\t!"
    assert "x-request-id" not in ask(service, "POST", path, BODY).headers
    assert "x-request-id" not in ask(service, "POST", path, BODY, {"X-Request-Id": "a" * 257}).headers


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip"])
def test_other_codings_are_refused_before_the_body_is_read(service: PlayedService, coding: str) -> None:
    reply = ask(service, "POST", PREDICT, None, {"Content-Encoding": coding})

    assert (reply.status, reply.headers["accept-encoding"]) == (415, "gzip, deflate")
    assert reply.json() == {
        "error": f"Content-Encoding {coding!r} is not supported; accepted: gzip, deflate, or none"
    }


def test_a_body_that_is_not_gzip(service: PlayedService) -> None:
    assert ask(service, "POST", PREDICT, BODY, {"Content-Encoding": "gzip"}).status == 400


def test_a_small_body_that_becomes_a_large_one(service: PlayedService) -> None:
    packed = gzip.compress(b" " * (LIMIT + 1))
    reply = ask(service, "POST", PREDICT, packed, {"Content-Encoding": "gzip"})

    assert (reply.status, reply.headers["connection"]) == (413, "close")
    assert f"once it is unpacked (more than {LIMIT} bytes)" in reply.json()["error"]


# Answers before the body.


@pytest.mark.parametrize(
    ("method", "path", "length", "status"),
    [
        ("POST", "/v1/models/nobody:predict", 10, 404),
        ("POST", "/v1/models/m/versions/9:predict", 10, 404),
        ("POST", "/nowhere", 10, 404),
        ("PUT", "/v1/models/m", 10, 405),
        ("POST", PREDICT, LIMIT + 1, 413),
    ],
)
def test_a_refusal_does_not_wait_for_the_body(
    service: PlayedService, method: str, path: str, length: int, status: int
) -> None:
    """Nor does it ask for it, which is what sends ``100 Continue``."""
    headers = {"Content-Length": str(length), "Expect": "100-continue"}
    reply = ask(service, method, path, None, headers)

    assert (reply.status, reply.asked) == (status, 0)
    # The client may keep the body, and the next request must not be taken for it.
    assert reply.headers["connection"] == "close"


def test_who_waits_for_a_go_ahead_gets_it_when_the_body_is_read(service: PlayedService) -> None:
    reply = ask(service, "POST", PREDICT, BODY, {"Expect": "100-continue"})

    assert (reply.status, reply.asked) == (200, 1)
    assert "connection" not in reply.headers


def test_a_refusal_keeps_the_connection_of_who_sends_the_body_anyway(service: PlayedService) -> None:
    reply = ask(service, "POST", "/v1/models/nobody:predict", BODY)

    assert (reply.status, "connection" in reply.headers) == (404, False)
