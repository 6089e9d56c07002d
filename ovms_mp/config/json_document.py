# SPDX-License-Identifier: Apache-2.0
"""JSON that people write: decoded strictly, with a place for every error, and all errors at once.

A place is a JSON path such as ``$.model_config_list[2].config.shape.data``, or ``--shape.data`` for a flag that holds
JSON. Stricter than Python's decoder: no ``NaN``, no key twice in one object, no number beyond a float, no lone
surrogate; and nothing that a user writes can exhaust the decoder.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.errors import ConfigError
from ovms_mp.model.json_keys import repeated_keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MAX_DEPTH = 32
"""Levels of a document; OVMS's has seven."""
_MOST_ERRORS = 20
_MOST_TOLD = 5
"""Faults that a client is told of."""
_LONGEST_VALUE = 120
_LONGEST_EXCERPT = 60
_ACCEPTED = "JSON in UTF-8 with double quotes, without comments and without a comma after the last member"
_MOST_DIGITS = 300
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN_PLACE = re.compile(r"[$-]*(?:\.?[A-Za-z_][A-Za-z0-9_]*|\[[0-9]+\])*")


class _Object(dict[str, object]):
    """A decoded object that knows which of its keys were written more than once."""

    repeated: tuple[str, ...] = ()


def child_place(place: str, key: str | int) -> str:
    """The place of a member of what is at ``place``."""
    if isinstance(key, int):
        return f"{place}[{key}]"
    if _NAME.fullmatch(key):
        return f"{place}.{key}"
    return f"{place}[{shown(key)}]"


def shown(value: object) -> str:
    """A decoded value for a message, in JSON and on one line, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    # What JSON leaves unescaped may still end a line or move a terminal's cursor, or be no character at all.
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[: _LONGEST_VALUE + 1])
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + " ..."


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        text: For whoever wrote the document: the place, the value and what is accepted.
        client_text: For clients, who are not shown what the document holds.
    """

    text: str
    client_text: str

    @classmethod
    def at(cls, place: str, text: str, reason: str = "", accepted: str = "") -> Fault:
        """A fault whose reason is told to clients as well, unless it quotes the document; what is accepted else."""
        # Keys of the user's own choice are quoted, too.
        where = _PLAIN_PLACE.match(place)
        has_reason = reason and "'" not in reason and '"' not in reason
        told = reason if has_reason else f"not valid{accepted and '; accepted: '}{accepted}"
        return cls(text, f"{where[0] if where else place}: {told}")


class Findings:
    """What is wrong with a configuration, and what its author should know; collected while it is read."""

    def __init__(self, *, is_strict: bool = False) -> None:
        self._is_strict = is_strict
        self.faults: list[Fault] = []
        self.notices: list[str] = []

    @property
    def errors(self) -> list[str]:
        """The faults' texts."""
        return [fault.text for fault in self.faults]

    def refuse(self, place: str, value: object, accepted: str, reason: str = "") -> None:
        """Note a value that is not accepted."""
        because = f": {reason}" if reason else ""
        text = f"{place}: {shown(value)} is not valid{because}; accepted: {accepted}"
        self.faults.append(Fault.at(place, text, reason, accepted))

    @contextlib.contextmanager
    def refusing(self, place: str, value: object, accepted: str) -> Iterator[None]:
        """Make a parser's ConfigError, which only says why, an error of this place."""
        try:
            yield
        except ConfigError as error:
            self.refuse(place, value, accepted, error.message)

    def unknown_key(self, place: str, key: str, known: Iterable[str]) -> None:
        """Note a key that has no meaning: a notice, or an error when strict."""
        names = list(known)
        near = difflib.get_close_matches(key.lower(), names, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(names)}"
        where = child_place(place, key)
        if self._is_strict:
            text = f"{where} is unknown, which --strict_config refuses; {hint}"
            self.faults.append(Fault.at(where, text, "an unknown key"))
        else:
            self.notices.append(f"{where} is unknown and has no effect; {hint}")

    def unknown_keys(
        self, place: str, body: dict[str, object], known: Iterable[str], refused: Iterable[str] = ()
    ) -> None:
        """Note keys that have no meaning.

        Args:
            place: Where the object stands.
            body: The object.
            known: Keys that have one, which are worth a hint.
            refused: Keys that are noted elsewhere.
        """
        told = list(known)
        names = {*told, *refused}
        for key in body:
            if key not in names:
                self.unknown_key(place, key, told)

    def decode(self, text: bytes | str, place: str, accepted: str = "") -> object:
        """Decode a document and look at all of it once; None when it must not be read any further.

        Args:
            text: The document.
            place: Where it stands.
            accepted: What it should hold, where it is a value of something larger.
        """
        document = self.load(text, place, accepted)
        return document if self.look_over(document, place) else None

    def load(self, text: bytes | str, place: str, accepted: str = "") -> object:
        """Decode a document; None when it is none. It must be looked over before it is read."""
        try:
            return _decode(text)
        except ConfigError as error:
            if accepted:
                self.refuse(place, text, accepted, error.message)
            else:
                told = f"{place}: {error.client_message}"
                self.faults.append(Fault(f"{place}: {error.message}; accepted: {_ACCEPTED}", told))
            return None

    def look_over(self, document: object, place: str, *, but: object = None, level: int = 1) -> bool:
        """Note what no document may have, wherever it is; whether there is nothing of it.

        Args:
            document: What was decoded.
            place: Where it stands.
            but: A part of it that is left out.
            level: How deep it lies in the whole.
        """
        flaws = list(_flaws(document, place, but, level))
        self.faults.extend(flaws)
        return not flaws

    def finish(self) -> None:
        """End the reading.

        Raises:
            ConfigError: There are errors; its message has one line for each.
        """
        if self.faults:
            raise config_error(self.faults)


