# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp help TOPIC``: a page of the documentation in the terminal."""

from __future__ import annotations

import difflib
import shutil
import sys
from typing import TYPE_CHECKING

from ovms_mp.codes import ExitCode
from ovms_mp.commands.page_text import PageText
from ovms_mp.commands.printing import has_colours, show
from ovms_mp.config.argument_parser import Parser
from ovms_mp.docs import PAGES, grouped_pages
from ovms_mp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WIDEST = 110
_NARROWEST = 40


def topic_names() -> tuple[str, ...]:
    """All topics."""
    return tuple(PAGES)


def help_parser() -> Parser:
    """The flags."""
    parser = Parser(
        prog="ovms_mp help",
        operands="[TOPIC]",
        description="Show a page of the documentation; without a topic, what there is. Flags are in ovms_mp --help.",
        examples=(
            ("all topics", "ovms_mp help"),
            ("a page, one screen after the other", "ovms_mp help tutorial | less -R"),
        ),
    )
    parser.add_argument("topic", metavar="TOPIC", nargs="?", help=", ".join(PAGES))
    return parser


def run_help(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Print a page; the exit code.

    Raises:
        ConfigError: There is no such topic.
    """
    topic = help_parser().read(arguments)["topic"]
    if topic is None:
        longest = max(map(len, PAGES))
        lines = [
            line
            for group, pages in grouped_pages()
            for line in (
                "",
                f"{group}:",
                *(f"  {name:{longest}}  {page.about}" for name, page in pages.items()),
            )
        ]
        show(
            [
                "ovms_mp help TOPIC shows one of these pages; a server shows them at /docs/ of its REST port, too:",
                *lines,
                "",
                "Commands and usual flags: ovms_mp --help; every flag: ovms_mp --help all",
            ],
            environment,
        )
        return ExitCode.CLEAN
    name = topic.lower().replace("_", "-").removesuffix(".md")
    if name not in PAGES:
        near = difflib.get_close_matches(name, PAGES, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"no topic {topic!r}; {hint}there are {', '.join(PAGES)}")
    columns = min(_WIDEST, max(_NARROWEST, shutil.get_terminal_size((100, 24)).columns))
    text = PageText(columns, has_colour=has_colours(sys.stdout, environment)).of(PAGES[name].text())
    sys.stdout.write(text)
    return ExitCode.CLEAN
