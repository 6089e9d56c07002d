# SPDX-License-Identifier: Apache-2.0
"""The log's form and the ways it leaves a process, the same in every process.

The first fields are those of the legacy server's log, which scripts match; then come the process's kind and
pid and the run that it belongs to. Each record is one line, however a client worded what is in it; only tracebacks
have more, which are indented. A line that cannot be written is lost and counted (:mod:`ovms_mp.log_sinks`); logging
never fails and never waits for long.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from ovms_mp.log_levels import ISO_FORM, LogLevels
from ovms_mp.log_sinks import FileSink, Sink, StreamSink

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LEVELS = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR")

FORMATS = ("AUTO", "EVENTS", "SHORT", "JOURNAL")
"""Of stderr: short on a terminal, the journal's where systemd reads it, else events; always one of them."""

_AUDIENCE, _PEOPLE, _EVERYBODY, _LOG_READERS = "audience", "people", "everybody", "log readers"
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

_log = logging.getLogger(__name__)


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
        if self.has_iso_time:
            moment = datetime.fromtimestamp(record.created, UTC)
            time = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        else:
            time = f"{self.formatTime(record, _TIME)},{int(record.msecs):03d}"
        process = f"[{self._kind} pid={os.getpid()} run={self._run_id}]"
        return f"{time} - {record.name} - {record.levelname} - {process} "

    def _traceback(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else (record.exc_text or "")


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


_FIRST: Mapping[str, type[LineFormatter]] = MappingProxyType(
    {"SHORT": ShortFormatter, "JOURNAL": JournalFormatter}
)
"""What makes the lines on stderr, where that is not what makes those of files."""


def tell_people(log: logging.Logger, form: str, *arguments: object, level: int = logging.INFO) -> None:
    """Log a line that a terminal shows; where the log has events, one of them says the same."""
    log.log(level, form, *arguments, extra={_AUDIENCE: _PEOPLE})


def tell_log_readers(log: logging.Logger, level: int, form: str, *arguments: object) -> None:
    """Log an event that a terminal does not show, however severe it is, as another line tells people the same."""
    log.log(level, form, *arguments, extra={_AUDIENCE: _LOG_READERS})


def tell_everybody(log: logging.Logger, level: int, form: str, *arguments: object) -> None:
    """Log a line that stands in the log in either form."""
    log.log(level, form, *arguments, extra={_AUDIENCE: _EVERYBODY})


class ServerLog(logging.Handler):
    """Hands each line to every sink; what one of them loses is told to the others, and to itself once it can write."""

    def __init__(
        self, sinks: Sequence[Sink], formatter: LineFormatter, first: LineFormatter | None = None
    ) -> None:
        """Own the sinks.

        Args:
            sinks: Where lines go.
            formatter: Makes lines with the event of each record.
            first: Makes those of the first sink, where they are others.
        """
        super().__init__()
        self._sinks = sinks
        self._first = first or formatter
        self._levels = LogLevels(verbose=1)
        self._formatters = {formatter, self._first}
        self.setFormatter(formatter)

    def follow(self, levels: LogLevels) -> None:
        """Write from now on what these say."""
        self._levels = levels
        for formatter in self._formatters:
            formatter.has_iso_time = levels.form == ISO_FORM

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, if it is wanted. Raises nothing that a sink could cause."""
        if not self._levels.lets_through(record.levelno):
            return
        audience = getattr(record, _AUDIENCE, "")
        is_for_people = audience != _LOG_READERS and (bool(audience) or record.levelno >= logging.WARNING)
        line = b"" if audience == _PEOPLE else self._encoded(record)
        for index, sink in enumerate(self._sinks):
            if index or self._first is self.formatter:
                self._write(sink, line)
            elif is_for_people if self._first.is_for_people else audience != _PEOPLE:
                self._write(sink, _encode(self._first.format(record)))

    def _write(self, sink: Sink, line: bytes) -> None:
        if line:
            was_failing = sink.lost > 0
            # First what is missing before this line.
            if was_failing and sink.write(self._lost_line(sink.lost)):
                sink.lost = 0
            if not sink.write(line):
                sink.lost += 1
                if not was_failing:
                    self._tell_others(sink)

    def _tell_others(self, failed: Sink) -> None:
        text = f"event=log_write_failed to={failed.name} reason={failed.reason}; lines are lost until that is over"
        for sink in self._sinks:
            if sink is not failed and not sink.lost:
                sink.write(self._own_line(logging.ERROR, text))

    def _lost_line(self, count: int) -> bytes:
        return self._own_line(logging.WARNING, f"event=log_lines_lost count={count}")

    def _own_line(self, level: int, text: str) -> bytes:
        return self._encoded(_log.makeRecord(_log.name, level, "", 0, text, (), None))

    def _encoded(self, record: logging.LogRecord) -> bytes:
        return _encode(self.format(record))

    def reopen(self) -> None:
        """Take files by their names again. Callable from a signal handler: it neither logs nor waits for a lock."""
        for sink in self._sinks:
            sink.reopen()

    def close(self) -> None:
        """Give the sinks' descriptors back."""
        for sink in self._sinks:
            sink.close()
        super().close()


def _encode(text: str) -> bytes:
    return (text + "\n").encode("utf-8", "backslashreplace")


def chosen_form(form: str, level: str, journal: str) -> str:
    """The form of stderr, where it is left to us what that is.

    Args:
        form: One of :data:`FORMATS`.
        level: Least severe one; people who want to see everything get it all.
        journal: ``JOURNAL_STREAM``: device and inode of the stream that systemd reads; empty if it started nobody.
    """
    if form != FORMATS[0]:
        return form
    try:
        if journal:
            found = os.fstat(2)
            if journal == f"{found.st_dev}:{found.st_ino}":
                return "JOURNAL"
        return "SHORT" if os.isatty(2) and level.upper() not in ("TRACE", "DEBUG") else "EVENTS"
    except OSError:
        return "EVENTS"


def configure_logging(levels: LogLevels, log_path: str, kind: str, run_id: str, form: str = "EVENTS") -> None:
    """Send this process's log to stderr, and to ``log_path`` when it is not empty.

    Args:
        levels: What is written, until :func:`apply_levels` says otherwise.
        log_path: A file, which always has the events.
        kind: What this process is.
        run_id: Of the server that it belongs to.
        form: One of :data:`FORMATS` but the first, for stderr.

    A ``log_path`` that cannot be opened loses its lines until it can be; see :func:`check_log_path`.
    """
    sinks: list[Sink] = [StreamSink(2, "stderr")]
    if log_path:
        sinks.append(FileSink(log_path))
    first = _FIRST.get(form, LineFormatter)(kind, run_id)
    handler = ServerLog(sinks, LineFormatter(kind, run_id) if form in _FIRST else first, first)
    logging.basicConfig(level=levels.threshold, handlers=[handler], force=True)
    # grpc.aio logs every cancelled call at DEBUG through asyncio; nothing of ours.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    # At DEBUG it prints every header, those with credentials among them.
    logging.getLogger("hpack").setLevel(logging.WARNING)
    apply_levels(levels)
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_thread_end


def apply_levels(levels: LogLevels) -> None:
    """Have this process write from now on what these say."""
    threshold = levels.threshold
    logging.root.setLevel(threshold)
    # Each start and stop of a process is an event of ours already.
    for name in ("gunicorn.error", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING if threshold == logging.INFO else threshold)
    for handler in logging.root.handlers:
        if isinstance(handler, ServerLog):
            handler.follow(levels)


def reopen_logs() -> None:
    """Have this process take its log files by their names again; see :meth:`ServerLog.reopen`."""
    for handler in logging.root.handlers:
        if isinstance(handler, ServerLog):
            handler.reopen()


def check_log_path(log_path: str) -> None:
    """Look whether a log path can be opened now. A FIFO that nobody reads yet may be.

    Raises:
        OSError: It cannot.
    """
    if log_path:
        FileSink.check(log_path)


def say(text: str) -> None:
    """Write lines to stderr, where there is no log yet; nothing happens where they cannot be written."""
    try:
        sys.stderr.write("".join(f"{printable(line)}\n" for line in text.split("\n")))
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return  # Closed, or it has never been there.


def keep_standard_descriptors() -> None:
    """Put /dev/null where stdin, stdout or stderr is closed, so that no socket or file gets their numbers."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest free number, which is this one.
            os.set_inheritable(number, True)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115  # as long as the process
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115  # as above


def _log_unraisable(found: sys.UnraisableHookArgs) -> None:
    error = found.exc_value
    if error is not None:
        _log.error("event=unraisable %s", found.err_msg or "exception ignored", exc_info=error)


def _log_thread_end(found: threading.ExceptHookArgs) -> None:
    if found.exc_value is not None and found.exc_type is not SystemExit:
        name = found.thread.name if found.thread else "unknown"
        _log.error("event=thread_died thread=%s", name, exc_info=found.exc_value)
