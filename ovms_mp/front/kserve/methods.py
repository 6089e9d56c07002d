# SPDX-License-Identifier: Apache-2.0
"""KServe's methods on messages: the list of them, and handlers that decode, call and encode."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.methods import Method
    from ovms_mp.front.served_protocol import MessageParts


def methods(parts: MessageParts) -> Sequence[Method]:
    """All methods."""
    return ()
