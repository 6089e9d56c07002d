# SPDX-License-Identifier: Apache-2.0
"""The front's clock: its parts are given one at construction, so that tests give one that they move."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Clock: TypeAlias = Callable[[], int]
"""CLOCK_MONOTONIC in nanoseconds, which all processes of one machine share."""
