# SPDX-License-Identifier: Apache-2.0
"""The only wait of the tests."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

ValueT = TypeVar("ValueT")

_PACE_S = 0.02


def eventually(predicate: Callable[[], ValueT], within_s: float, what: str) -> ValueT:
    """Ask until the answer is true, and give it; fail with ``what`` after ``within_s``."""
    give_up_at = time.monotonic() + within_s
    pace = threading.Event()
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() > give_up_at:
            raise AssertionError(f"not within {within_s:g} s: {what}; last answer: {answer!r}")
        pace.wait(_PACE_S)
