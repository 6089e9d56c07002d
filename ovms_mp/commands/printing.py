# SPDX-License-Identifier: Apache-2.0
"""What commands print for people: aligned tables, and colours where they are wanted."""

from __future__ import annotations

import re
import sys
import unicodedata
from typing import TYPE_CHECKING

from ovms_mp.codes import ExitCode
from ovms_mp.log import say
from ovms_mp.log_forms import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TextIO

GREEN, RED, YELLOW, BOLD, DIM = "32", "31", "33", "1", "2"
_STATES = re.compile(r"(?<![\w/-])(AVAILABLE|FAILED|LOADING|UNLOADING|START|END)(?![\w/-])")
_COLOURS = {
    "AVAILABLE": GREEN,
    "FAILED": RED,
    "LOADING": YELLOW,
    "UNLOADING": YELLOW,
    "START": YELLOW,
    "END": DIM,
}
_REASON = re.compile(r"^ *!|: ! ")


def has_colours(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether to colour what goes there: a terminal that can, of a user who does not mind (https://no-color.org)."""
    if environment.get("NO_COLOR") or environment.get("TERM") in (None, "dumb"):
        return False
    return stream.isatty()


def painted(text: str, colour: str) -> str:
    """A text in a colour."""
    return f"\x1b[{colour}m{text}\x1b[0m"


def coloured(line: str) -> str:
    """A printed line with its states and reasons in colours."""
    if _REASON.search(line):
        return painted(line, RED)
    return _STATES.sub(lambda found: painted(found[0], _COLOURS[found[0]]), line)


def show(lines: Sequence[str], environment: Mapping[str, str]) -> None:
    """Print lines to stdout; nothing in them moves a cursor."""
    paint = coloured if has_colours(sys.stdout, environment) else str
    sys.stdout.write("".join(f"{paint(printable(line))}\n" for line in lines))


def failed(message: str) -> int:
    """Say why a command has nothing to show; the exit code."""
    say(printable(f"ovms_mp: error: {message}"))
    return ExitCode.BOOT_FAILED


def table(rows: Sequence[Sequence[str]], indent: int = 2) -> list[str]:
    """Rows with aligned columns."""
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    return [
        (
            " " * indent
            + "  ".join(cell + " " * (most - width(cell)) for cell, most in zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def cut(text: str, columns: int) -> str:
    """As much of a text as fits; the last column says that there was more."""
    if width(text) <= columns:
        return text
    taken, kept = 0, []
    for character in text:
        taken += _columns(character)
        if taken >= columns:
            break
        kept.append(character)
    return "".join([*kept, ">"]) if columns > 0 else ""


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
