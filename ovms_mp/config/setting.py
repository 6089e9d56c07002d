# SPDX-License-Identifier: Apache-2.0
"""The declaration of one setting: its flag, meaning and bounds, and how a value is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from ovms_mp.errors import ConfigError
from ovms_mp.places import absolute_path

ValueT = TypeVar("ValueT", bool, int, float, str)


@dataclass(frozen=True, slots=True)
class Setting:
    """The declaration behind one field.

    Attributes:
        flag: Command-line flag, without the dashes.
        meaning: One sentence for people, with the unit.
        environment: Variable that gives the value when the flag does not; empty for none.
        low: Least accepted number.
        high: Greatest accepted number.
        choices: Accepted words, in any case; :data:`SWITCH` for a flag that may stand alone.
        aliases: Words of older releases and of OVMS that are accepted as well, each with the choice that it means.
        is_path: It names a file or directory, and is made absolute; an empty string is none.
    """

    flag: str
    meaning: str
    environment: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    is_path: bool = False

    def accepted(self) -> str:
        """What a value may be, for messages."""
        if self.choices:
            words = (*self.choices, *dict(_SWITCH_ALIASES)) if self.choices == SWITCH else self.choices
            return "one of " + ", ".join(words)
        if self.low is not None and self.high is not None:
            return f"{_plain(self.low)} to {_plain(self.high)}"
        if self.low is not None:
            return f"at least {_plain(self.low)}"
        return "any string"

    def parse(self, text: str, kind: type, source: str) -> bool | int | float | str:
        """Read a value that was given as text.

        Raises:
            ConfigError: Naming the source, the value and what is accepted.
        """
        value: int | float | str
        if kind in (int, float):
            try:
                value = int(text) if kind is int else float(text)
            except ValueError:
                noun = "an integer" if kind is int else "a number"
                raise ConfigError(f"{source}: {text!r} is not {noun}; accepted: {self.accepted()}") from None
            if (
                value != value
                or (self.low is not None and value < self.low)
                or (self.high is not None and value > self.high)
            ):
                raise ConfigError(f"{source}: {text} is out of range; accepted: {self.accepted()}")
            return value
        value = str(absolute_path(text, source)) if self.is_path and text else text
        if self.choices:
            choice = self.choice(text)
            if choice is None:
                raise ConfigError(f"{source}: {text!r} is unknown; accepted: {self.accepted()}")
            value = choice
        return value == "true" if kind is bool else value

    def choice(self, text: str) -> str | None:
        """The choice that a word means; None for an unknown word."""
        aliases = (*self.aliases, *(_SWITCH_ALIASES if self.choices == SWITCH else ()))
        words = {word.upper(): choice for word, choice in aliases}
        words |= {choice.upper(): choice for choice in self.choices}
        return words.get(text.upper())


SWITCH = ("true", "false")
"""Choices of a boolean setting."""
_SWITCH_ALIASES = (("on", "true"), ("off", "false"))


def declare(default: ValueT, setting: Setting) -> ValueT:
    """A field of a section, with the declaration of its setting."""
    declared: ValueT = field(default=default, metadata={"setting": setting})
    return declared


def _plain(number: float) -> str:
    """A number without an exponent."""
    return str(int(number)) if number == int(number) else f"{number:g}"
