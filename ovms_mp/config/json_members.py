# SPDX-License-Identifier: Apache-2.0
"""Where a list stands in the text of a JSON object, and that text with an element more or less.

For documents that have been decoded and found right; what is not touched keeps its octets.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Set

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
"""Numbers have no meaning here, and may be longer than Python reads."""
_INDENT = "  "


@dataclass(frozen=True, slots=True)
class ListText:
    """A list in a text.

    Attributes:
        begin: Position behind its bracket.
        end: Position of the closing bracket.
        spans: Begin and end of each element.
        values: The elements.
    """

    begin: int
    end: int
    spans: tuple[tuple[int, int], ...]
    values: tuple[object, ...]

    def appended(self, text: str, element: str) -> str:
        """The text with one element more, separated from the others as the last one is."""
        if not self.spans:
            lines = text[: self.begin].rpartition("\n")[2]
            margin = lines[: len(lines) - len(lines.lstrip())]
            return f"{text[: self.begin]}\n{margin}{_INDENT}{element}\n{margin}{text[self.end :]}"
        before = self.spans[-2][1] if len(self.spans) > 1 else self.begin
        space = text[before : self.spans[-1][0]].replace(",", "")
        if not space:
            space = " "
        last = self.spans[-1][1]
        return f"{text[:last]},{space}{element}{text[last:]}"

    def without(self, text: str, removed: Set[int]) -> str:
        """The text without the elements of these indices."""
        kept = [index for index in range(len(self.spans)) if index not in removed]
        if not kept:
            return text[: self.begin] + text[self.end :]
        parts = [text[: self.begin], text[self.begin : self.spans[0][0]]]
        for number, index in enumerate(kept):
            begin, end = self.spans[index]
            if number:
                parts.append(text[self.spans[index - 1][1] : begin])
            parts.append(text[begin:end])
        return "".join([*parts, text[self.spans[-1][1] :]])


def list_member(text: str, key: str) -> ListText:
    """Find the list that an object has under a key.

    Args:
        text: A whole document, an object that has the key with a list.
        key: Once in the object.

    Raises:
        ValueError: It is not so.
    """
    at = _after_space(text, _after_space(text, 0) + 1)
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        at = _after_space(text, _after_space(text, at) + 1)  # The colon.
        if name == key:
            return _list_at(text, at)
        _, at = _DECODER.raw_decode(text, at)
        at = _after_comma(text, at)
    raise ValueError(f"no {key!r}")


def _list_at(text: str, bracket: int) -> ListText:
    if text[bracket] != "[":
        raise ValueError("no list")
    at = _after_space(text, bracket + 1)
    spans: list[tuple[int, int]] = []
    values: list[object] = []
    while text[at] != "]":
        value, end = _DECODER.raw_decode(text, at)
        spans.append((at, end))
        values.append(value)
        at = _after_comma(text, end)
    return ListText(bracket + 1, at, tuple(spans), tuple(values))


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _after_comma(text: str, at: int) -> int:
    at = _after_space(text, at)
    return _after_space(text, at + 1) if text[at] == "," else at
