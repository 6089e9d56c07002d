# SPDX-License-Identifier: Apache-2.0
"""How a child that gets no snapshots follows changes of the log's levels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.log import apply_levels
from ovms_mp.wire.messages import SnapshotApplied

if TYPE_CHECKING:
    from ovms_mp.child.control import ControlLink
    from ovms_mp.wire.messages import LevelsChanged


def follow_levels(message: LevelsChanged, control: ControlLink) -> None:
    """Log what the message says, and answer it."""
    apply_levels(message.levels)
    control.send(SnapshotApplied(message.epoch))
