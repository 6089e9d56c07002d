# SPDX-License-Identifier: Apache-2.0
"""An inference request some of whose tensors are in clients' shared memory; the same for all forms of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ovms_mp.front.kserve.regions.parameters import output_ranges
from ovms_mp.front.regions.loans import Late
from ovms_mp.front.regions.tensors import RegionInput

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.infer.runs import Coming
    from ovms_mp.front.kserve.infer_request import InferRequest
    from ovms_mp.front.routing import VersionRoute
    from ovms_mp.front.service import Service
    from ovms_mp.front.tensors import ResultTensor

AnswerT = TypeVar("AnswerT")


def may_be_shared(request: InferRequest) -> bool:
    """Whether a request can have tensors in shared memory; :func:`predict` finds out. PERF: 0.1 us."""
    for tensor in request.inputs.values():
        if type(tensor) is RegionInput:
            return True
    return bool(request.outputs) and any(output.parameters for output in request.outputs)


async def predict(
    service: Service,
    name: str,
    version: int,
    decode: Callable[[VersionRoute], Awaitable[InferRequest]],
    context: CallContext,
    encode: Callable[[VersionRoute, Sequence[ResultTensor]], AnswerT | Coming[AnswerT]],
) -> AnswerT:
    """As :meth:`~ovms_mp.front.service.Service.predict`, with inputs and outputs that may be in shared memory.

    PERF: 2 us more than that.

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
            if may_be_shared(request):
                await loan.fetch(route, request.inputs, output_ranges(request.outputs))
            return request

        def deliver(route: VersionRoute, outputs: Sequence[ResultTensor]) -> AnswerT | Coming[AnswerT]:
            if not loan.has_rooms:
                return encode(route, outputs)
            answer: Any = loan.deliver(route, outputs, encode)  # Any: it may be promised twice.
            promised: Coming[AnswerT] = answer.written() if isinstance(answer, Late) else answer
            return promised

        return await service.predict(name, version, fetch, context, deliver)
