# SPDX-License-Identifier: Apache-2.0
"""The examples of the README and of other pages, and what comparing their output leaves out.

A fenced block is an example by its language:

- ``sh``: commands. One that starts a server runs until the next one that does, or the end.
- ``text`` and ``json``: output. Directly after commands it is all that they print on a terminal; of a server, all
  until then. Elsewhere it is what the running server prints next.
- After a paragraph that ends with "Save this as `NAME`:", the content of that file, in whatever language.

In ``text``, ``...`` stands for anything, and alone on a line for any lines. Of
:data:`VOLATILE` only the form is compared. In ``json``, numbers are compared to a hundredth, as processors
round differently.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SAVE = re.compile(r"Save this as `([^`]+)`:\s*$")

RUNNABLE = "<!-- every block runs -->"
VOLATILE = (
    r"\d\d:\d\d:\d\d",  # The time of a log line.
    r"\d+\.\d+\.\d+",  # Versions.
    r"\d+ infer requests?",  # By the machine's cores.
)
"""Patterns of what differs from run to run and from machine to machine."""
_SPLIT = re.compile(r"(\.\.\.|" + "|".join(VOLATILE) + ")")
_ROUNDING = 0.01


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        language: Of its fence; empty where it has none.
        text: With the newline at its end.
        file: Where the page says to save it; else empty.
        follows: The language of the block directly before it, with nothing but white space between; else empty.
    """

    language: str
    text: str
    file: str
    follows: str


def blocks(markdown: str) -> list[Block]:
    """All fenced blocks, in their order."""
    found: list[Block] = []
    end = 0
    for fence in _FENCE.finditer(markdown):
        between = markdown[end : fence.start()]
        save = _SAVE.search(between)
        follows = found[-1].language if found and not between.strip() else ""
        found.append(Block(fence[1], fence[2], save[1] if save else "", follows))
        end = fence.end()
    return found


def runnable_pages(directory: Path) -> list[Path]:
    """The pages whose examples are run as they stand there."""
    return [path for path in sorted(directory.glob("*.md")) if RUNNABLE in path.read_text()]


def text_pattern(shown: str) -> re.Pattern[str]:
    """What matches output that is the same as the shown text, from the beginning of a line to the end of one."""
    lines = [
        r"(?:.*\n)*?" if line == "..." else "".join(map(_part_pattern, _SPLIT.split(line))) + r"\n"
        for line in shown.splitlines()
    ]
    return re.compile("^" + "".join(lines), re.MULTILINE)


def _part_pattern(part: str) -> str:
    if part == "...":
        return ".*"
    return next((pattern for pattern in VOLATILE if re.fullmatch(pattern, part)), re.escape(part))


def is_same_text(shown: str, printed: str) -> bool:
    """Whether all that was printed is what is shown."""
    return text_pattern(shown).fullmatch(printed) is not None


def is_same_json(shown: object, printed: Any) -> bool:
    """Whether two documents are the same but for rounding."""
    if isinstance(shown, dict):
        return (
            isinstance(printed, dict)
            and shown.keys() == printed.keys()
            and all(is_same_json(value, printed[key]) for key, value in shown.items())
        )
    if isinstance(shown, list):
        return (
            isinstance(printed, list)
            and len(shown) == len(printed)
            and all(map(is_same_json, shown, printed))
        )
    if isinstance(shown, float):
        return isinstance(printed, (int, float)) and math.isclose(shown, printed, abs_tol=_ROUNDING)
    return bool(shown == printed)


def difference(block: Block, printed: str) -> str:
    """What an output has other than its block shows; empty if it is the same."""
    if block.language == "json":
        try:
            is_same = is_same_json(json.loads(block.text), json.loads(printed))
        except ValueError:
            is_same = False
    else:
        is_same = is_same_text(block.text, printed)
    return "" if is_same else f"the page shows\n{block.text}\nand this was printed\n{printed}"
