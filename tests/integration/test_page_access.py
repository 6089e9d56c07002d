# SPDX-License-Identifier: Apache-2.0
"""The live page of a server with keys, of one that has no page, and what both halves make of odd values and readers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import rest_client
from tests.support.browser import Watched, open_browser, watched
from tests.support.page import reader
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Route

    from tests.support.models import ModelZoo

pytestmark = pytest.mark.replaces_processes  # Chromium's own come and go.

KEY, ADMIN = "user-key-0123456789abcdef", "admin-key-0123456789abcdef"
WITHIN_S = 20.0
LONGEST_NAME = 1024
NAMES = 10
"""Of models that are not there yet."""
SLOW = 50


@dataclass(frozen=True)
class Place:
    """A server with keys.

    Attributes:
        keys: The file of the keys for reading.
    """

    server: Server
    keys: Path

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server.rest_port}"


@pytest.fixture(scope="module")
def place(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("guarded")
    keys, admins, config = (directory / name for name in ("keys", "admin-keys", "config.json"))
    for path, key in ((keys, KEY), (admins, ADMIN)):
        path.write_text(f"{key}\n")
        path.chmod(0o600)
    names = [f"{number}{'x' * LONGEST_NAME}"[:LONGEST_NAME] for number in range(NAMES)]
    places = {"tiny": zoo.base_path("tiny"), **dict.fromkeys(names, directory / "nowhere")}
    entries = [{"config": {"name": name, "base_path": str(path)}} for name, path in places.items()]
    config.write_text(json.dumps({"model_config_list": entries}))
    arguments = [
        *("config", "--config_path", str(config), "--metrics_enable"),
        *("--api_key_file", str(keys), "--admin_api_key_file", str(admins)),
    ]
    with Server(arguments, directory / "log", is_patient=False) as server:
        made = Place(server, keys)
        eventually(lambda: status(made, "tiny") == "AVAILABLE", WITHIN_S, "tiny is served")
        yield made


def status(place: Place, model: str) -> str:
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = rest_client.request(place.server.rest_port, "GET", "/v1/status", headers=headers)
    versions = answer.json()["models"][model]["versions"]
    return str(versions[0]["state"]) if versions else ""


def samples(connection: socket.socket, count: int) -> None:
    """Read until there were so many more."""
    seen = 0
    while seen < count:
        piece = connection.recv(1 << 16)
        assert piece, "the stream has ended"
        seen += piece.count(b"event: sample")


# What the server sends.


def test_those_who_do_not_read_hold_nobody_up(place: Place) -> None:
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(reader(place.server, "", KEY)) for _ in range(SLOW)]
        quick = stack.enter_context(reader(place.server, "", KEY))
        samples(quick, 3)
        for connection in slow:
            samples(connection, 1)
        samples(quick, 1)


def test_a_stream_ends_when_keys_change(place: Place) -> None:
    with reader(place.server, "", KEY) as connection:
        samples(connection, 1)
        place.keys.write_text(f"{KEY}\nanother-{KEY}\n")
        connection.settimeout(0.1)
        last = b""

        def is_over() -> bool:
            nonlocal last
            try:
                last = connection.recv(1 << 16)
            except TimeoutError:
                return False
            return last.endswith(b"0\r\n\r\n")

        eventually(is_over, WITHIN_S, "the stream ends, and its client is asked for a key again")


def test_a_front_that_is_asked_to_stop_does_not_wait_for_pages(place: Place) -> None:
    """Its successor has them when they come again; before it has ended there is none."""
    (front,) = place.server.pids("rest")
    with reader(place.server, "", KEY) as connection:
        samples(connection, 1)
        os.kill(front, signal.SIGTERM)
        eventually(lambda: place.server.pids("rest") not in ([], [front]), WITHIN_S, "it has been replaced")
    eventually(lambda: status(place, "tiny") == "AVAILABLE", WITHIN_S, "its successor answers")


PATHS = ("/ui", "/ui/", "/ui/main.js", "/ui/events", "/docs", "/docs/")


def test_ui_off_leaves_nothing_of_it(zoo: ModelZoo, tmp_path: Path) -> None:
    arguments = ["model", "--model_name", "tiny", "--model_path", str(zoo.base_path("tiny")), "--ui", "off"]
    with Server(arguments, tmp_path / "log") as server:

        def ask(path: str, verb: str = "GET") -> rest_client.HttpReply:
            body = b"{}" if verb == "POST" else None
            return rest_client.request(server.rest_port, verb, path, body, {"Accept": "text/html"})

        assert ask("/").json() == {"status": "alive"}
        assert {path: ask(path).status for path in PATHS} == dict.fromkeys(PATHS, 404)
        assert ask("/ui/try/v2/models/tiny/infer", "POST").status == 404
        assert not [
            path for path in ask("/openapi.json").json()["paths"] if path.startswith(("/ui", "/docs"))
        ]
        assert ask("/v2/models/tiny").status == 200


# What a browser makes of it.


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from open_browser()


def give(shown: Watched, label: str, key: str) -> None:
    """Answer the dialog of this title."""
    shown.page.get_by_role("dialog", name=label, exact=True).wait_for()
    shown.page.get_by_label("Key", exact=True).fill(key)
    shown.page.keyboard.press("Enter")


def forget_refusals(shown: Watched) -> None:
    """Chromium logs refused requests as errors."""
    shown.complaints = [text for text in shown.complaints if "401" not in text and "403" not in text]


def test_changing_the_server_needs_an_administrators_key(browser: Browser, place: Place) -> None:
    with watched(browser, place.origin) as shown:
        page = shown.page
        page.goto(f"{place.origin}/ui/")
        give(shown, "API key", KEY)
        page.locator("#status.good, #status.busy").wait_for()
        reload = page.get_by_role("button", name="Reload")
        reload.click()
        page.get_by_role("dialog", name="Administrator's API key").wait_for()
        page.keyboard.press("Escape")
        page.get_by_text("needs an administrator's API key").wait_for()
        reload.click()
        give(shown, "Administrator's API key", f"wrong-{ADMIN}")
        page.get_by_text("The server does not accept that key.").wait_for()
        give(shown, "Administrator's API key", ADMIN)
        page.get_by_text("Reload: done").or_(page.get_by_text("nowhere")).first.wait_for()
        page.get_by_role("link", name="tiny", exact=True).click()
        page.get_by_role("button", name="Run", exact=True).click()
        page.locator(".waterfall").wait_for()

        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        assert not shown.overflows()
        forget_refusals(shown)
        shown.complaints = [text for text in shown.complaints if "412" not in text]


def test_who_gives_no_key_is_not_asked_again_and_again(browser: Browser, place: Place) -> None:
    with watched(browser, place.origin) as shown:
        page = shown.page
        page.goto(f"{place.origin}/ui/")
        page.get_by_role("dialog").wait_for()
        page.keyboard.press("Escape")
        again = page.get_by_role("button", name="Give an API key")
        again.wait_for()
        assert page.get_by_role("dialog").count() == 0
        again.click()
        give(shown, "API key", KEY)
        page.locator(".models tbody tr").wait_for()

        assert again.count() == 0
        assert "Without a version yet: 0xxx" in page.locator("section:has(#models-title)").inner_text()
        forget_refusals(shown)


ENCODED = """async (cases) => {
  const { encode, parseExactly } = await import("./tensors.js");
  return cases.map(([dtype, text]) => {
    try {
      return Array.from(encode(dtype, parseExactly(text)));
    } catch (error) {
      return error.message;
    }
  });
}"""
DECODED = """async (cases) => {
  const { decode, valueText } = await import("./tensors.js");
  const shown = (dtype, values) => values.map((value) => valueText(dtype, value));
  return cases.map(([dtype, octets]) => shown(dtype, decode(dtype, Uint8Array.from(octets), 10)));
}"""


@pytest.fixture
def blank(browser: Browser, place: Place) -> Iterator[Watched]:
    """The page beside its scripts, while it waits for a key."""
    with watched(browser, place.origin) as shown:
        shown.page.goto(f"{place.origin}/ui/")
        shown.page.get_by_role("dialog").wait_for()
        yield shown
        forget_refusals(shown)


def test_what_is_typed_is_sent_to_the_last_bit_or_refused(blank: Watched) -> None:
    cases: dict[tuple[str, str], Any] = {
        ("INT64", "[9007199254740993]"): list((2**53 + 1).to_bytes(8, "little")),
        ("INT64", "[-9223372036854775808]"): list((1 << 63).to_bytes(8, "little")),
        ("UINT64", "[18446744073709551615]"): [255] * 8,
        ("UINT64", "[18446744073709551616]"): "18446744073709551616 does not fit UINT64",
        ("UINT8", "[255, 300]"): "300 does not fit UINT8",
        ("INT8", "[-129]"): "-129 does not fit INT8",
        ("INT32", "[1.5]"): "1.5 is no whole number, and INT32 has nothing else",
        ("INT32", "[true, 2.0]"): [1, 0, 0, 0, 2, 0, 0, 0],
        ("BOOL", "[true, 0]"): [1, 0],
        ("BOOL", "[2]"): "2 is no truth value; BOOL has true and false",
        ("FP32", "[1e39]"): "1e+39 does not fit FP32",
        ("FP32", "[16777217]"): [0, 0, 128, 75],
        ("FP16", "[65504]"): [255, 123],
        ("FP16", "[65520]"): "65520 does not fit FP16",
        ("BF16", "[1.99999]"): [0, 64],
        ("FP64", "[1e999]"): "Infinity does not fit FP64",
        ("BYTES", '["\u00e9"]'): [2, 0, 0, 0, 195, 169],
    }

    assert blank.page.evaluate(ENCODED, list(cases)) == list(cases.values())


def test_what_is_answered_is_shown_as_it_is(blank: Watched) -> None:
    cases: list[tuple[str, list[int], list[str]]] = [
        ("FP32", [0, 0, 192, 127, 0, 0, 128, 255, 0, 0, 128, 63], ["NaN", "-Infinity", "1"]),
        ("FP32", [205, 204, 204, 61], ["0.1"]),
        ("FP64", list(bytes.fromhex("9a9999999999b93f")), ["0.1"]),
        ("INT64", list((2**53 + 1).to_bytes(8, "little")), ["9007199254740993"]),
        ("BOOL", [1, 0], ["true", "false"]),
        ("BYTES", [3, 0, 0, 0, 97, 44, 98], ['"a,b"']),
    ]
    shown = blank.page.evaluate(DECODED, [[dtype, octets] for dtype, octets, _ in cases])

    assert shown == [expected for _, _, expected in cases]


LONG = str(2**63 - 1)


def played(**version: object) -> bytes:
    """Events of a server with one model, whose version is odd."""
    tensor = {"name": "<b>x</b>", "dtype": "FP32", "bounds": [[1, 1]], "layout": "<i>"}
    whole = {
        **{"version": LONG, "state": "AVAILABLE", "is_failed": False, "is_coming": False, "retry_in_s": None},
        **{"message": "", "detail": "<u>plan</u>", "workers": 1, "infer_requests": 1, "streams": 1},
        **{"inputs": [tensor], "outputs": [tensor], "hidden_inputs": 0, "hidden_outputs": 0},
    }
    server = {
        **{"version": "1<s>", "is_draining": False, "unready": "<em>no</em>", "has_metrics": True},
        **{"grpc_port": 9000, "is_secure": False, "may_change": False, "cores": [0]},
    }
    state = {
        "server": server,
        "refusal": {"at_s": 1.0, "reason": "<h1>refused</h1>"},
        "plan": ["<p>plan"],
        "workers": [{"name": "<w>", "device": "<d>", "pid": 7, "cores": [0]}],
        "models": [{"name": "odd", "default": LONG, "is_unloaded": False, "versions": [whole | version]}],
        "hidden_versions": 3,
        "events": [{"at_s": 1.0, "level": "error", "text": "<img src=x>", "model": "odd"}] * 60,
    }
    process = {"pid": 7, "kind": "worker", "name": "<w>", "cores": 0.5, "own_bytes": 1, "shared_bytes": 1}
    sample = {
        "elapsed_s": 1,
        "versions": [{"model": "odd", "version": LONG, "requests": 5, "answers_per_s": 5.0, "p50_ms": 1.0}],
        "processes": [process | {"age_s": 1}, process | {"pid": 8, "kind": "grpc", "age_s": 1}],
        "arenas": [],
        "ends": {"grpc": 2, "rest": 1, "worker": 1},
        "transfers": {
            **{"done": 1, "failed": 0, "bytes": 1024},
            **{"under_way": 2, "here_bytes": 1 << 20, "wanted_bytes": 4 << 20},
        },
    }
    events = [("state", state), ("sample", sample)]
    return "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events).encode()


def play(shown: Watched, events: bytes, address: str = "") -> None:
    """Open the page of a server that says this."""
    shown.page.route(
        "**/ui/events", lambda route: route.fulfill(content_type="text/event-stream", body=events)
    )
    shown.page.goto(f"{shown.origin}/ui/{address}")
    shown.page.locator("h1").wait_for(state="attached")


def test_whatever_a_server_tells_is_text(browser: Browser, place: Place) -> None:
    with watched(browser, place.origin) as shown:
        play(shown, played())
        text = shown.page.locator("body").inner_text()
        tags = "b, i, u, s, em, w, d, main img, main h1 ~ h1, p p"
        overview = shown.page.locator(tags).count()
        shown.page.get_by_role("link", name="odd").click()
        shown.page.locator(".tensors").first.wait_for()

        assert (overview, shown.page.locator(tags).count()) == (0, 0)
        for told in ("<h1>refused</h1>", "<img src=x>", "<p>plan", "<w> \u00b7 <d>", "1<s>"):
            assert told in text
        assert "<b>x</b>" in shown.page.locator(".tensors").first.inner_text()


def test_ends_are_told_by_kind_and_downloads_as_they_go(browser: Browser, place: Place) -> None:
    with watched(browser, place.origin) as shown:
        play(shown, played())
        fronts = shown.page.locator(".lane.fronts .lane-head").inner_text()
        workers = shown.page.locator(".lane.workers .lane-head").inner_text()
        transfers = shown.page.locator(".transfers").inner_text()
        bar = shown.page.get_by_role("progressbar")

        assert "3 replaced after an unexpected end (gRPC front 2, REST front 1)" in fronts
        assert "1 replaced after an unexpected end" in workers
        assert transfers.startswith("2 under way, 1.0 MiB of 4.0 MiB downloaded. 1 done")
        assert bar.evaluate("bar => bar.position") == 0.25
        shown.page.locator(".events").focus()
        assert shown.page.evaluate("document.activeElement.className") == "events", "it scrolls by keys"
        assert "3 more versions are served than a page shows" in shown.page.locator("main").inner_text()


def test_a_long_version_is_asked_for_by_all_of_its_digits(browser: Browser, place: Place) -> None:
    asked: list[str] = []
    with watched(browser, place.origin) as shown:

        def fail(route: Route) -> None:
            asked.append(route.request.url)
            route.abort()

        shown.page.route("**/ui/try/**", fail)
        play(shown, played(), f"#model=odd&version={LONG}")
        shown.page.get_by_role("button", name="Run", exact=True).click()
        shown.page.get_by_text("the server cannot be reached").wait_for()

        assert asked == [f"{place.origin}/ui/try/v2/models/odd/versions/{LONG}/infer"]
        assert f"/versions/{LONG}/infer" in shown.page.get_by_role("tabpanel").inner_text()
        shown.complaints = [text for text in shown.complaints if "ERR_FAILED" not in text]


def test_a_model_without_inputs_has_a_form_and_one_with_too_many_has_none(
    browser: Browser, place: Place
) -> None:
    for version, is_enabled in (({"inputs": []}, True), ({"hidden_inputs": 1}, False)):
        with watched(browser, place.origin) as shown:
            play(shown, played(**version), "#model=odd")
            assert shown.page.get_by_role("button", name="Run", exact=True).is_enabled() is is_enabled


def test_what_is_not_there_is_said(browser: Browser, place: Place) -> None:
    with watched(browser, place.origin) as shown:
        play(shown, played(), "#model=odd&version=7")
        shown.page.get_by_text("There is no version 7 of this model.").wait_for()
        shown.page.evaluate("location.hash = '#model=none'")
        shown.page.get_by_text("There is no model of this name.").wait_for()

        assert shown.page.locator(".chip").count() == 0
        assert not shown.page.get_by_role("button", name="Run", exact=True).is_visible()
