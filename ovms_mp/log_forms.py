# SPDX-License-Identifier: Apache-2.0
"""What the log's records look like: for the legacy server's readers, for people, for the journal, and as JSON.

The first fields of an event are those of the legacy server's log, which scripts match; then come the process's kind and
pid and the run that it belongs to. Each record is one line, however a client worded what is in it; only tracebacks
have more, which are indented.
"""

from __future__ import annotations

import logging
import os
import re
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from ovms_mp.log_json import MESSAGE, fields_of, json_line

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_MESSAGE = 4096
"""Characters of a record's text, without its traceback."""
LONGEST_TRACEBACK = 16384
_TIME = "%Y-%m-%d %H:%M:%S"
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.NOTSET, 7),
)
"""Least level of each of syslog's priorities."""
_PLAIN = re.compile(r"[ -~]*")


def printable(text: str) -> str:
    r"""The text on one line, with every character that does not print written as ``\n``, ``\x1b``, ``\u2028``, ...

    Nothing that a client sends can then end a line, move a terminal's cursor or fail to be encoded.
    PERF: 0.2 us for a line of ASCII.
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )


def bounded(text: str, most: int = LONGEST_MESSAGE) -> str:
    """The text, or its beginning and how much of it is missing."""
    if len(text) <= most:
        return text
    return f"{text[:most]} ... ({len(text) - most} more characters)"


class LineFormatter(logging.Formatter):
    """Makes one line of a record, and indented lines of its traceback."""

    is_for_people = False
    """Whether its lines are those that people want to see, instead of all events."""
    has_iso_time = False
    """Whether the time of events is UTC, as ISO 8601 has it."""

    def __init__(self, kind: str, run_id: str) -> None:
        super().__init__(datefmt=_TIME)
        self._kind = kind
        self._run_id = run_id

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record, without the last line break."""
        try:
            message = record.getMessage()
        except Exception as error:  # Arguments that do not fit, or whose own text fails: any kind.
            message = f"event=unreadable_record {record.msg!r}: {type(error).__name__}"
        # Cut twice: a character may become ten, and escaping all of a long text would take long.
        message = bounded(printable(bounded(message)), 2 * LONGEST_MESSAGE)
        text = printable(self.prefix(record)) + message
        for more in (self._traceback(record), record.stack_info or ""):
            if more:
                # The end says most; what is cut is the beginning.
                kept = more if len(more) <= LONGEST_TRACEBACK else "... " + more[-LONGEST_TRACEBACK:]
                text += "".join(f"\n  {printable(line)}" for line in kept.split("\n"))
        return text

    def prefix(self, record: logging.LogRecord) -> str:
        """What stands before a record's text."""
        local = f"{self.formatTime(record, _TIME)},{int(record.msecs):03d}"
        time = _iso_time(record) if self.has_iso_time else local
        process = f"[{self._kind} pid={os.getpid()} run={self._run_id}]"
        return f"{time} - {record.name} - {record.levelname} - {process} "

    def _traceback(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else (record.exc_text or "")


def _iso_time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class ShortFormatter(LineFormatter):
    """For a terminal: the time of day and the text, with the level where that is not the usual one."""

    is_for_people = True

    def prefix(self, record: logging.LogRecord) -> str:
        """What stands before a record's text."""
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"{self.formatTime(record, '%H:%M:%S')} {level}"


class JournalFormatter(LineFormatter):
    """For journald, which has a time stamp and a process for each line, and reads its priority from ``<N>``.

    Source: https://www.freedesktop.org/software/systemd/man/latest/sd-daemon.html.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record; each of its lines is an entry of the journal."""
        priority = next(number for least, number in _PRIORITIES if record.levelno >= least)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).split("\n"))

    def prefix(self, record: logging.LogRecord) -> str:
        """What stands before a record's text."""
        return f"[{self._kind}] {record.name}: "


class JsonFormatter(LineFormatter):
    """For programs that collect logs: see :mod:`ovms_mp.log_json`."""

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record: one line, with its traceback."""
        try:
            fields = fields_of(str(record.msg), record.args)
        except Exception as error:  # As above.
            fields = {"event": "unreadable_record", MESSAGE: f"{record.msg!r}: {type(error).__name__}"}
        bound = {name: bounded(value) if isinstance(value, str) else value for name, value in fields.items()}
        for more in (self._traceback(record), record.stack_info or ""):
            if more:
                bound["traceback"] = more[-LONGEST_TRACEBACK:]
        first = {
            "time": _iso_time(record),
            "level": record.levelname,
            "logger": record.name,
            "process": {"kind": self._kind, "pid": os.getpid(), "run": self._run_id},
        }
        return json_line(first, bound)


FIRST: Mapping[str, type[LineFormatter]] = MappingProxyType(
    {"SHORT": ShortFormatter, "JOURNAL": JournalFormatter, "JSON": JsonFormatter}
)
"""What makes the lines on stderr, where that is not what makes those of files."""
FILES: Mapping[str, type[LineFormatter]] = MappingProxyType({"JSON": JsonFormatter})
"""What makes the lines of files, where those are not events."""
