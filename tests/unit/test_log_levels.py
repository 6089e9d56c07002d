# SPDX-License-Identifier: Apache-2.0
"""Which lines are written, and that a handler follows what is said of them."""

from __future__ import annotations

import logging
import re

import pytest

from ovms_mp.log import ServerLog
from ovms_mp.log_forms import LineFormatter
from ovms_mp.log_levels import LogLevels

ALL = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


class Kept:
    """A sink in memory."""

    name, reason, lost = "memory", "", 0

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: bytes) -> bool:
        self.lines.append(line.decode())
        return True

    def reopen(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("level", "least"),
    [
        ("TRACE", logging.DEBUG),
        ("debug", logging.DEBUG),
        ("INFO", logging.INFO),
        ("WARNING", logging.WARNING),
        ("ERROR", logging.ERROR),
    ],
)
def test_the_flag_is_a_least_severity(level: str, least: int) -> None:
    levels = LogLevels.of(level)
    assert [number for number in ALL if levels.lets_through(number)] == [n for n in ALL if n >= least]
    assert levels.threshold == least


@pytest.mark.parametrize(
    ("levels", "written"),
    [
        (LogLevels(info=False), [logging.WARNING, logging.ERROR, logging.CRITICAL]),
        (LogLevels(warning=False), [logging.INFO, logging.ERROR, logging.CRITICAL]),
        (LogLevels(error=False, verbose=3), [logging.DEBUG, logging.INFO, logging.WARNING]),
        (LogLevels(info=False, warning=False, error=False), []),
    ],
)
def test_each_severity_is_on_or_off_by_itself(levels: LogLevels, written: list[int]) -> None:
    assert [number for number in ALL if levels.lets_through(number)] == written
    assert all(number >= levels.threshold for number in written)
    assert bool(written) == (levels.threshold <= logging.CRITICAL)


def test_a_handler_follows() -> None:
    sink = Kept()
    handler = ServerLog([sink], LineFormatter("kind", "r"))  # type: ignore[list-item]  # as good as one

    def write(level: int) -> None:
        handler.emit(logging.LogRecord("name", level, "", 0, "text", (), None))

    handler.follow(LogLevels(warning=False))
    for level in ALL:
        write(level)
    assert [line.split(" - ")[2] for line in sink.lines] == ["INFO", "ERROR", "CRITICAL"]
    handler.follow(LogLevels(form="ISO8601"))
    write(logging.WARNING)
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z - name - WARNING - ", sink.lines[-1])
    handler.follow(LogLevels())
    write(logging.WARNING)
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - name - WARNING - ", sink.lines[-1])
