# SPDX-License-Identifier: Apache-2.0
"""Markdown as text for a terminal: wrapped, links as their words, and tables that stay readable when it is narrow."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from ovms_mp.commands.printing import BOLD, DIM, painted, table, width

if TYPE_CHECKING:
    from collections.abc import Iterator

_CODE_INDENT = "    "
_LIST_INDENT = 2


class PageText:
    """Renders pages for one terminal."""

    def __init__(self, columns: int, *, has_colour: bool) -> None:
        self._columns = columns
        self._has_colour = has_colour
        self._parser = MarkdownIt("commonmark").enable("table")

    def of(self, markdown: str) -> str:
        """A page's text, with a line feed at its end."""
        tree = SyntaxTreeNode(self._parser.parse(markdown))
        blocks = [block for node in tree.children if (block := list(self._block(node, self._columns)))]
        return "\n\n".join("\n".join(block) for block in blocks) + "\n"

    def _block(self, node: SyntaxTreeNode, columns: int) -> Iterator[str]:
        match node.type:
            case "heading":
                words = _words(node)
                level = int(node.tag[1])
                yield self._painted(words.upper() if level == 1 else words, BOLD)
            case "paragraph":
                yield from _wrapped(_words(node), columns)
            case "fence" | "code_block":
                yield from (self._painted(_CODE_INDENT + line, DIM) for line in node.content.splitlines())
            case "bullet_list" | "ordered_list":
                yield from self._list(node, columns)
            case "blockquote":
                for child in node.children:
                    yield from (f"| {line}" for line in self._block(child, columns - 2))
            case "table":
                yield from self._table(node, columns)
            case "hr":
                yield "-" * columns
            case _:
                return  # Comments, which mark tables that are derived.

    def _list(self, node: SyntaxTreeNode, columns: int) -> Iterator[str]:
        for number, item in enumerate(node.children, 1):
            mark = "- " if node.type == "bullet_list" else f"{number}. "
            indent = " " * max(_LIST_INDENT, len(mark))
            first = True
            for child in item.children:
                for line in self._block(child, columns - len(indent)):
                    yield (mark if first else indent) + line
                    first = False

    def _table(self, node: SyntaxTreeNode, columns: int) -> Iterator[str]:
        head, *rows = [
            tuple(_words(cell) for cell in row.children) for part in node.children for row in part.children
        ]
        aligned = table([head, *rows], indent=0)
        if max(map(width, aligned)) <= columns:
            yield self._painted(aligned[0], BOLD)
            yield from aligned[1:]
            return
        # Too wide: a paragraph for each row, with the names of its columns.
        for row in rows:
            yield self._painted(row[0], BOLD)
            for name, cell in zip(head[1:], row[1:], strict=True):
                if cell:
                    text = f"{name}: {cell}" if name else cell
                    yield from (f"  {line}" for line in _wrapped(text, columns - 2, "  "))

    def _painted(self, text: str, colour: str) -> str:
        return painted(text, colour) if self._has_colour else text


def _wrapped(text: str, columns: int, later: str = "") -> list[str]:
    return textwrap.wrap(
        text, max(20, columns), subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )


def _words(node: SyntaxTreeNode) -> str:
    """The text of inline Markdown; links are their words, and their addresses where those lead to the web."""
    parts: list[str] = []
    for child in node.children:
        match child.type:
            case "text" | "code_inline" | "html_inline":
                parts.append(child.content)
            case "softbreak" | "hardbreak":
                parts.append(" ")
            case "link":
                words, address = _words(child), str(child.attrs.get("href", ""))
                is_web = address.startswith(("http://", "https://")) and address != words
                parts.append(f"{words} ({address})" if is_web else words)
            case "image":
                parts.append(f"[picture: {child.content}]")
            case _:
                parts.append(_words(child))
    return "".join(parts)
