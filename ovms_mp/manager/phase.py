# SPDX-License-Identifier: Apache-2.0
"""What the server as a whole is doing."""

from __future__ import annotations

import enum


class Phase(enum.Enum):
    """One after the other; a stop may come in each of the first three."""

    LOADING = enum.auto()
    STARTING_FRONTS = enum.auto()
    SERVING = enum.auto()
    STOPPING_FRONTS = enum.auto()
    STOPPING_WORKERS = enum.auto()


STOPPING = (Phase.STOPPING_FRONTS, Phase.STOPPING_WORKERS)
