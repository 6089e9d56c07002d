# SPDX-License-Identifier: Apache-2.0
"""Texts of flags and URLs."""

from __future__ import annotations

import pytest

from ovms_mp.bench import flags
from ovms_mp.bench.endpoint import parse_endpoint
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
        "unix:/run/ovms.sock?protocol=rest",
    ],
)
def test_a_url_is_shown_as_it_was_given(url: str) -> None:
    assert parse_endpoint(url).url == url


def test_forms_of_urls() -> None:
    assert parse_endpoint("grpc://h").port == 9000
    assert parse_endpoint("unix:///run/x").unix_path == "/run/x"
    assert not parse_endpoint("unix:///run/x?protocol=rest").is_grpc
    assert parse_endpoint("host:8000").url == "http://host:8000"
    assert parse_endpoint("http://127.0.0.2:1").is_local
    assert not parse_endpoint("http://10.0.0.1:1").is_local


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://h",
        "http+unix:/run/x",
        "unix:/run/x?api=tfs",
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


def test_shapes() -> None:
    assert flags.shapes(["x=1,3,224,224", "y=(2, 4)"]) == {"x": (1, 3, 224, 224), "y": (2, 4)}


@pytest.mark.parametrize("text", ["", "x", "x=", "=1", "x=a", "x=1,,2", "x=-1"])
def test_shapes_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--shape"):
        flags.shapes([text])
