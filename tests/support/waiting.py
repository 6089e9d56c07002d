# SPDX-License-Identifier: Apache-2.0
"""The only wait of the tests."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

ValueT = TypeVar("ValueT")

_FIRST_PACE_S = 0.01
_LAST_PACE_S = 0.05


def eventually(predicate: Callable[[], ValueT], within_s: float, what: str) -> ValueT:
    """Ask until the answer is true, and give it; fail with ``what`` after ``within_s``."""
    started_at = time.monotonic()
    pace = threading.Event()
    while True:
        answer = predicate()
        if answer:
            return answer
        waited_s = time.monotonic() - started_at
        if waited_s > within_s:
            raise AssertionError(f"not within {within_s:g} s: {what}; last answer: {answer!r}")
        # What takes long is asked for less often, as asking keeps a core from the processes that are waited for.
        pace.wait(min(max(_FIRST_PACE_S, waited_s / 20), _LAST_PACE_S))
