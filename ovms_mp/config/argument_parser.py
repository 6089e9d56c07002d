# SPDX-License-Identifier: Apache-2.0
"""argparse as this command line wants it: errors of ours, both spellings of a flag, no abbreviations, short help.

A flag may be written with dashes or underscores (``--model-name``, ``--model_name``). Abbreviations are refused, as a
new flag would change what they mean.
"""

from __future__ import annotations

import argparse
import difflib
import sys
import textwrap
from typing import TYPE_CHECKING, Any, NoReturn

from ovms_mp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from _typeshed import SupportsWrite

_EVERYTHING = "all"


class _HelpText(argparse.RawDescriptionHelpFormatter):
    """Wraps sentences; lines that are indented, which are commands to copy, stay whole."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            line if line.startswith(" ") else textwrap.fill(line, width, break_long_words=False)
            for line in text.split("\n")
        )


class EarlyExit(Exception):
    """``--help`` or ``--version`` was answered."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Parser(argparse.ArgumentParser):
    """Raises ConfigError for a usage error and EarlyExit after ``--help``, instead of ending the process."""

    def __init__(
        self,
        *,
        prog: str,
        description: str,
        operands: str = "",
        examples: Sequence[tuple[str, str]] = (),
        closing: str = "",
        usual: str = "",
    ) -> None:
        """Begin with ``--help`` only.

        Args:
            prog: How this form of the command line is called.
            description: First part of the help.
            operands: What follows the command, as the help's first line shows it.
            examples: Command lines to copy, each after what it does.
            closing: Last part of the help.
            usual: What ``--help`` prints where that is less than everything; the rest is ``--help all`` then.
        """
        shown = "\n".join(
            ("examples:", *(f"  # {what}\n  {command}" for what, command in examples)) if examples else ()
        )
        super().__init__(
            prog=prog,
            usage=" ".join(filter(None, (prog, operands, "[flags]"))),
            description=description,
            epilog="\n\n".join(filter(None, (shown, closing))) or None,
            formatter_class=_HelpText,
            allow_abbrev=False,
            add_help=not usual,
        )
        self.usual = usual
        self.examples = tuple(command for _, command in examples)
        if usual:
            self.add_argument(
                "-h", "--help", nargs="?", const="", action=_Help, metavar=_EVERYTHING, help="show this help"
            )

    def read(self, arguments: Iterable[str]) -> dict[str, Any]:
        """The value of each flag; None for those that were not given.

        Raises:
            ConfigError: Naming what cannot be read.
            EarlyExit: Help or version was asked for and printed.
        """
        known, unknown = self.read_known(arguments)
        if unknown:
            raise ConfigError(self._unknown_text(unknown[0]))
        return known

    def read_known(self, arguments: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
        """As :meth:`read`, with what is not known given back."""
        known, unknown = self.parse_known_args([_with_underscores(word) for word in arguments])
        return vars(known), unknown

    def flags(self) -> list[str]:
        """All flags that may be named to people."""
        return [
            flag
            for action in self._actions
            if action.help != argparse.SUPPRESS
            for flag in action.option_strings
            if flag.startswith("--")
        ]

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Print the help; argparse's own keeps quiet where that fails."""
        (file or sys.stdout).write(self.format_help())

    def error(self, message: str) -> NoReturn:
        """Report a usage error."""
        raise ConfigError(f"{message}; see {self.prog} --help")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Leave after ``--help`` or ``--version``."""
        if message:
            sys.stderr.write(message)
        raise EarlyExit(status)

    def _unknown_text(self, word: str) -> str:
        flag = word.partition("=")[0]
        if not flag.startswith("-"):
            return (
                f"{word!r} is not a flag, and no flag before it takes it as a value; see {self.prog} --help"
            )
        flags = self.flags()
        nearest = [name for name in flags if name.startswith(flag)] or difflib.get_close_matches(
            flag, flags, n=1
        )
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        everything = f" {_EVERYTHING}" if self.usual else ""
        return f"{flag} is unknown; {hint}see {self.prog} --help{everything}"


class _Help(argparse.Action):
    """``--help`` prints the usual flags, ``--help all`` every one."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> NoReturn:
        """Print, and leave."""
        if not isinstance(parser, Parser) or values == _EVERYTHING:
            parser.print_help()
        elif values:
            parser.error(f"--help {values!r} is unknown; accepted: --help, --help {_EVERYTHING}")
        else:
            sys.stdout.write(parser.usual)
        parser.exit()
        raise EarlyExit(0)  # Not reached; argparse declares exit() that way only for its own class.


def _with_underscores(word: str) -> str:
    """A flag as it is declared; anything else as it is."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value
