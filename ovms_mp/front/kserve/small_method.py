# SPDX-License-Identifier: Apache-2.0
"""The name of KServe's gRPC service, and its methods whose messages hold no tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.kserve import calls
from ovms_mp.front.methods import Unary
from ovms_mp.front.protobuf.parts import LONGEST_SMALL_REQUEST_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.methods import Octets, Reply

SERVICE = "/inference.GRPCInferenceService"


def small_method(
    name: str,
    handler: Callable[[Octets, CallContext], Awaitable[Reply]],
    *,
    changes_server: bool = False,
    is_open: bool = False,
) -> Unary:
    """A method whose messages hold no tensors."""
    return Unary(
        f"{SERVICE}/{name}",
        handler,
        None,
        LONGEST_SMALL_REQUEST_BYTES,
        protocol=calls.PROTOCOL,
        changes_server=changes_server,
        is_open=is_open,
    )
