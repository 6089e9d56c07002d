# SPDX-License-Identifier: Apache-2.0
"""The log as JSON: fields from forms and arguments, whatever they hold."""

from __future__ import annotations

import ast
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ovms_mp
from ovms_mp.log import ServerLog
from ovms_mp.log_forms import LONGEST_TRACEBACK, JsonFormatter
from ovms_mp.log_json import RESERVED, fields_of
from ovms_mp.log_sinks import Backlog, Sink

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMATTER = JsonFormatter("kind", "r")


def document(text: str, *arguments: object, error: BaseException | None = None) -> dict[str, object]:
    details = None if error is None else (type(error), error, error.__traceback__)
    line = FORMATTER.format(logging.LogRecord("name", logging.INFO, "", 0, text, arguments, details))
    assert "\n" not in line
    assert line.isascii()
    found: dict[str, object] = json.loads(line)
    return found


@pytest.mark.parametrize(
    ("form", "arguments", "fields"),
    [
        ("event=starting version=%s", ("1.2",), {"event": "starting", "version": "1.2"}),
        ("event=stopped", (), {"event": "stopped"}),
        (
            "event=spawned child=%s pid=%d took=%.3f",
            ("a", 7, 0.12345),
            {"event": "spawned", "child": "a", "pid": 7, "took": 0.123},
        ),
        (
            "event=died child=%s state=%s %s",
            ("a b=c", "READY", "killed by signal 9"),
            {"event": "died", "child": "a b=c", "state": "READY", "message": "killed by signal 9"},
        ),
        ("event=plan %s", ("cores=1,2 threads=4",), {"event": "plan", "cores": "1,2", "threads": 4}),
        (
            "event=boot_hangs child=%s not ready in %g s (--boot_timeout_s); killing",
            ("a", 2.5),
            {
                "event": "boot_hangs",
                "child": "a",
                "message": "not ready in 2.5 s (--boot_timeout_s); killing",
            },
        ),
        (
            "event=cache_not_used directory=%s: %s",
            ("/a b", "it = full"),
            {"event": "cache_not_used", "directory": "/a b", "message": "it = full"},
        ),
        (
            "event=defect victim=%r error=%s%s",
            ("m'", "x", " y"),
            {"victim": "m'", "error": "x y", "event": "defect"},
        ),
        ("Ready: %s", ("REST http://x?a=b",), {"message": "Ready: REST http://x?a=b"}),
        ("%s", ("a=b c=d",), {"a": "b", "c": "d"}),
        ("100%% of %s", ("x",), {"message": "100% of x"}),
        ("100% of nothing", (), {"message": "100% of nothing"}),
        ("event=x level=%d", (3,), {"event": "x", "level_": 3}),
        (
            "event=x is_on=%s none=%s ratio=%g",
            (True, None, float("nan")),
            {"event": "x", "is_on": True, "none": None, "ratio": "nan"},
        ),
    ],
)
def test_fields(form: str, arguments: tuple[object, ...], fields: dict[str, object]) -> None:
    assert fields_of(form, arguments) == fields


def test_every_object_says_when_and_where() -> None:
    found = document("event=x pid=%d", 3)

    assert set(found) == {"time", "level", "logger", "process", "event", "pid"}
    assert str(found["time"]).endswith("Z")
    assert (found["level"], found["logger"], found["pid"]) == ("INFO", "name", 3)
    assert isinstance(found["process"], dict)
    assert set(found["process"]) == {"kind", "pid", "run"}


@given(st.text(st.characters()), st.text(st.characters()))
def test_what_a_client_sends_stays_in_its_field(first: str, second: str) -> None:
    found = document("event=call_raised method=%s user_agent=%r", first, second)

    assert (found["event"], found["method"]) == ("call_raised", first)
    assert set(found) == {"time", "level", "logger", "process", "event", "method", "user_agent"}


def test_a_traceback_is_in_its_object() -> None:
    try:
        raise ValueError("x" * 2 * LONGEST_TRACEBACK)
    except ValueError as error:
        found = document("event=x", error=error)

    assert len(str(found["traceback"])) == LONGEST_TRACEBACK
    assert found["event"] == "x"


@pytest.mark.parametrize("arguments", [(1,), (1, 2, 3), ("a", "b")])
def test_a_record_that_cannot_be_read_is_an_object_all_the_same(arguments: tuple[object, ...]) -> None:
    assert document("event=y a=%s b=%d", *arguments)["event"] == "unreadable_record"


def forms() -> Iterator[str]:
    """Every form that the package logs by."""
    for path in Path(ovms_mp.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and node.value.startswith("event=")
            ):
                yield node.value


def test_no_form_of_ours_has_a_field_that_objects_have_anyway() -> None:
    found = list(forms())

    assert len(found) > 100
    assert [form for form in found for name in RESERVED if f" {name}=" in form] == []


class Pipe(Sink):
    """Takes so many lines, and never waits."""

    def __init__(self, room: int) -> None:
        super().__init__("pipe")
        self.room = room
        self.lines: list[bytes] = []

    def write(self, line: bytes, patience_s: float = 1.0) -> bool:
        assert patience_s == 0
        if len(self.lines) >= self.room:
            return False
        self.lines.append(line)
        return True


def test_lines_that_nobody_takes_are_kept_then_lost_and_counted() -> None:
    pipe = Pipe(1)
    backlog = Backlog(pipe, 2)
    for number in range(5):
        backlog.offer(b"%d" % number)
    assert backlog.flush() == 0
    pipe.room = 2
    assert backlog.flush() == 0
    backlog.offer(b"5")
    pipe.room = 9

    assert backlog.flush() == 2
    assert backlog.flush() == 0
    assert pipe.lines == [b"0", b"1", b"2", b"5"]


def test_offered_lines_are_written_in_their_order_and_losses_told() -> None:
    pipe = Pipe(0)
    log = ServerLog([pipe], FORMATTER)
    for number in range(5000):
        log.offer(logging.LogRecord("name", logging.INFO, "", 0, "event=call n=%d", (number,), None))
    pipe.room = 10_000
    log.flush_offered()
    found = [json.loads(line) for line in pipe.lines]

    assert [entry.get("n") for entry in found[:-1]] == list(range(4096))
    assert (found[-1]["event"], found[-1]["count"]) == ("access_log_lines_lost", 904)
