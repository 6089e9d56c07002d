# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp models``: the table. Asking a server is in ``tests/integration``."""

from __future__ import annotations

import pytest

from ovms_mp.cli import main
from ovms_mp.commands.http_target import Target, Trust, target_of_url
from ovms_mp.commands.models import ServedVersion, _rows, model_lines
from ovms_mp.commands.status_text import Model, Status, Version
from ovms_mp.errors import ConfigError

NOTHING = {"api_key": None, "tls_ca": None, "tls_cert": None, "tls_key": None}


def test_reasons_follow_their_version() -> None:
    found = [
        ServedVersion("m", 2, "AVAILABLE", "", ("a:FP32[1]", "b:INT64[-1,2]"), ("y:BYTES[1]",)),
        ServedVersion("m", 3, "FAILED", "cannot read\nthe file"),
        ServedVersion("other", 0, "-"),
    ]
    assert model_lines(found) == [
        "MODEL  VERSION  STATE      INPUTS                   OUTPUTS",
        "m      2        AVAILABLE  a:FP32[1] b:INT64[-1,2]  y:BYTES[1]",
        "m      3        FAILED",
        "  ! cannot read",
        "  ! the file",
        "other  -        -",
    ]
    assert model_lines([]) == ["no models"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h", Target("h", 80)),
        ("h:8000", Target("h", 8000)),
        ("https://h/p/", Target("h", 443, "/p", Trust())),
        ("http://[::1]:8000/a/b", Target("::1", 8000, "/a/b")),
    ],
)
def test_urls_name_rest_ports(url: str, expected: Target) -> None:
    assert target_of_url(url, NOTHING, {}) == expected


@pytest.mark.parametrize(
    "url", ["", "ftp://h", "http://", "http://h?x", "http://h#x", "http://u:p@h", "http://h:99999"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is not valid"):
        target_of_url(url, NOTHING, {})


def test_the_key_may_come_from_the_environment() -> None:
    assert target_of_url("h", NOTHING, {"OVMS_MP_API_KEY": "k"}).key == "k"
    assert target_of_url("h", {**NOTHING, "api_key": "given"}, {"OVMS_MP_API_KEY": "k"}).key == "given"


@pytest.mark.parametrize("flag", ["--host=h", "--port=1", "--rest_port=1", "--rest_prefix=/p"])
def test_a_server_is_named_once(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "http://h", flag]) == 2

    assert "and URL: give one of them" in capsys.readouterr().err


def test_inputs_that_are_missing_have_a_reason() -> None:
    status = Status(models={"m": Model(1, (Version(1, "AVAILABLE"),)), "none": Model()})

    found, note = _rows(status, None)

    assert [(row.model, row.state, row.inputs) for row in found] == [
        ("m", "AVAILABLE", ()),
        ("none", "-", ()),
    ]
    assert note == "they are told over REST, and the server has no --rest_port"
    assert _rows(Status(models={"m": Model(1, (Version(1, "LOADING"),))}), None)[1] == ""
