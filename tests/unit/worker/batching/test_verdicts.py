# SPDX-License-Identifier: Apache-2.0
"""How long what a trial has found is believed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from ovms_mp.worker.batching.loading import Verdict, _read, _write

if TYPE_CHECKING:
    from pathlib import Path

HOUR_S = 3600.0


@pytest.mark.parametrize(
    ("until_s", "is_believed"), [(0.0, True), (time.time() + HOUR_S, True), (time.time() - HOUR_S, False)]
)
def test_a_verdict_by_times_of_a_busy_machine_ends(tmp_path: Path, until_s: float, is_believed: bool) -> None:
    verdict = Verdict("", ((1, 4),), (((1, 4),),), 0.1, {2: 0.1}, until_s)
    path = tmp_path / "verdict.json"
    _write(path, verdict)

    assert _read(path) == (verdict if is_believed else None)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"reason": 1}', b"{" * 70_000])
def test_what_is_no_verdict_is_not_known(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "verdict.json"
    path.write_bytes(content)

    assert _read(path) is None
    assert _read(tmp_path / "nothing") is None
