# SPDX-License-Identifier: Apache-2.0
"""Tables and colours."""

from __future__ import annotations

import io

import pytest

from ovms_mp.commands.printing import coloured, cut, has_colours, show, table, width


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "expected"),
    [
        (Tty(), {"TERM": "xterm"}, True),
        (Tty(), {"TERM": "xterm", "NO_COLOR": ""}, True),
        (Tty(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Tty(), {"TERM": "dumb"}, False),
        (Tty(), {}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
    ],
)
def test_colours_are_for_terminals(stream: io.StringIO, environment: dict[str, str], expected: bool) -> None:
    assert has_colours(stream, environment) is expected


def test_states_and_reasons_are_coloured_and_names_are_not() -> None:
    assert coloured("  1  AVAILABLE  x") == "  1  \x1b[32mAVAILABLE\x1b[0m  x"
    assert coloured("  1  FAILED") == "  1  \x1b[31mFAILED\x1b[0m"
    assert coloured("    ! no file") == "\x1b[31m    ! no file\x1b[0m"
    assert coloured("my-START/END UNAVAILABLE") == "my-START/END UNAVAILABLE"


def test_columns_are_aligned_whatever_their_characters() -> None:
    assert table([("a", "b"), ("模型", "c")]) == ["  a     b", "  模型  c"]
    assert width("e\u0301") == 1


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [("abc", 3, "abc"), ("abcd", 3, "ab>"), ("模型", 3, "模>"), ("ab", 0, "")],
)
def test_what_is_too_long_is_cut(text: str, columns: int, expected: str) -> None:
    assert cut(text, columns) == expected


def test_nothing_that_is_shown_moves_a_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    show(["a\x1b[2J", "b"], {"TERM": "xterm"})

    assert capsys.readouterr().out == "a\\x1b[2J\nb\n"
