# SPDX-License-Identifier: Apache-2.0
"""Who may do what: every route and every method without a key, with a wrong, a right and an administrator's one.

What is asked comes from the lists that the transports serve, so that a new route or method is asked for, too.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import psutil
import pytest

from ovms_mp.cli import main
from ovms_mp.front.endpoints import Endpoint
from ovms_mp.front.kserve._proto import kserve_pb2 as kserve
from ovms_mp.front.methods import Unary
from ovms_mp.front.protocols import all_methods, all_routes
from ovms_mp.front.served_protocol import MessageParts
from tests.support import rest_client
from tests.support.h2_client import H2Client, message
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ovms_mp.front.endpoints import Route
    from ovms_mp.front.live.feed import PageFeed
    from ovms_mp.front.methods import Method
    from ovms_mp.front.metrics.page import MetricsPage
    from ovms_mp.front.service import Service
    from tests.support.models import ModelZoo
    from tests.support.rest_client import HttpReply

KEY, ADMIN, WRONG = "user-key-0123456789abcdef", "admin-key-0123456789abcdef", "wrong-key-0123456789abcdef"
CALLERS = {"nobody": "", "wrong": WRONG, "user": KEY, "admin": ADMIN}
PREFIX = "/ovms"
ORIGIN = "https://app.example.com"
WITHIN_S = 20.0
STREAM = "/ui/events"
OF_KEYS = "API key"
"""What every refusal for the want of a key says."""
ENDINGS = (
    *("", "nothing", "tiny", "tiny/nothing", "tiny:predict", "tiny/metadata", "tiny/versions/1"),
    "v2/models/tiny/infer",
    *(
        "tiny/ready",
        "tiny/config",
        "tiny/infer",
        "tiny/stats",
        "tiny/trace/setting",
        "tiny/load",
        "tiny/unload",
    ),
    *("tiny/register", "tiny/unregister", "status", "region/tiny/register", "region/tiny/unregister"),
    *("region/tiny/status", "unregister"),
)
"""Of paths that a protocol takes apart itself; :func:`endpoints` shows that there is one for each of its endpoints."""


class Front:
    service = cast("Service", None)
    metrics = cast("MetricsPage", None)
    page = cast("PageFeed", None)


def refuse(*_: object) -> int:
    raise AssertionError("nothing is called here")


METHODS = all_methods(MessageParts(Front.service, refuse, refuse, memoryview(b""), refuse))  # type: ignore[arg-type]
ROUTES = all_routes(Front())


def all_of(value: object, depth: int = 0) -> set[int]:
    """The endpoints that a route has anywhere."""
    if isinstance(value, Endpoint):
        return {id(value)}
    if depth > 3:
        return set()
    if isinstance(value, dict):
        inside = list(value.values())
    elif isinstance(value, tuple | list):
        inside = list(value)
    else:
        inside = list(getattr(value, "__dict__", {}).values())
    return {found for part in inside for found in all_of(part, depth + 1)}


def calls_of(route: Route) -> dict[tuple[str, str], Endpoint]:
    """HTTP methods and paths of a route, at least one for each of its endpoints."""
    stem = route.template.partition("{")[0]
    paths = [route.template] if stem == route.template else [stem + ending for ending in ENDINGS]
    found: dict[tuple[str, str], Endpoint] = {}
    for path in paths:
        for verb in ("GET", "POST", "PUT", "DELETE", "PATCH"):
            endpoint = route.find(verb, path.encode())
            if endpoint is not None and id(endpoint) not in map(id, found.values()):
                found[verb, path] = endpoint
    return found


@dataclass(frozen=True)
class Place:
    """A server with keys.

    Attributes:
        keys: The file of keys, which a test may change and puts back.
        prefix: Of its REST paths.
    """

    server: Server
    keys: Path
    prefix: str

    def rest(
        self, verb: str, path: str, key: str = "", headers: Mapping[str, str] | None = None
    ) -> HttpReply:
        """Ask over REST."""
        sent = {**authorization("Authorization", key), **(headers or {})}
        return rest_client.request(self.server.rest_port, verb, self.prefix + path, headers=sent)

    def line_of(self, path: str, key: str) -> str:
        return self.rest("GET", path, key).text()


def authorization(name: str, key: str) -> dict[str, str]:
    return {name: f"Bearer {key}"} if key else {}


@contextlib.contextmanager
def served(zoo: ModelZoo, directory: Path, prefix: str, *flags: str) -> Iterator[Place]:
    """A server with keys, on which everything is allowed but what needs another key."""
    keys, admins = directory / "keys", directory / "admin_keys"
    keys.write_text(f"# of the tests\nuser {KEY}\n\n")
    admins.write_text(f"{ADMIN}\n")
    for path in (keys, admins):
        path.chmod(0o600)
    arguments = [
        *("model", "--model_name", "tiny", "--model_path", str(zoo.base_path("tiny"))),
        *("--api_key_file", str(keys), "--admin_api_key_file", str(admins), *flags),
    ]
    with Server(arguments, directory / "log", is_patient=False) as server:
        yield Place(server, keys, prefix)


@pytest.fixture(scope="module")
def native(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Our HTTP/2 server, and REST."""
    with served(zoo, tmp_path_factory.mktemp("native"), "") as place:
        yield place