def config_error(faults: Sequence[Fault]) -> ConfigError:
    """All faults in one error, with one line for each."""
    texts = [fault.text for fault in faults[:_MOST_ERRORS]]
    if len(faults) > _MOST_ERRORS:
        texts.append(f"and {len(faults) - _MOST_ERRORS} more errors")
    return ConfigError("\n".join(texts), client_text(faults))


def client_text(faults: Sequence[Fault]) -> str:
    """The faults for clients, in one line."""
    told = [fault.client_text for fault in faults[:_MOST_TOLD]]
    return "; ".join([*told, *(["and more"] if len(faults) > _MOST_TOLD else [])])


def _decode(text: bytes | str) -> object:
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            encoding = " (it looks like UTF-16)" if text[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
            raise ConfigError(f"byte {error.start} is not valid UTF-8{encoding}") from None
    if not text.strip():
        raise ConfigError("it is empty")
    try:
        document: object = json.loads(
            text, object_pairs_hook=_object, parse_constant=float, parse_int=_integer
        )
    except json.JSONDecodeError as error:
        near = shown(text[max(0, error.pos - _LONGEST_EXCERPT // 2) : error.pos + _LONGEST_EXCERPT // 2])
        where = f"it is not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        raise ConfigError(f"{where}, near {near}", where) from None
    except RecursionError:
        raise ConfigError(f"it is nested more than {MAX_DEPTH} levels deep") from None
    return document


def _integer(text: str) -> float:
    """An integer; what no float can hold either becomes infinite, to be refused with its place."""
    return int(text) if len(text) <= _MOST_DIGITS else math.inf


def _object(pairs: list[tuple[str, object]]) -> _Object:
    decoded = _Object(pairs)
    decoded.repeated = repeated_keys(pairs)
    return decoded


def _flaws(document: object, place: str, but: object, level: int) -> Iterator[Fault]:
    """What no document may have, wherever it is. Not recursive: the document may be deep."""
    waiting: list[tuple[str, object, int]] = [(place, document, level)]
    while waiting:
        where, value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            reason = f"it is nested more than {MAX_DEPTH} levels deep"
            yield Fault.at(where, f"{where[:_LONGEST_VALUE]}: {reason}; accepted: fewer", reason)
            return
        if isinstance(value, dict):
            repeated = value.repeated if isinstance(value, _Object) else ()
            for key in repeated:
                reason = "is repeated in one object"
                child = child_place(where, key)
                yield Fault.at(child, f"{child}: {reason}; keep one of them", reason)
            waiting.extend((child_place(where, key), entry, depth + 1) for key, entry in value.items())
            yield from (
                Fault.at(
                    where,
                    f"{where}: the key {shown(key)} is not a valid string",
                    "a key is not a valid string",
                )
                for key in value
                if not is_text(key)
            )
        elif isinstance(value, list):
            entries = () if value is but else enumerate(value)
            waiting.extend((child_place(where, index), entry, depth + 1) for index, entry in entries)
        elif isinstance(value, float) and not math.isfinite(value):
            text = f"{where}: {shown(value)} is not a valid JSON number; accepted: a finite number, up to 1.7e308"
            yield Fault.at(where, text, "it is not a valid JSON number")
        elif isinstance(value, str) and not is_text(value):
            reason = "is not a valid string: it has half of a UTF-16 surrogate pair; save the file as UTF-8"
            text = f"{where}: {shown(value)} {reason}"
            yield Fault.at(where, text, "it is not a valid string")


def is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: JSON can hold half of a UTF-16 pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
