# SPDX-License-Identifier: Apache-2.0
"""The log as JSON: an object for each record, with the fields of its event.

Fields come from the record's form and its arguments, not from its text, so what a client sends stays in its field,
whatever it looks like. The names that every object has are ``time``, ``level``, ``logger`` and ``process``; what is no
field of an event is in ``message``.
"""

from __future__ import annotations

import functools
import json
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

RESERVED = frozenset(("time", "level", "logger", "process", "message", "traceback"))
MESSAGE = "message"
_FIELD = re.compile(r"(?:^|(?<=\s))([a-z_][a-z0-9_]*)=")
_CONVERSION = re.compile(r"%(?:%|[-+ #0]*\d*(?:\.\d+)?[a-zA-Z])")
_encode = json.JSONEncoder(default=str, separators=(",", ":")).encode
_ONLY_FIELDS = re.compile(r"(?:[a-z_][a-z0-9_]*=[^\s=]+(?:\s+|$))+")


class _Part(NamedTuple):
    """A stretch of a form.

    Attributes:
        name: The field that it is the value of, if any.
        taken: How many arguments it takes.
        is_bare: Whether it is one argument and nothing else.
    """

    name: str
    form: str
    taken: int
    is_bare: bool


@functools.lru_cache(maxsize=1024)
def _parts(form: str) -> Sequence[_Part]:
    """A form, cut where a field begins and behind its first word: what follows that is for people."""
    fields = list(_FIELD.finditer(form))
    ends = [*(match.start() for match in fields), len(form)]
    stretches = [("", form[: ends[0]])]
    for match, end in zip(fields, ends[1:], strict=True):
        word, _, rest = form[match.end() : end].partition(" ")
        stretches += [(match.group(1), word.rstrip(";:,")), ("", rest)]
    found = []
    for name, text in stretches:
        if form := text.strip():
            taken = sum(conversion != "%%" for conversion in _CONVERSION.findall(form))
            found.append(_Part(name, form, taken, taken == 1 and _CONVERSION.fullmatch(form) is not None))
    return tuple(found)


def fields_of(form: str, arguments: object) -> dict[str, object]:
    """What a record says, by name.

    Raises:
        Exception: Arguments that do not fit their form, or whose own text fails: any kind.
    """
    found: dict[str, object] = {}
    words: list[str] = []
    for name, value in _values(form, arguments):
        if name and name not in found:
            found[f"{name}_" if name in RESERVED else name] = value
        elif value != "":
            words.append(f"{name}={value}" if name else str(value))
    if words:
        found[MESSAGE] = " ".join(words)
    return found


def _values(form: str, arguments: object) -> Iterator[tuple[str, object]]:
    if not isinstance(arguments, tuple):  # A mapping for named arguments, as logging has it, or nothing.
        yield "", form % arguments if arguments else form
        return
    if not arguments:
        # Without arguments logging does not read a form as one: the text is what it is.
        for part in _parts(form):
            yield part.name, part.form
        return
    taken = 0
    for part in _parts(form):
        own = arguments[taken : taken + part.taken]
        taken += part.taken
        if part.name and part.is_bare:
            # Numbers in the form's precision are shorter, and as exact as anybody wants them.
            yield part.name, _plain(own[0], part.form)
            continue
        text = part.form % own
        if not part.name and part.is_bare and _ONLY_FIELDS.fullmatch(text):
            for word in text.split():
                name, _, value = word.partition("=")
                yield name, _number(value)
        else:
            yield part.name, text
    if taken != len(arguments):
        raise TypeError("not all arguments converted during string formatting")


def _plain(value: object, form: str) -> object:
    """An argument as JSON has it."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value) if form[-1] in "dsri" else form % value
    if isinstance(value, float):
        text = form % value
        try:
            return float(text) if value == value and abs(value) != float("inf") else text
        except ValueError:
            return text
    return str(value) if form[-1] in "sr" else form % (value,)


def _number(text: str) -> object:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 18 else text.strip("'")


def json_line(first: Mapping[str, object], fields: Mapping[str, object]) -> str:
    """One line. All but ASCII is escaped, so it ends no line, moves no cursor and can be encoded."""
    return _encode({**first, **fields})