@pytest.fixture(scope="module")
def grpcio(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """grpcio's, and REST below a prefix behind a proxy on this machine."""
    flags = ("--grpc_front", "grpcio", "--rest_prefix", PREFIX, "--trusted_proxies", "127.0.0.1")
    with served(zoo, tmp_path_factory.mktemp("grpcio"), PREFIX, *flags, "--allowed_origins", ORIGIN) as place:
        yield place


@pytest.fixture(scope="module", autouse=True)
def both(native: Place, grpcio: Place) -> None:
    """Started before any test counts what it leaves behind."""


@pytest.fixture(params=["native", "grpcio"])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    return found


def expected(caller: str, *, changes_server: bool, is_open: bool) -> str:
    """What becomes of a call: let in, 401 or 403."""
    if is_open or caller == "admin":
        return "in"
    if caller != "user":
        return "unauthenticated"
    return "forbidden" if changes_server else "in"


def became_of_rest(reply: HttpReply) -> str:
    if reply.status == 200 or OF_KEYS not in reply.text():  # The page's own files speak of keys, too.
        assert reply.status != 401
        return "in"
    assert reply.headers["www-authenticate"].startswith("Bearer")
    return {401: "unauthenticated", 403: "forbidden"}[reply.status]


def became_of_stream(place: Place, path: str, key: str) -> str:
    """The same of an answer that does not end."""
    head = f"GET {place.prefix}{path} HTTP/1.1\r\nHost: x\r\n" + (
        f"Authorization: Bearer {key}\r\n" if key else ""
    )
    with socket.create_connection(("127.0.0.1", place.server.rest_port), WITHIN_S) as connection:
        connection.sendall(f"{head}\r\n".encode())
        return {b"200": "in", b"401": "unauthenticated"}[connection.recv(12)[-3:]]


def became_of_grpc(headers: Mapping[str, str]) -> str:
    if OF_KEYS not in headers.get("grpc-message", ""):
        assert headers["grpc-status"] != "16"
        return "in"
    assert headers["www-authenticate"].startswith("Bearer")
    return {"16": "unauthenticated", "7": "forbidden"}[headers["grpc-status"]]


def test_a_path_leads_to_every_endpoint() -> None:
    for route in ROUTES:
        missed = all_of(route) - {id(endpoint) for endpoint in calls_of(route).values()}

        assert not missed, f"{route.template}: ENDINGS lacks a path for {len(missed)} of its endpoints"


def test_what_is_open_and_what_is_for_administrators_is_a_short_list() -> None:
    endpoints = [endpoint for route in ROUTES for endpoint in calls_of(route).values()]
    open_methods = {method.path.rpartition(".")[2] for method in METHODS if method.is_open}
    open_names = {endpoint.name for endpoint in endpoints if endpoint.is_open}
    admin_methods = {method.name for method in METHODS if method.changes_server}
    admin_names = {endpoint.name for endpoint in endpoints if endpoint.changes_server}

    assert open_methods == {
        "Health/Check",
        "Health/Watch",
        *(f"GRPCInferenceService/{name}" for name in ("ServerLive", "ServerReady", "ModelReady")),
    }
    assert open_names == {
        "Alive",
        "ServerLive",
        "ServerReady",
        "ModelReady",
        "PageFile",
        "ToPage",
        "GetDocs",
        "ToDocs",
    }
    assert (
        admin_methods - {"HandleReloadConfigRequest"}
        == admin_names - {"ReloadConfig"}
        == {
            "RepositoryModelLoad",
            "RepositoryModelUnload",
            "LogSettings",
            "TraceSetting",
            *(
                f"{kind}SharedMemory{act}"
                for kind in ("System", "Cuda")
                for act in ("Register", "Unregister")
            ),
        }
    )


@pytest.mark.parametrize("caller", CALLERS)
def test_every_route(place: Place, caller: str) -> None:
    wrong = {}
    for route in ROUTES:
        for (verb, path), endpoint in calls_of(route).items():
            if path == STREAM:
                became = became_of_stream(place, path, CALLERS[caller])
            else:
                became = became_of_rest(place.rest(verb, path, CALLERS[caller]))
            if became != expected(caller, changes_server=endpoint.changes_server, is_open=endpoint.is_open):
                wrong[f"{verb} {path}"] = became

    assert not wrong


@pytest.mark.parametrize("caller", CALLERS)
def test_every_method(place: Place, caller: str) -> None:
    wrong = {}
    with H2Client(place.server.port) as client:
        for method in METHODS:
            # Some streaming calls would never end by themselves.
            fields = [("grpc-timeout", "500m")] if not isinstance(method, Unary) else []
            fields += authorization("authorization", CALLERS[caller]).items()
            became = became_of_grpc(client.ask(method.path, message(b""), fields).headers)
            if became != expected(caller, changes_server=method.changes_server, is_open=method.is_open):
                wrong[method.path] = became

    assert not wrong


NOWHERE = ("/nope", "/v1/nope", "/v2/models", "/v1/models/nope", "/v2/models/nope/versions/9", "/v1/config")


@pytest.mark.parametrize("verb", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_without_a_key_what_there_is_not_looks_like_what_there_is(native: Place, verb: str) -> None:
    replies = {(reply.status, reply.body) for reply in (native.rest(verb, path) for path in NOWHERE)}

    assert len(replies) == 1
    assert {status for status, _ in replies} == {401}
    assert native.rest("GET", "/nope", KEY).status == 404
    assert native.rest("PUT", "/v1/config", KEY).status == 405


def test_what_begins_otherwise_than_a_path_is_another_one(native: Place) -> None:
    odd = (
        "//v1/config",
        "/%2fv1/config",
        "//v2/models/nope/ready",
        "/v2/mod%65ls/nope/ready",
        "//v2/health/live",
    )

    assert [native.rest("GET", path, KEY).status for path in odd] == [404] * len(odd)
    assert [native.rest("GET", path).status for path in odd] == [401] * len(odd)
    assert native.rest("GET", "/v2/health/liv%65").status == 200


def test_without_a_key_no_answer_names_models(place: Place) -> None:
    nobody = place.rest("GET", "/v2/models/tinz/ready")
    request = kserve.ModelReadyRequest(name="tinz").SerializeToString()
    with H2Client(place.server.port) as client:
        told = client.ask("/inference.GRPCInferenceService/ModelReady", message(request)).headers[
            "grpc-message"
        ]

    assert nobody.status == 404
    assert "no model has this name" in nobody.text()
    assert "no model has this name" in told
    assert "tiny" not in nobody.text() + told


def test_without_a_key_methods_that_there_are_not_look_like_those_that_there_are(place: Place) -> None:
    paths = (
        "/tensorflow.serving.PredictionService/Predict",
        "/tensorflow.serving.PredictionService/Nope",
        "/a.B/C",
    )
    with H2Client(place.server.port) as client:
        answers = [client.ask(path, message(b"")).headers for path in paths]
        known = client.ask(paths[-1], message(b""), authorization("authorization", KEY).items()).headers

    assert len({(entry["grpc-status"], entry["grpc-message"]) for entry in answers}) == 1
    assert (known["grpc-status"], known["grpc-message"]) == ("12", "Method not found!")


@pytest.mark.parametrize(
    "given",
    [
        KEY,
        f"Basic {KEY}",
        f"Bearer {KEY}x",
        "Bearer",
        "Bearer ",
        f"Bearer {KEY} {KEY}",
        "Bearer " + "x" * 5000,
    ],
)
def test_what_is_no_key_is_refused(place: Place, given: str) -> None:
    assert place.rest("GET", "/v1/config", headers={"Authorization": given}).status == 401
    with H2Client(place.server.port) as client:
        answer = client.ask(
            "/inference.GRPCInferenceService/ServerMetadata", message(b""), [("authorization", given)]
        )

    assert answer.headers["grpc-status"] == "16"


@pytest.mark.parametrize("given", [f"bearer {KEY}", f"BEARER   {KEY}"])
def test_the_scheme_is_read_as_the_standard_says(place: Place, given: str) -> None:
    assert place.rest("GET", "/v1/config", headers={"Authorization": given}).status == 200


def methods_with_bodies() -> list[Method]:
    return [method for method in METHODS if method.name in ("Predict", "ModelStreamInfer")]


def test_a_call_is_refused_before_its_body_has_come(place: Place) -> None:
    with H2Client(place.server.port) as client:
        for method in methods_with_bodies():
            assert client.wait(client.open(method.path)).headers["grpc-status"] == "16"
    head = (
        f"POST {place.prefix}/v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", place.server.rest_port), WITHIN_S) as connection:
        connection.sendall(head.encode())

        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 401 ")


def test_keys_are_those_of_the_file(place: Place) -> None:
    def status(key: str) -> int:
        return place.rest("GET", "/v1/config", key).status

    before, other = place.keys.read_text(), "other-key-0123456789abcdef"
    try:
        place.keys.write_text(f"other {other}\n")
        eventually(lambda: status(other) == 200, WITHIN_S, "the new key is good")
        assert status(KEY) == 401
        assert status(ADMIN) == 200

        place.keys.write_text(f"other {other}\nthree words here\n")
        eventually(lambda: "line 2 has 3 words" in place.server.log(), WITHIN_S, "the file is refused")
        place.keys.unlink()
        eventually(lambda: "No such file" in place.server.log(), WITHIN_S, "the file is missed")
        assert status(other) == 200
    finally:
        place.keys.write_text(before)
    eventually(lambda: status(KEY) == 200, WITHIN_S, "the old key is good again")
    assert status(other) == 401


def test_who_tries_again_and_again_gets_few_lines_in_the_log(native: Place) -> None:
    before = native.server.log().count("event=key_refused")
    for number in range(30):
        assert native.rest("GET", "/v1/config", f"{WRONG}-{number}").status == 401

    assert native.server.log().count("event=key_refused") <= before + 1
    assert "event=key_refused peer=127.0.0.1 reason=" in native.server.log()


def test_keys_are_nowhere_to_be_read(place: Place) -> None:
    shown = {"status": place.rest("GET", "/v1/status", ADMIN).text(), "log": place.server.log()}
    for pid in place.server.all_pids():
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            shown[f"command of {pid}"] = str(process.cmdline())
            # pytest names the test that was running when the server started, with its parameters.
            environment = {name: value for name, value in process.environ().items() if "PYTEST" not in name}
            shown[f"environment of {pid}"] = str(environment)

    found = [name for name, text in shown.items() for key in (KEY, ADMIN, WRONG) if key in text]
    assert not found


ODD_PREFIXES = ("/%6fvms/v1/config", f"/{PREFIX}/v1/config", f"/{PREFIX}/v2/health/live")


def test_all_paths_lie_below_the_prefix(grpcio: Place) -> None:
    def status(path: str) -> int:
        return rest_client.request(
            grpcio.server.rest_port, "GET", path, headers=authorization("Authorization", ADMIN)
        ).status

    below = ("", "/", "/v1/config", "/v2/health/live", "/v2/models")
    assert [status(PREFIX + path) for path in below] == [200] * len(below)
    assert "REST resource not found" not in grpcio.rest("GET", "/v2/models/nope/versions/1", ADMIN).text()
    assert [
        status(path) for path in ("/", "/v1/config", "/v2/health/live", f"{PREFIX}x/v1/config", *ODD_PREFIXES)
    ] == [404] * (4 + len(ODD_PREFIXES))
    answers = [rest_client.request(grpcio.server.rest_port, "GET", path) for path in ("/nope", *ODD_PREFIXES)]
    assert {(answer.status, answer.body) for answer in answers} == {(401, answers[0].body)}


def test_a_trusted_proxy_says_who_its_client_is(grpcio: Place, native: Place) -> None:
    for place, found in ((grpcio, "192.0.2.7"), (native, "127.0.0.1")):
        place.rest("GET", "/v1/config", headers={"X-Forwarded-For": "203.0.113.9, 192.0.2.7"})
        assert f"event=key_refused peer={found} " in place.server.log()
        assert "203.0.113.9" not in place.server.log()
    assert "192.0.2.7" not in native.server.log()
    with H2Client(grpcio.server.port) as client:
        client.ask("/a.B/C", message(b""), [("x-forwarded-for", "2001:db8::7")])

    eventually(
        lambda: "event=key_refused peer=2001:db8::7 " in grpcio.server.log(), WITHIN_S, "the client is named"
    )


def preflight(origin: str, method: str = "POST") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type",
    }


