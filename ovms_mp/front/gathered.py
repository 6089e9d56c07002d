# SPDX-License-Identifier: Apache-2.0
"""A message on its way out, in pieces: what a protocol's encoder wrote, and tensors where the worker left them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gathered:
    """A reply in pieces. Memory behind views must stay as it is until ``release`` is called, which is once."""

    pieces: Sequence[bytes | memoryview]
    release: Callable[[], None] = lambda: None
