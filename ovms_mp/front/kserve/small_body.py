# SPDX-License-Identifier: Apache-2.0
"""JSON bodies of KServe's REST calls that hold no tensors; an empty one means nothing is asked for in particular."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from ovms_mp.errors import MalformedPayload

if TYPE_CHECKING:
    from ovms_mp.front.endpoints import RestRequest

BodyT = TypeVar("BodyT")

LONGEST_BODY_BYTES = 64 << 10


async def small_body(request: RestRequest, kind: type[BodyT]) -> BodyT:
    """The request's body as a value of this type.

    Raises:
        MalformedPayload: It is no JSON, or not of this form.
        OvmsError: It is too long, too late or not what its headers say.
    """
    body = bytes(await request.read_body(LONGEST_BODY_BYTES)).strip() or b"{}"
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedPayload(f"failed to parse the request JSON buffer: {error}") from None
