# SPDX-License-Identifier: Apache-2.0
"""The log and the ways it leaves a process, the same in every process; :mod:`ovms_mp.log_forms` makes its lines.

A line that cannot be written is lost and counted (:mod:`ovms_mp.log_sinks`); logging never fails and never waits for
long.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import TYPE_CHECKING

from ovms_mp.log_forms import FILES, FIRST, LineFormatter, printable
from ovms_mp.log_levels import ISO_FORM, LogLevels
from ovms_mp.log_sinks import Backlog, FileSink, Sink, StreamSink

if TYPE_CHECKING:
    from collections.abc import Sequence

LEVELS = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR")

FORMATS = ("AUTO", "EVENTS", "SHORT", "JOURNAL", "JSON")
"""Of stderr: short on a terminal, the journal's where systemd reads it, else events; always one of them."""

_AUDIENCE, _PEOPLE, _EVERYBODY, _LOG_READERS = "audience", "people", "everybody", "log readers"
_log = logging.getLogger(__name__)


def tell_people(log: logging.Logger, form: str, *arguments: object, level: int = logging.INFO) -> None:
    """Log a line that a terminal shows; where the log has events, one of them says the same."""
    log.log(level, form, *arguments, extra={_AUDIENCE: _PEOPLE})


def tell_log_readers(log: logging.Logger, level: int, form: str, *arguments: object) -> None:
    """Log an event that a terminal does not show, however severe it is, as another line tells people the same."""
    log.log(level, form, *arguments, extra={_AUDIENCE: _LOG_READERS})


def tell_everybody(log: logging.Logger, level: int, form: str, *arguments: object) -> None:
    """Log a line that stands in the log in either form."""
    log.log(level, form, *arguments, extra={_AUDIENCE: _EVERYBODY})


def tell_boot_failed(log: logging.Logger, reason: object) -> None:
    """Log that the server could not start, to everybody in their words."""
    tell_people(log, "Could not start: %s", reason, level=logging.ERROR)
    tell_log_readers(log, logging.ERROR, "event=boot_failed could not start: %s", reason)


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
        self._backlogs = [Backlog(sink) for sink in sinks]
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
        for sink, line in zip(self._sinks, self._lines(record), strict=True):
            self._write(sink, line)

    def offer(self, record: logging.LogRecord) -> None:
        """Write a record without waiting for anybody: what a sink has no room for is kept, and lost beyond a bound."""
        if self._levels.lets_through(record.levelno):
            for backlog, line in zip(self._backlogs, self._lines(record), strict=True):
                if line:
                    backlog.offer(line)

    def flush_offered(self) -> None:
        """Write what has been kept, as far as there is room now; call it now and then."""
        for backlog in self._backlogs:
            lost = backlog.flush()
            if lost:
                backlog.offer(self._own_line(logging.WARNING, "event=access_log_lines_lost count=%d", lost))

    def _lines(self, record: logging.LogRecord) -> list[bytes]:
        """A record as each sink has it; empty for a sink that does not want it."""
        audience = getattr(record, _AUDIENCE, "")
        is_for_people = audience != _LOG_READERS and (bool(audience) or record.levelno >= logging.WARNING)
        line = b"" if audience == _PEOPLE else self._encoded(record)
        lines = [line] * len(self._sinks)
        if lines and self._first is not self.formatter:
            is_wanted = is_for_people if self._first.is_for_people else audience != _PEOPLE
            lines[0] = _encode(self._first.format(record)) if is_wanted else b""
        return lines

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
        form = "event=log_write_failed to=%s reason=%s; lines are lost until that is over"
        for sink in self._sinks:
            if sink is not failed and not sink.lost:
                sink.write(self._own_line(logging.ERROR, form, failed.name, failed.reason))

    def _lost_line(self, count: int) -> bytes:
        return self._own_line(logging.WARNING, "event=log_lines_lost count=%d", count)

    def _own_line(self, level: int, form: str, *arguments: object) -> bytes:
        return self._encoded(_log.makeRecord(_log.name, level, "", 0, form, arguments, None))

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
        log_path: A file, which has the events, as JSON if stderr has.
        kind: What this process is.
        run_id: Of the server that it belongs to.
        form: One of :data:`FORMATS` but the first, for stderr.

    A ``log_path`` that cannot be opened loses its lines until it can be; see :func:`check_log_path`.
    """
    sinks: list[Sink] = [StreamSink(2, "stderr")]
    if log_path:
        sinks.append(FileSink(log_path))
    first = FIRST.get(form, LineFormatter)(kind, run_id)
    files = FILES.get(form, LineFormatter)(kind, run_id)
    handler = ServerLog(sinks, first if type(first) is type(files) else files, first)
    logging.basicConfig(level=levels.threshold, handlers=[handler], force=True)
    # grpc.aio logs every cancelled call at DEBUG through asyncio; nothing of ours.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    # At DEBUG it prints every header, those with credentials among them.
    logging.getLogger("hpack").setLevel(logging.WARNING)
    apply_levels(levels)
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_thread_end
    # What libraries warn of is a line like any other.
    logging.captureWarnings(True)


def offer(log: logging.Logger, form: str, *arguments: object) -> None:
    """Log a line of the level INFO that stands in the log in either form, without waiting for who reads it.

    For lines that come with requests; :func:`flush_offered` is to be called now and then.
    """
    if log.isEnabledFor(logging.INFO):
        record = log.makeRecord(
            log.name, logging.INFO, "", 0, form, arguments, None, extra={_AUDIENCE: _EVERYBODY}
        )
        for handler in logging.root.handlers:
            if isinstance(handler, ServerLog):
                handler.offer(record)


def flush_offered() -> None:
    """Write what :func:`offer` could not write at once."""
    for handler in logging.root.handlers:
        if isinstance(handler, ServerLog):
            handler.flush_offered()


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
