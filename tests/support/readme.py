# SPDX-License-Identifier: Apache-2.0
"""The examples of the README and of other pages, and what comparing their output leaves out.

A fenced block is an example by its language:

- ``sh``: commands. One that starts a server runs until the next one that does, or the end.
- ``text`` and ``json``: output. Directly after commands it is all that they print on a terminal; of a server, all
  until then. Elsewhere it is what the running server prints next.
- ``python``: a program, run as it stands there. What follows directly is its output.
- After a paragraph that ends with "Save this as `NAME`:", the content of that file, in whatever language.
- ``ini`` and ``yaml`` elsewhere: units and manifests, which are held against what reads them.
- Without a language: a picture.

A block that cannot be run here has a mark in the line above it, which no reader sees: ``<!-- not run: WHY -->``, with a
reason of :data:`NOT_RUN`, or ``<!-- run in: WHERE -->``, with a place of :data:`RUN_IN`. Blocks that install have none:
``.ci/run`` runs those. ``unit/docs`` checks what is not run, and counts it.

In ``text``, ``...`` stands for anything, and alone on a line for any lines. Of
:data:`VOLATILE` only the form is compared. In ``json``, numbers are compared to a hundredth, as processors
round differently.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"^<!-- (not run|run in): (.*?) -->\s*\Z", re.MULTILINE)
_INSTALLS = re.compile(r"\bpip install\b")
_SAVE = re.compile(r"Save this as `([^`]+)`:\s*$")

NOT_RUN = {
    "docker": "there is no container runtime",
    "kubectl": "there is no cluster",
    "store": "there is no account of an object store",
    "gpu": "there is no GPU",
    "user": "there is no systemd for users",
    "long": "it takes minutes, and tests of its own run it",
    "install": "it takes minutes, and .ci/run installs",
}
"""Why a block is only checked."""
RUN_IN = {
    "systemd": "a booted systemd: integration/test_systemd_pages.py",
    "clients": "an environment with the clients of others: clients/test_pages.py",
}
"""Where else a block is run."""
INSTALL = "install"
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
        not_run: Why it is only checked: one of :data:`NOT_RUN`; else empty.
        run_in: Where else it is run: one of :data:`RUN_IN`; else empty.
    """

    language: str
    text: str
    file: str
    follows: str
    not_run: str = ""
    run_in: str = ""


def blocks(markdown: str) -> list[Block]:
    """All fenced blocks, in their order."""
    found: list[Block] = []
    end = 0
    for fence in _FENCE.finditer(markdown):
        between = markdown[end : fence.start()]
        save = _SAVE.search(between)
        follows = found[-1].language if found and not between.strip() else ""
        mark = _MARK.search(between)
        not_run = mark[2] if mark and mark[1] == "not run" else ""
        if not not_run and fence[1] == "sh" and _INSTALLS.search(fence[2]):
            not_run = INSTALL
        run_in = mark[2] if mark and mark[1] == "run in" else ""
        found.append(Block(fence[1], fence[2], save[1] if save else "", follows, not_run, run_in))
        end = fence.end()
    return found


def outputs(page: Sequence[Block]) -> Iterator[tuple[Block, Block | None]]:
    """Each block with the output that the page shows of it, which comes by itself, too."""
    for block, following in itertools.zip_longest(page, page[1:]):
        is_shown = following is not None and following.follows and following.language in ("text", "json")
        yield block, following if is_shown and block.language in ("sh", "python") else None


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
