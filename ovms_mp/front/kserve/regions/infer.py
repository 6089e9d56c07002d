# SPDX-License-Identifier: Apache-2.0
"""An inference request some of whose tensors are in clients' shared memory; the same for all forms of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ovms_mp.front.kserve.regions.parameters import output_ranges
from ovms_mp.front.regions.loans import Late
from ovms_mp.front.regions.tensors import RegionInput

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.kserve.infer_request import InferRequest
    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.service import Service
    from ovms_mp.front.tensors import ResultTensor

AnswerT = TypeVar("AnswerT")


async def predict(
    service: Service,
    name: str,
    version: int,
    decode: Callable[[VersionRoute], Awaitable[InferRequest]],
    context: CallContext,
    encode: Callable[[VersionRoute, Sequence[ResultTensor]], AnswerT],
) -> AnswerT:
    """As :meth:`~ovms_mp.front.service.Service.predict`, with inputs and outputs that may be in shared memory.

    Args:
        service: Answers.
        name: The model.
        version: Its version; 0 for the default.
        decode: Reads the request; inputs in shared memory as :class:`~ovms_mp.front.regions.tensors.RegionInput`.
        context: The call.
        encode: Makes the answer. Of a result that is in shared memory it gets ``shared`` instead of data.

    Raises:
        OvmsError: One of the failures in :mod:`ovms_mp.errors`.
    """
    with service.loan() as loan:

        async def fetch(route: VersionRoute) -> InferRequest:
            request = await decode(route)
            ranges = output_ranges(request.outputs) if request.outputs else {}
            if ranges or any(isinstance(tensor, RegionInput) for tensor in request.inputs.values()):
                await loan.fetch(route, request.inputs, ranges)
            return request

        def deliver(route: VersionRoute, outputs: Sequence[ResultTensor]) -> AnswerT | Late[AnswerT]:
            return loan.deliver(route, outputs, encode) if loan.has_rooms else encode(route, outputs)

        answer = await service.predict(name, version, fetch, context, deliver)
        # What an encoder gives may be waited for, too, but by who has called.
        return await answer.written() if isinstance(answer, Late) else answer
