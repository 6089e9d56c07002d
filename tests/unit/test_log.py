# SPDX-License-Identifier: Apache-2.0
"""The form of the log's lines, and what becomes of those that cannot be written."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_mp.log import (
    ServerLog,
    check_log_path,
    chosen_form,
    tell_everybody,
    tell_log_readers,
    tell_people,
)
from ovms_mp.log_forms import (
    LONGEST_MESSAGE,
    LONGEST_TRACEBACK,
    JournalFormatter,
    LineFormatter,
    ShortFormatter,
    printable,
)
from ovms_mp.log_sinks import FileSink, Sink

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PREFIX = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - (\S+) - (\w+) - \[kind pid=\d+ run=r\] ", re.ASCII
)


def record(
    text: str, *arguments: object, error: BaseException | None = None, level: int = logging.INFO
) -> logging.LogRecord:
    details = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("name", level, "", 0, text, arguments, details)


def formatted(text: str, *arguments: object, error: BaseException | None = None) -> str:
    return LineFormatter("kind", "r").format(record(text, *arguments, error=error))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("a\nb\r\nc\td", r"a\nb\r\nc\td"),
        ("\u2028\u2029\x85", r"\u2028\u2029\x85"),
        ("\ud800 half", r"\ud800 half"),
        ("\x9b0m \u202e\ufeff\x7f\0", r"\x9b0m \u202e\ufeff\x7f\x00"),
        ("größer, 模型, 😀", "größer, 模型, 😀"),
    ],
)
def test_what_does_not_print_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert formatted("event=x path=%s", text).endswith(f"] event=x path={shown}")


@given(st.text(st.characters()))
def test_any_text_is_one_line_that_can_be_encoded(text: str) -> None:
    line = formatted("event=x %s", text)

    assert line.isprintable()
    assert line.encode()


def test_the_first_fields_are_those_that_scripts_match() -> None:
    match = PREFIX.match(formatted("event=x"))

    assert match
    assert match.groups() == ("name", "INFO")


def test_a_long_message_is_cut_and_says_so() -> None:
    line = formatted("event=x %s", "y" * 50_000_000)

    assert len(line) < LONGEST_MESSAGE + 200
    assert line.endswith(f"({50_000_000 + len('event=x ') - LONGEST_MESSAGE} more characters)")
    assert len(formatted("%s", "\U000e0001" * 10_000)) < 2 * LONGEST_MESSAGE + 300


def test_a_kind_is_shown_as_safely_as_a_message() -> None:
    line = LineFormatter("probe a\n\x1b version 1", "r").format(record("event=x"))

    assert r"[probe a\n\x1b version 1 pid=" in line


def raised(text: str) -> BaseException:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


def test_tracebacks_keep_their_lines_and_none_of_them_looks_like_a_record() -> None:
    text = formatted("event=x", error=raised(f"bad\n{formatted('event=forged')}\n\x1b[2J\u2028"))
    first, *rest = text.split("\n")

    assert first.endswith("event=x")
    assert rest[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") and line.isprintable() for line in rest)
    assert not any(PREFIX.match(line) for line in rest)


def test_a_long_traceback_keeps_its_end() -> None:
    text = formatted("event=x", error=raised("y" * 1_000_000 + " the end"))

    assert len(text) < LONGEST_TRACEBACK + 300
    assert text.endswith("y the end")


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_a_record_that_cannot_be_read_is_a_line_all_the_same() -> None:
    assert "event=unreadable_record 'a %s %s': TypeError" in formatted("a %s %s", 1)
    assert "event=unreadable_record 'a %s': RuntimeError" in formatted("a %s", Unspeakable())


class Disk(Sink):
    """Takes lines while it has room."""

    def __init__(self, name: str = "disk") -> None:
        super().__init__(name)
        self.lines: list[str] = []
        self.is_full = False

    def write(self, line: bytes, patience_s: float = 0.0) -> bool:
        if self.is_full:
            self.reason = "No space left on device"
            return False
        self.lines.append(line.decode())
        return True

    def messages(self) -> list[str]:
        return [line.rstrip("\n").partition("] ")[2] for line in self.lines]


def test_lost_lines_are_counted_and_reported_once() -> None:
    disk, stderr = Disk(), Disk("stderr")
    log = ServerLog([stderr, disk], LineFormatter("kind", "r"))
    log.emit(record("1"))
    disk.is_full = True
    for text in "234":
        log.emit(record(text))
    disk.is_full = False
    log.emit(record("5"))
    log.emit(record("6"))

    assert disk.messages() == ["1", "event=log_lines_lost count=3", "5", "6"]
    said = "event=log_write_failed to=disk reason=No space left on device; lines are lost until that is over"
    assert stderr.messages() == ["1", "2", said, "3", "4", "5", "6"]


def test_a_terminal_gets_what_people_want_to_see_and_the_file_every_event() -> None:
    terminal, file = Disk("terminal"), Disk("file")
    log = logging.getLogger("test_a_terminal")
    log.setLevel(logging.INFO)
    log.propagate = False
    handler = ServerLog([terminal, file], LineFormatter("kind", "r"), ShortFormatter("kind", "r"))
    log.addHandler(handler)
    try:
        log.info("event=spawned")
        log.warning("event=odd")
        tell_people(log, "Loaded %s", "lin/1")
        tell_everybody(log, logging.INFO, "Ready: %s", "here\x1b")
        tell_log_readers(log, logging.ERROR, "event=load_failed %s", "lin/2")
        tell_people(log, "Not serving %s", "lin/2", level=logging.ERROR)
    finally:
        log.removeHandler(handler)

    assert [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in terminal.lines] == [
        "warning: event=odd\n",
        "Loaded lin/1\n",
        "Ready: here\\x1b\n",
        "error: Not serving lin/2\n",
    ]
    assert [PREFIX.sub("", line) for line in file.lines] == [
        "event=spawned\n",
        "event=odd\n",
        "Ready: here\\x1b\n",
        "event=load_failed lin/2\n",
    ]


@pytest.mark.parametrize(
    ("form", "level", "is_terminal", "expected"),
    [
        ("AUTO", "INFO", True, "SHORT"),
        ("AUTO", "INFO", False, "EVENTS"),
        ("AUTO", "DEBUG", True, "EVENTS"),
        ("AUTO", "TRACE", True, "EVENTS"),
        ("EVENTS", "INFO", True, "EVENTS"),
        ("SHORT", "INFO", False, "SHORT"),
        ("SHORT", "DEBUG", False, "SHORT"),
        ("JOURNAL", "INFO", True, "JOURNAL"),
    ],
)
def test_which_form_is_chosen(
    form: str, level: str, is_terminal: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "isatty", lambda _: is_terminal)

    assert chosen_form(form, level, "") == expected


@pytest.mark.parametrize(("offset", "expected"), [(0, "JOURNAL"), (1, "EVENTS")])
def test_the_journals_form_where_it_reads_stderr(
    offset: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell that systemd started has the variable, too, but not the stream."""
    monkeypatch.setattr(os, "isatty", lambda _: False)
    found = os.fstat(2)

    assert chosen_form("AUTO", "INFO", f"{found.st_dev}:{found.st_ino + offset}") == expected
    assert chosen_form("EVENTS", "INFO", f"{found.st_dev}:{found.st_ino}") == "EVENTS"


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7)],
)
def test_each_line_of_the_journal_has_a_priority_and_no_time(level: int, priority: int) -> None:
    stderr, file = Disk("stderr"), Disk()
    log = ServerLog([stderr, file], LineFormatter("kind", "r"), JournalFormatter("kind", "r"))
    try:
        raise ValueError("odd\nvalue")
    except ValueError:
        log.emit(logging.LogRecord("a.b", level, "", 0, "event=odd", (), sys.exc_info()))

    text = "".join(stderr.lines)
    assert text.startswith(f"<{priority}>[kind] a.b: event=odd\n<{priority}>  Traceback")
    assert all(line.startswith(f"<{priority}>") for line in text.splitlines())
    assert PREFIX.match(file.lines[0])


