# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp status --watch``: the status once a second, on one screen of a terminal or line by line elsewhere.

On a terminal it has the alternate screen, so what was there comes back at the end. A picture is written over the one
before, line by line and at once, and never taller or wider than the terminal.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from ovms_mp.codes import ExitCode
from ovms_mp.commands.http_target import NoAnswer
from ovms_mp.commands.printing import DIM, coloured, cut, has_colours, painted
from ovms_mp.commands.status_text import Status, read_status, status_lines
from ovms_mp.log_forms import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType

    from ovms_mp.commands.status_source import Source

_INTERVAL_S = 1.0
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""The alternate screen without a cursor, and back."""
_BEGIN, _END = "\x1b[?2026h\x1b[H", "\x1b[J\x1b[?2026l"
"""A picture that terminals which know of that show at once; what is left below it goes."""
_REST_OF_LINE = "\x1b[K"
_USUAL_COLUMNS, _USUAL_LINES = 80, 24
"""Of a terminal that does not know its size."""
_SIGNAL_BASE = 128


class Rates:
    """Requests a second, from one status to the next."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], int] = {}
        self._at_s = 0.0

    def update(self, status: Status, now_s: float) -> dict[tuple[str, int], float]:
        """Take a status; the rates of versions that the one before had, too."""
        counts = {
            (name, version.version): version.requests
            for name, model in status.models.items()
            for version in model.versions
        }
        passed_s = now_s - self._at_s
        rates = {
            key: max(0, count - self._counts[key]) / passed_s
            for key, count in counts.items()
            if key in self._counts and passed_s > 0
        }
        self._counts, self._at_s = counts, now_s
        return rates


def watch(source: Source, environment: Mapping[str, str], *, as_json: bool) -> int:
    """Show a server's status until SIGINT or SIGTERM; the exit code.

    Raises:
        NoAnswer: There was none at the start; later ones are waited for.
        MsgspecError: It was no status document.
    """
    first = source.document()
    read_status(first)
    is_terminal = sys.stdout.isatty() and environment.get("TERM", "dumb") != "dumb" and not as_json
    try:
        with _Wakeup() as wakeup, _screen(is_terminal):
            if is_terminal:
                wakeup.take(signal.SIGTSTP)
                _on_screen(source, first, environment, wakeup)
            else:
                _line_by_line(source, first, wakeup, as_json=as_json)
    except KeyboardInterrupt:
        return ExitCode.CLEAN
    return ExitCode.CLEAN


def _on_screen(source: Source, document: bytes, environment: Mapping[str, str], wakeup: _Wakeup) -> None:
    has_colour = has_colours(sys.stdout, environment)
    rates = Rates()
    known = rates.update(read_status(document), time.monotonic())
    lines = status_lines(read_status(document), known)
    trouble = ""
    while True:
        now = datetime.now().strftime("%H:%M:%S")
        head = f"ovms_mp status  {now}  {trouble or 'Ctrl-C ends it'}"
        size = os.get_terminal_size(sys.stdout.fileno())
        columns, height = size.columns or _USUAL_COLUMNS, size.lines or _USUAL_LINES
        sys.stdout.write(picture(head, lines, columns, height, has_colour=has_colour))
        sys.stdout.flush()
        if told := wakeup.wait(_INTERVAL_S):
            if signal.SIGTSTP in told:
                _suspend()
            continue  # The terminal has another size, or was somebody else's meanwhile.
        try:
            status = read_status(source.document())
        except (NoAnswer, msgspec.MsgspecError) as error:
            trouble = f"! no status, asking on: {error}"
        else:
            trouble = ""
            lines = status_lines(status, rates.update(status, time.monotonic()))


def picture(head: str, lines: list[str], columns: int, height: int, *, has_colour: bool) -> str:
    """What to write for one picture."""
    room = max(1, height - 2)
    shown = lines if len(lines) <= room else [*lines[: room - 1], f"... {len(lines) - room + 1} lines more"]
    fitting = [cut(printable(line), columns) for line in (head, "", *shown)[:height]]
    if has_colour:
        fitting = [
            painted(fitting[0], DIM) if "!" not in fitting[0] else fitting[0],
            *map(coloured, fitting[1:]),
        ]
    # No line feed after the last one: the picture may be as tall as the terminal.
    return _BEGIN + f"{_REST_OF_LINE}\r\n".join(fitting) + _REST_OF_LINE + _END


def _line_by_line(source: Source, document: bytes, wakeup: _Wakeup, *, as_json: bool) -> None:
    """A line a version, each second; with JSON a document a line."""
    rates = Rates()
    while True:
        try:
            if as_json:
                text = msgspec.json.format(document, indent=-1).decode()
            else:
                status = read_status(document)
                text = "\n".join(plain_lines(status, rates.update(status, time.monotonic())))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            _complain(f"the answer is not a status document: {error}")
        else:
            sys.stdout.write("".join(f"{printable(line)}\n" for line in text.split("\n")))
            sys.stdout.flush()
        while True:
            wakeup.wait(_INTERVAL_S)
            try:
                document = source.document()
                break
            except NoAnswer as error:
                _complain(str(error))


def plain_lines(status: Status, rates: Mapping[tuple[str, int], float]) -> list[str]:
    """A line for each version."""
    now = datetime.now().strftime("%H:%M:%S")
    lines = [
        f"{now} {name}/{version.version} {'FAILED' if version.is_failed else version.state} "
        f"{version.requests - version.failures - version.cancelled} answered {version.failures} failed"
        + (f" {rates[name, version.version]:.1f}/s" if (name, version.version) in rates else "")
        for name, model in status.models.items()
        for version in model.versions
    ]
    return lines or [f"{now} no models"]


def _complain(text: str) -> None:
    sys.stderr.write(f"{printable(f'ovms_mp: {text}')}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def _screen(is_terminal: bool) -> Iterator[None]:
    """The alternate screen, left again whatever ends it."""
    if not is_terminal:
        yield
        return
    sys.stdout.write(_ENTER)
    try:
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()


def _suspend() -> None:
    """Stop as Ctrl-Z asks, with the terminal as it was; back when somebody continues this process."""
    sys.stdout.write(_LEAVE)
    sys.stdout.flush()
    before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, before)
    sys.stdout.write(_ENTER)


class _Wakeup:
    """Waits that a signal ends: another size of the terminal, or being continued. SIGTERM leaves by an exception."""

    _SIGNALS = (signal.SIGWINCH, signal.SIGCONT)

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def __enter__(self) -> _Wakeup:
        self._before = {number: signal.signal(number, _ignore) for number in self._SIGNALS}
        self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, _leave)
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._reader.close()
        self._writer.close()

    def take(self, number: signal.Signals) -> None:
        """Have another signal end waits, in place of what it does."""
        self._before[number] = signal.signal(number, _ignore)

    def wait(self, timeout_s: float) -> bytes:
        """Wait for so long; the numbers of the signals that came, none where none did."""
        if not select.select([self._reader], [], [], timeout_s)[0]:
            return b""
        return self._reader.recv(4096)


def _ignore(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor has it."""


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(_SIGNAL_BASE + number)
