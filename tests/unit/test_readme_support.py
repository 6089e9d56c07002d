# SPDX-License-Identifier: Apache-2.0
"""What runs the README's examples notices when their output is another."""

from __future__ import annotations

import pytest

from tests.support.readme import Block, blocks, difference

MARKDOWN = """\
Run:

```sh
a
```
```text
b
```

Save this as `dir/c.json`:

```json
{}
```
Later:
```text
d
```
"""


def test_blocks_know_what_they_are_for() -> None:
    assert blocks(MARKDOWN) == [
        Block("sh", "a\n", "", ""),
        Block("text", "b\n", "", "sh"),
        Block("json", "{}\n", "dir/c.json", ""),
        Block("text", "d\n", "", ""),
    ]


@pytest.mark.parametrize(
    ("shown", "printed", "is_same"),
    [
        ("a\n", "a\n", True),
        ("a\n", "a\nb\n", False),
        ("a\n", "", False),
        ("a.c\n", "abc\n", False),
        ("...\nb\n", "1\n2\nb\n", True),
        ("...\nb\n", "b\n", True),
        ("a\n...\n", "a\n", True),
        ("a\n...\n", "b\na\n", False),
        ("is ... here\n", "is 7 or 8 here\n", True),
        ("is ... here\n", "is 7\nhere\n", False),
        ("18:00:01 x 1.2.3\n", "07:59:59 x 1.10.0\n", True),
        ("18:00:01 x\n", "7:00 x\n", False),
        ("digits/1\n", "digits/2\n", False),
        ("code 2\n", "code 3\n", False),
    ],
)
def test_text_is_compared_to_the_letter(shown: str, printed: str, is_same: bool) -> None:
    assert (difference(Block("text", shown, "", "sh"), printed) == "") is is_same


@pytest.mark.parametrize(
    ("shown", "printed", "is_same"),
    [
        ('{"p": [0.0, 1.0]}', '{"p": [1e-9, 0.9999]}', True),
        ('{"p": [0.0, 1.0]}', '{"p": [0.2, 0.8]}', False),
        ('{"p": [0.0]}', '{"p": [0.0, 0.0]}', False),
        ('{"p": 0.0}', '{"p": 0.0, "q": 1}', False),
        ('{"version": "1"}', '{"version": "2"}', False),
        ("{}", "Connection refused", False),
        ('{"p": 1.0}', '{"p": [1.0]}', False),
    ],
)
def test_json_is_compared_but_for_rounding(shown: str, printed: str, is_same: bool) -> None:
    assert (difference(Block("json", shown, "", "sh"), printed) == "") is is_same
