# SPDX-License-Identifier: Apache-2.0
"""What the log says when the doors open: for scripts, and for people."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from ovms_mp.config.server import ServerConfig
from ovms_mp.config.transports import GrpcConfig, RestConfig, TlsConfig
from ovms_mp.manager.announcement import Announcement
from ovms_mp.model.status import State
from ovms_mp.wire.records import ModelRecord, VersionRecord

if TYPE_CHECKING:
    from collections.abc import Callable

BOTH = ServerConfig(models=(), grpc=GrpcConfig(port=9000), rest=RestConfig(port=8000))


def version(number: int, state: State, error: str = "") -> VersionRecord:
    return VersionRecord(number, state, 2 if error else 0, error, 0, (), 0, "", (), ())


def model(name: str, *versions: VersionRecord) -> ModelRecord:
    return ModelRecord(name, 0, versions)


SERVED = model("lin", version(1, State.AVAILABLE))
LOADING = model("big", version(1, State.LOADING))
FAILED = model("bad", version(3, State.LOADING, "no such layer"))
EMPTY = model("typo")
NOTES = {"typo": ["/typo: does not exist; waiting for it"]}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO)
    return lambda: caplog.messages


def tell(*told: tuple[ModelRecord, ...], config: ServerConfig = BOTH) -> None:
    announcement = Announcement(config)
    for models in told:
        announcement.tell(models, NOTES)


def test_tls_is_named(said: Callable[[], list[str]]) -> None:
    tls = TlsConfig(cert="/c", key="/k", client_ca="/a")
    tell((SERVED,), config=ServerConfig(models=(), grpc=BOTH.grpc, rest=BOTH.rest, tls=tls))

    assert said()[2:] == [
        "Ready: REST https://0.0.0.0:8000  gRPC grpcs://0.0.0.0:9000  serving lin/1",
        "Ask: curl --cacert CA.pem --cert CLIENT.pem --key CLIENT.key https://127.0.0.1:8000/v1/models/lin/metadata"
        "  or: ovms_mp status",
    ]


def test_what_is_served_and_where(said: Callable[[], list[str]]) -> None:
    tell((SERVED,))

    assert said() == [
        "gRPC server listens on port 9000 and will be serving models: ['lin']",
        "REST server listens on port 8000 and will be serving models: ['lin']",
        "Ready: REST http://0.0.0.0:8000  gRPC 0.0.0.0:9000  serving lin/1",
        "Ask: curl http://127.0.0.1:8000/v1/models/lin/metadata  or: ovms_mp status",
    ]


def test_what_is_not_served_and_why(said: Callable[[], list[str]]) -> None:
    tell((SERVED, FAILED, EMPTY, LOADING, model("new")))

    (line,) = [text for text in said() if text.startswith("Ready: ")]
    assert line.endswith(
        "serving lin/1; not serving bad/3 (no such layer), typo (/typo: does not exist; waiting for it), "
        "big (still loading), new (it has no version)"
    )


@pytest.mark.parametrize(
    "models", [(EMPTY,), (FAILED,), (EMPTY, FAILED), (model("old", version(1, State.END)),), ()]
)
def test_scripts_are_not_told_that_nothing_is_served(
    models: tuple[ModelRecord, ...], said: Callable[[], list[str]]
) -> None:
    tell(models)

    (line,) = said()
    assert line.startswith("Listening, but serving nothing: ")
    assert "REST http://0.0.0.0:8000" in line


def test_what_is_still_loading_is_promised_to_scripts(said: Callable[[], list[str]]) -> None:
    tell((LOADING, EMPTY))

    assert said()[0].endswith("will be serving models: ['big']")
    assert said()[2].startswith("Listening, but serving nothing: big (still loading), typo (")


def test_only_news_is_told(said: Callable[[], list[str]]) -> None:
    tell((EMPTY,), (EMPTY,), (EMPTY, SERVED), (EMPTY, SERVED, FAILED), (EMPTY,), (EMPTY,), (SERVED,))

    people = [text.partition(":")[0] for text in said() if not text.startswith(("gRPC", "REST", "Ask"))]
    assert people == [
        "Listening, but serving nothing",
        "Ready",
        "Not serving bad/3 (no such layer)",
        "Listening, but serving nothing",
        "Ready",
    ]
    assert sum(text.startswith("gRPC server listens") for text in said()) == 1


def not_served(said: Callable[[], list[str]]) -> list[str]:
    return [text for text in said() if text.startswith("Not serving")]


def test_what_fails_later_is_told_once_for_each_reason(said: Callable[[], list[str]]) -> None:
    otherwise = model("bad", version(3, State.LOADING, "no such file"))
    tell((SERVED,), (SERVED, FAILED), (SERVED, FAILED), (SERVED, otherwise), (SERVED,), (SERVED, otherwise))

    assert not_served(said) == [
        "Not serving bad/3 (no such layer)",
        "Not serving bad/3 (no such file)",
        "Not serving bad/3 (no such file)",
    ]


def test_what_the_first_lines_say_is_not_said_again(said: Callable[[], list[str]]) -> None:
    tell((FAILED, EMPTY), (EMPTY, FAILED), (SERVED, FAILED, EMPTY), (SERVED, EMPTY, FAILED))

    assert not_served(said) == []


def test_a_base_path_that_vanishes_beside_others_is_told(said: Callable[[], list[str]]) -> None:
    tell((SERVED, model("typo", version(1, State.AVAILABLE))), (SERVED, model("typo", version(1, State.END))))

    assert not_served(said) == ["Not serving typo (/typo: does not exist; waiting for it)"]


def test_what_loads_or_was_removed_is_no_failure(said: Callable[[], list[str]]) -> None:
    tell((SERVED,), (SERVED, LOADING, model("old", version(1, State.END))))

    assert not_served(said) == []


def test_where_only_errors_are_logged_failures_of_the_start_are(
    said: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    tell((SERVED, FAILED))

    assert said() == ["Not serving bad/3 (no such layer)"]


def test_what_the_start_loaded_is_one_line(said: Callable[[], list[str]]) -> None:
    announcement = Announcement(BOTH)
    for name in "abc":
        announcement.loaded(f"{name}/1", f"nireq={name}")
    assert said() == []
    announcement.tell((SERVED,), NOTES)
    assert said()[0] == "Loaded 3 versions: a/1, b/1, c/1"
    announcement.loaded("d/2", "nireq=4")

    assert said()[-1] == "Loaded d/2: nireq=4"


def test_one_version_of_the_start_has_its_plan(said: Callable[[], list[str]]) -> None:
    announcement = Announcement(BOTH)
    announcement.loaded("a/1", "nireq=2")
    announcement.tell((SERVED,), NOTES)
    announcement.tell((SERVED,), NOTES)

    assert [text for text in said() if text.startswith("Loaded")] == ["Loaded a/1: nireq=2"]


def test_one_protocol(said: Callable[[], list[str]]) -> None:
    tell((SERVED,), config=ServerConfig(models=(), grpc=GrpcConfig(port=9000), rest=RestConfig(port=0)))

    assert said() == [
        "gRPC server listens on port 9000 and will be serving models: ['lin']",
        "Ready: gRPC 0.0.0.0:9000  serving lin/1",
        "Ask: ovms_mp status",
    ]


@pytest.mark.parametrize(
    ("bind_address", "shown", "asked"),
    [
        ("[::]", "0.0.0.0", "127.0.0.1"),
        ("::", "0.0.0.0", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0", "127.0.0.1"),
        ("127.0.0.1, 0.0.0.0", "0.0.0.0", "127.0.0.1"),
        ("::1", "[::1]", "[::1]"),
        ("[::],127.0.0.1", "[::]", "[::]"),
        ("10.1.2.3,::1", "10.1.2.3", "10.1.2.3"),
        ("model.example.org", "model.example.org", "model.example.org"),
    ],
)
def test_addresses_are_those_that_a_client_can_use(
    bind_address: str, shown: str, asked: str, said: Callable[[], list[str]]
) -> None:
    grpc, rest = (
        GrpcConfig(port=9000, bind_address=bind_address),
        RestConfig(port=8000, bind_address=bind_address),
    )
    tell((SERVED,), config=ServerConfig(models=(), grpc=grpc, rest=rest))

    assert said()[2].startswith(f"Ready: REST http://{shown}:8000  gRPC {shown}:9000  ")
    assert said()[3].startswith(f"Ask: curl http://{asked}:8000/v1/")


def test_many_are_counted(said: Callable[[], list[str]]) -> None:
    tell(tuple(model(f"m{number}", version(1, State.AVAILABLE)) for number in range(13)))

    (line,) = [text for text in said() if text.startswith("Ready: ")]
    assert line.endswith("m9/1 and 3 more")