def test_pages_of_any_origin_may_read_answers_but_not_change_the_server(native: Place) -> None:
    asked = native.rest("OPTIONS", "/anywhere", headers=preflight(ORIGIN))
    read = native.rest("GET", "/v1/config", KEY, {"Origin": ORIGIN})
    refused = native.rest("GET", "/v1/config", "", {"Origin": ORIGIN})
    changed = native.rest("POST", "/v1/config/reload", ADMIN, {"Origin": ORIGIN})

    assert (asked.status, asked.headers["access-control-allow-origin"]) == (200, "*")
    assert asked.headers["access-control-allow-headers"] == "authorization,content-type"
    assert asked.headers["access-control-allow-methods"] == "POST"
    assert [reply.status for reply in (read, refused, changed)] == [200, 401, 403]
    assert {reply.headers["access-control-allow-origin"] for reply in (read, refused, changed)} == {"*"}
    assert ORIGIN in changed.text()
    assert "access-control-allow-origin" not in native.rest("GET", "/v1/config", KEY).headers


def test_pages_of_named_origins_may_do_both(grpcio: Place) -> None:
    asked = grpcio.rest("OPTIONS", "/v1/config", headers=preflight(ORIGIN))
    stranger = grpcio.rest("OPTIONS", "/v1/config", headers=preflight("https://other.example.com"))
    changed = grpcio.rest("POST", "/v1/config/reload", ADMIN, {"Origin": ORIGIN})
    other = grpcio.rest("POST", "/v1/config/reload", ADMIN, {"Origin": "https://other.example.com"})

    assert asked.headers["access-control-allow-origin"] == ORIGIN
    assert "Origin" in asked.headers["vary"]
    assert (stranger.status, "access-control-allow-origin" in stranger.headers) == (200, False)
    assert changed.status in (200, 201)
    assert (other.status, "access-control-allow-origin" in other.headers) == (403, False)


def test_commands_send_a_key_below_a_prefix(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A test of all routes before this one may have unloaded it.
    assert place.rest("POST", "/v2/repository/models/tiny/load", ADMIN).status == 200
    file = tmp_path / "key"
    file.write_text(f"# mine\nme {KEY}\n")
    port = place.server.rest_port
    elsewhere = ("--host", "127.0.0.1", "--rest_port", str(port), "--rest_prefix", place.prefix)
    url = f"http://127.0.0.1:{port}{place.prefix}"
    grpc = f"grpc://127.0.0.1:{place.server.port}"
    values = ("--input", f"x={[[1.5] * 10]}")
    for command in (
        ("status", *elsewhere),
        ("models", *elsewhere),
        ("models", url),
        ("predict", url, "tiny", *values),
        ("predict", grpc, "tiny", *values),
    ):
        assert main([*command]) == 3, command
        assert "give --api_key" in capsys.readouterr().err, command
        assert main([*command, "--api_key", f"@{file}"]) == 0, command
        out, err = capsys.readouterr()
        assert ("2.5" if command[0] == "predict" else "AVAILABLE") in out
        assert err == ""