def test_nothing_is_told_where_nothing_can_be_written() -> None:
    disk, stderr = Disk(), Disk("stderr")
    log = ServerLog([stderr, disk], LineFormatter("kind", "r"))
    disk.is_full = stderr.is_full = True
    for text in "12":
        log.emit(record(text))
    stderr.is_full = False
    log.emit(record("3"))
    disk.is_full = False
    log.emit(record("4"))

    assert stderr.messages() == ["event=log_lines_lost count=2", "3", "4"]
    assert disk.messages() == ["event=log_lines_lost count=3", "4"]


def test_a_disk_that_is_full_and_then_is_not(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.symlink_to("/dev/full")
    log = ServerLog([FileSink(str(path))], LineFormatter("kind", "r"))
    for text in "12":
        log.emit(record(text))
    path.unlink()
    log.emit(record("3"))
    log.close()

    lines = [line.partition("] ")[2] for line in path.read_text().splitlines()]
    assert lines == ["event=log_lines_lost count=2", "3"]


@pytest.mark.parametrize(
    ("make", "is_right"),
    [
        (lambda path: path.touch(), True),
        (lambda path: path.symlink_to("/dev/full"), True),
        (lambda path: os.mkfifo(path), True),
        (lambda path: path.mkdir(), False),
        (lambda path: path.symlink_to(path), False),
    ],
    ids=["file", "full", "FIFO", "directory", "loop"],
)
def test_log_paths_at_the_start(tmp_path: Path, make: Callable[[Path], None], is_right: bool) -> None:
    make(tmp_path / "log")
    if is_right:
        check_log_path(str(tmp_path / "log"))
        return
    with pytest.raises(OSError, match="log"):
        check_log_path(str(tmp_path / "log"))


CHILD = """
import os, sys
from ovms_mp.cli import main
code = main(sys.argv[1:])
os.fstat(2), os.fstat(1), os.fstat(0)
sys.exit(code)
"""


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_program_whose_descriptors_are_closed(closed: str) -> None:
    command = f'"$0" -c "$1" config --config_path /nonexistent --port 1 {closed}'
    done = subprocess.run(["/bin/sh", "-c", command, sys.executable, CHILD], check=False, timeout=60)

    assert done.returncode == 2
