# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp status --watch``: one picture, and rates from one status to the next."""

from __future__ import annotations

import json
import re

from ovms_mp.commands.status_text import Status, read_status, status_lines
from ovms_mp.commands.watch import Rates, picture, plain_lines


def status(requests: int, failures: int = 0) -> Status:
    version = {"version": 1, "state": "AVAILABLE", "requests": requests, "failures": failures}
    return read_status(json.dumps({"models": {"m": {"versions": [version]}}}).encode())


def lines_of(text: str) -> list[str]:
    """What stands on the screen."""
    assert text.startswith("\x1b[?2026h\x1b[H")
    assert text.endswith("\x1b[K\x1b[J\x1b[?2026l")
    return [re.sub(r"\x1b\[[0-9?]*[a-zA-Z]", "", line) for line in text.split("\r\n")]


def test_rates_are_what_came_since_the_last_status() -> None:
    rates = Rates()

    assert rates.update(status(10), 5.0) == {}
    assert rates.update(status(30), 7.0) == {("m", 1): 10.0}
    assert rates.update(status(0), 8.0) == {("m", 1): 0.0}  # Another server.


def test_rates_stand_in_the_row() -> None:
    found = status_lines(status(10), {("m", 1): 12.345})
    assert "10 answered  12.3/s" in " ".join(found)
    found = status_lines(status(10), {("m", 1): 12345.6})
    assert "12,346/s" in " ".join(found)


def test_a_picture_is_never_larger_than_the_terminal() -> None:
    lines = [f"line {number} " + "x" * 100 for number in range(50)]

    shown = lines_of(picture("head", lines, 40, 10, has_colour=False))

    assert len(shown) == 10
    assert max(map(len, shown)) == 40
    assert shown[0] == "head"
    assert shown[2].endswith("x>")
    assert shown[-1] == "... 43 lines more"


def test_a_picture_that_fits_is_whole() -> None:
    assert lines_of(picture("head", ["a", "b"], 40, 10, has_colour=False)) == ["head", "", "a", "b"]


def test_nothing_in_a_picture_moves_the_cursor() -> None:
    shown = lines_of(picture("head", ["a\x1b[2Jb\r"], 40, 10, has_colour=True))

    assert shown[2] == "a\\x1b[2Jb\\r"


def test_wide_characters_take_two_columns() -> None:
    shown = lines_of(picture("head", ["模型" * 20], 21, 10, has_colour=False))

    assert shown[2] == "模型" * 5 + ">"


def test_lines_for_those_who_are_no_terminal() -> None:
    (line,) = plain_lines(status(12, 2), {("m", 1): 3.0})

    assert re.fullmatch(r"\d\d:\d\d:\d\d m/1 AVAILABLE 10 answered 2 failed 3\.0/s", line)
    assert plain_lines(Status(), {})[0].endswith(" no models")


def test_a_small_terminal_has_a_smaller_picture() -> None:
    lines = ["line one", "line two", "line three"]

    for height in (1, 2, 3, 4):
        assert len(lines_of(picture("head", lines, 5, height, has_colour=False))) == height
    assert lines_of(picture("head", lines, 5, 3, has_colour=False)) == ["head", "", "... >"]
