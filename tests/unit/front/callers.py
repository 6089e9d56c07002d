# SPDX-License-Identifier: Apache-2.0
"""Clients for tests of what is asked and told of calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.front.call_context import Target

if TYPE_CHECKING:
    from collections.abc import Sequence

TARGET = Target("POST", "/path")


@dataclass
class Caller:
    """Where a call comes from; see :class:`~ovms_mp.front.call_context.CallOrigin`."""

    peer: str = "10.0.0.1:1"
    metadata: Sequence[tuple[str, str | bytes]] = ()
    certificate_name: str = ""
    target: Target = TARGET
