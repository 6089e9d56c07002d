# SPDX-License-Identifier: Apache-2.0
"""Texts of flags and URLs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovms_mp.bench import flags
from ovms_mp.bench.endpoint import parse_endpoint
from ovms_mp.config.argument_parser import EarlyExit
from ovms_mp.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("4", (4,)),
        ("1,2,8", (1, 2, 8)),
        ("1-16", (1, 2, 4, 8, 16)),
        ("1-20", (1, 2, 4, 8, 16, 20)),
        ("3-3", (3,)),
    ],
)
def test_levels(text: str, wanted: tuple[int, ...]) -> None:
    assert flags.levels(text) == wanted


@pytest.mark.parametrize("text", ["", "0", "-1", "8-1", "1,,2", "a", "1-2-3", "1" * 30, "٣", "1" + ",1" * 64])
def test_levels_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--concurrency"):
        flags.levels(text)


@pytest.mark.parametrize("text", ["", "0", "nan", "inf", "-5", "x"])
def test_rates_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="accepted: a number from"):
        flags.rates(text)


@pytest.mark.parametrize(
    "url",
    [
        "grpc://127.0.0.1:9000",
        "grpcs://host:1",
        "http://[::1]:8000/prefix",
        "https://host:443",
        "unix:/run/ovms.sock",
        "http+unix:/run/ovms.sock",
    ],
)
def test_a_url_is_shown_as_it_was_given(url: str) -> None:
    assert parse_endpoint(url).url == url


def test_forms_of_urls() -> None:
    assert parse_endpoint("grpc://h").port == 9000
    assert parse_endpoint("unix:///run/x").unix_path == "/run/x"
    assert parse_endpoint("http://127.0.0.2:1").is_local
    assert not parse_endpoint("http://10.0.0.1:1").is_local


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host:9000",
        "ftp://h",
        "grpc://",
        "grpc://h:99999",
        "grpc://h/x",
        "unix:rel",
        "http://h?x",
        "http://[",
    ],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ConfigError, match="URL"):
        parse_endpoint(url)


def test_the_key_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("secret\nother\n")

    assert flags.api_key({"api_key": "", "api_key_file": str(file)}) == "secret"


def test_a_key_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        flags.api_key({"api_key": "a", "api_key_file": "b"})
    with pytest.raises(ConfigError, match="--api_key_file"):
        flags.api_key({"api_key": "", "api_key_file": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match="no header can carry"):
        flags.api_key({"api_key": "a\r\nb: c", "api_key_file": ""})


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EarlyExit):
        flags.bench_parser().read(["--help"])

    text = capsys.readouterr().out
    assert 25 <= len(text.splitlines()) <= 40
    for flag in flags.bench_parser().flags():
        if flag not in ("--help",):
            assert flag in text
