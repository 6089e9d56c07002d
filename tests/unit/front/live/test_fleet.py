# SPDX-License-Identifier: Apache-2.0
"""What a page is told of the fleet: the newest file that could be read, its age, and why a newer one cannot be."""

from __future__ import annotations

import json
import logging
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from ovms_mp.front.live.fleet import FleetNews
from ovms_mp.wire.fleet_status import MOST_FILE_BYTES, FleetStatus
from tests.support.fleet_page import status, tell

if TYPE_CHECKING:
    from pathlib import Path


class Place:
    """A file, and who reads it at a time of the test's choice."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "fleet.json"
        self.later_s = 0.0
        self.news = FleetNews(str(self.file), lambda: time.monotonic_ns() + int(self.later_s * 1e9))

    def changed(self, **values: object) -> None:
        """Write the file with other values in it."""
        tell(self.file, status(2))
        document = json.loads(self.file.read_text())
        document["status"] |= values
        self.file.write_text(json.dumps(document))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_before_anything_was_told(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    assert place.news.look() == {"status": None, "age_s": None, "refusal": ""}
    assert caplog.text == ""


def test_the_newest_is_told_with_its_age(place: Place) -> None:
    tell(place.file, status(2), age_s=1)
    first = place.news.look()
    place.later_s = 10
    later = place.news.look()
    tell(place.file, status(3))
    newest = place.news.look()

    assert isinstance(first["status"], FleetStatus)
    assert (first["status"].count, first["host"], first["port"]) == (2, "10.0.0.1", 9000)
    assert 1 <= first["age_s"] < later["age_s"]
    assert later["age_s"] >= 11
    assert newest["status"].count == 3


def test_a_file_of_another_boot_is_not_of_the_future(place: Place) -> None:
    tell(place.file, status(1), age_s=-1e6)

    assert place.news.look()["age_s"] == 0


def test_what_was_told_stays_when_the_file_goes(place: Place) -> None:
    tell(place.file, status(2))
    place.news.look()
    place.file.unlink()
    seen = place.news.look()

    assert (seen["status"].count, seen["refusal"]) == (2, "")


HOSTILE = {
    "not JSON": b"{",
    "empty": b"",
    "no UTF-8": b'{"seen_ns": 1, "host": "\xff", "port": 1, "status": {}}',
    "a list": b"[]",
    "long ago": b'{"seen_ns": -1' + b"0" * 400 + b', "host": "h", "port": 1, "status": {}}',
    "deep": b"[" * 50_000,
    "deep within": b'{"status": {"servers": [' + b'{"number":' * 5_000,
    "too long": b" " * (MOST_FILE_BYTES + 1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_broken_file_is_refused_and_the_last_good_one_stays(
    place: Place, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    tell(place.file, status(2))
    place.news.look()
    place.file.write_bytes(HOSTILE[name])
    seen: list[dict[str, Any]] = [place.news.look() for _ in range(3)]

    assert seen[-1]["status"].count == 2
    assert seen[-1]["refusal"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING], "once, not every second"
    assert "event=fleet_status_refused" in caplog.text
    tell(place.file, status(3))
    assert (place.news.look()["status"].count, place.news.look()["refusal"]) == (3, "")


@pytest.mark.parametrize(
    "values",
    [
        {"count": -1},
        {"count": 1e400},
        {"count": "many"},
        {"fleet": "x" * 201},
        {"fleet": None},
        {"notes": ["x"] * 9},
        {"notes": [{}]},
        {"entries": [{"host": "h", "port": 65536}]},
        {"servers": [{"number": 1}]},
        {"servers": [{"number": n, "state": "ready", "revision": "r"} for n in range(129)]},
        {"servers": [{"number": 1, "state": "ready", "revision": "r", "used_bytes": 1 << 60}]},
        {"unknown": 1},
    ],
    ids=str,
)
def test_values_that_do_not_fit_are_refused(place: Place, values: dict[str, Any]) -> None:
    place.changed(**values)
    seen = place.news.look()

    assert seen["status"] is None
    assert 0 < len(seen["refusal"]) <= 300


def test_a_pipe_or_a_directory_is_not_waited_for(place: Place) -> None:
    os.mkfifo(place.file)
    assert place.news.look()["refusal"] == "it is not a regular file"
    place.file.unlink()
    place.file.mkdir()
    assert place.news.look()["refusal"]
