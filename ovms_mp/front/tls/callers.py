# SPDX-License-Identifier: Apache-2.0
"""Who calls, by the client's certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovms_mp.front.call_context import CallContext


def name_by_certificate(context: CallContext) -> None:
    """A check of the gate that refuses nobody, as the handshake has. A key may name another caller behind it."""
    context.caller = context.origin.certificate_name
