# SPDX-License-Identifier: Apache-2.0
"""Batch sizes and shapes as OVMS writes them: ``"auto"``, ``"(1,3,-1,200:500)"``. Pure.

The parsers say why a value is not valid in a :class:`~ovms_mp.errors.ConfigError` without place and value, which the
caller knows.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ovms_mp.errors import ConfigError
from ovms_mp.model.input_settings import BatchSize

if TYPE_CHECKING:
    from ovms_mp.model.input_settings import Bound

MAX_SIZE = (1 << 31) - 1
ANY: Bound = (0, -1)
"""What ``-1`` means."""

_SIZE = re.compile(r"(?P<low>[0-9]{1,10})(:(?P<high>[0-9]{1,10}))?")
_BRACKETS = re.compile(r"\((?P<round>[^()\[\]]*)\)|\[(?P<square>[^()\[\]]*)\]")


def parse_batch_size(value: object) -> BatchSize | None:
    """Read a batch size; None where it asks for nothing, as 0 does.

    Raises:
        ConfigError: Why it is not valid.
    """
    if isinstance(value, str) and value.strip().lower() == "auto":
        return BatchSize(None)
    if value in (0, "0") and not isinstance(value, (bool, float)):
        return None
    return BatchSize(_size(value))


def parse_shape(value: object) -> tuple[Bound, ...] | None:
    """Read a shape; None for ``auto``.

    Args:
        value: Text, or the list that a JSON author may write in its place.

    Raises:
        ConfigError: Why it is not valid.
    """
    if isinstance(value, list):
        return tuple(_size(size) for size in value)
    if not isinstance(value, str):
        raise ConfigError("a shape must be a string")
    text = value.strip()
    if text.lower() == "auto":
        return None
    brackets = _BRACKETS.fullmatch(text)
    if brackets is None:
        raise ConfigError("sizes must be enclosed in one pair of ( ) or [ ] and separated by commas")
    inner = (brackets["round"] or brackets["square"] or "").strip()
    if not inner:
        return ()
    # Python writes a shape with one dimension as (10,).
    return tuple(_size(size) for size in inner.removesuffix(",").split(","))


def _size(value: object) -> Bound:
    """The bounds of one dimension."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ConfigError("a size must be a number from 1, -1 or a range")
    text = "".join(str(value).split())
    if text == "-1":
        return ANY
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ConfigError(f"'{text[:40]}' is not a size")
    low = int(match["low"])
    high = int(match["high"]) if match["high"] else low
    if not 1 <= low <= high <= MAX_SIZE:
        raise ConfigError(
            f"'{text}' is out of range: sizes are 1 to {MAX_SIZE}, and a range starts with the smaller"
        )
    return low, high
