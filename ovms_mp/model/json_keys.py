# SPDX-License-Identifier: Apache-2.0
"""Repeated keys of a JSON object, of which Python's decoder silently keeps the last. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def repeated_keys(pairs: Sequence[tuple[str, object]]) -> tuple[str, ...]:
    """The keys that are written more than once in one object.

    Args:
        pairs: What :func:`json.loads` gives to its ``object_pairs_hook``.
    """
    if len(dict(pairs)) == len(pairs):
        return ()
    counts = Counter(key for key, _ in pairs)
    return tuple(key for key, count in counts.items() if count > 1)
