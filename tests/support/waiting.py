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
_LONGEST_PACE_S = 0.05


def eventually(
    predicate: Callable[[], ValueT], within_s: float, what: str, longest_pace_s: float = _LONGEST_PACE_S
) -> ValueT:
    """Ask until the answer is true, and give it; fail with ``what`` after ``within_s``.

    Args:
        predicate: What to ask.
        within_s: How long it may take.
        what: Is waited for.
        longest_pace_s: From one question to the next; more where a question costs much.
    """
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
        pace.wait(min(max(_FIRST_PACE_S, waited_s / 20), longest_pace_s))
