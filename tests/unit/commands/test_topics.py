# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp help``: pages in a terminal."""

from __future__ import annotations

import pytest

from ovms_mp.cli import main
from ovms_mp.commands.page_text import PageText
from ovms_mp.docs import PAGES

MARKDOWN = """\
# A page

<!-- a mark -->

Some `code`, **bold** and [a page](OTHER.md#x), [the web](https://example.com/), in a paragraph that is long.

- one
- two
  that goes on

  ```sh
  ls
  ```

1. first

| a | b |
|---|---|
| 1 | x |
"""


def test_markdown_becomes_text() -> None:
    assert PageText(48, has_colour=False).of(MARKDOWN).splitlines() == [
        "A PAGE",
        "",
        "Some code, bold and a page, the web",
        "(https://example.com/), in a paragraph that is",
        "long.",
        "",
        "- one",
        "- two that goes on",
        "      ls",
        "",
        "1. first",
        "",
        "a  b",
        "1  x",
    ]


def test_a_table_that_is_too_wide_is_a_paragraph_a_row() -> None:
    wide = f"| key | meaning |\n|---|---|\n| `k` | {'word ' * 12} |\n"

    text = PageText(40, has_colour=False).of(wide)

    assert text.splitlines()[:2] == ["k", "  meaning: word word word word word word"]
    assert max(map(len, text.splitlines())) <= 40


@pytest.mark.parametrize("topic", PAGES)
def test_every_page_can_be_read(topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", topic]) == 0

    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(PAGES[topic].text().partition("\n")[0].removeprefix("# ").upper())
    assert "<!--" not in out


def test_topics_are_listed_and_near_ones_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    assert all(f"  {topic} " in capsys.readouterr().out for topic in list(PAGES)[:1])
    assert main(["help", "FROM_OVMS.md"]) == 0
    assert main(["help", "setting"]) == 2

    assert "did you mean settings?" in capsys.readouterr().err
