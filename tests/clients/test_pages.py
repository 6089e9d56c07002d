# SPDX-License-Identifier: Apache-2.0
"""Pages with programs that use the clients of others print what is shown."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from ovms_mp.docs import PAGES
from tests.support.reader import Reader
from tests.support.readme import blocks

if TYPE_CHECKING:
    from pathlib import Path

HERE = "clients"
TOPICS = [
    topic for topic, page in PAGES.items() if any(block.run_in == HERE for block in blocks(page.text()))
]


@pytest.mark.parametrize("topic", TOPICS)
def test_the_examples_print_what_the_page_shows(topic: str, clients_python: Path, tmp_path: Path) -> None:
    with ExitStack() as cleanup:
        reader = Reader(tmp_path, cleanup, place=HERE, python=clients_python)
        reader.follow(blocks(PAGES[topic].text()))
