# SPDX-License-Identifier: Apache-2.0
"""An inference request of KServe v2, as both decoders make it: not yet held against any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from ovms_mp.front.tensors import GivenTensor

Parameter: TypeAlias = bool | int | float | str
Parameters: TypeAlias = Mapping[str, Parameter]

NO_PARAMETERS: Parameters = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that the client asks for.

    Attributes:
        name: The client's name for it.
        parameters: As sent, e.g. ``classification``, ``binary_data``, ``shared_memory_region``.
    """

    name: str
    parameters: Parameters = NO_PARAMETERS


@dataclass(slots=True)
class InferRequest:
    """A :class:`~ovms_mp.front.predict_request.PredictRequest`, and what the answer has to say again.

    Attributes:
        model_name: As sent; over REST from the path.
        model_version: As sent, a number in decimal digits; empty where the client leaves the choice to the server.
        id: Goes back with the answer; empty where the client gave none.
        parameters: Of the request, e.g. ``timeout`` in microseconds, ``priority``.
        inputs: Tensors by the client's names for them. Their values may be slices of the request's bytes.
        outputs: What is asked for; empty for all.
    """

    model_name: str
    model_version: str
    id: str
    inputs: dict[str, GivenTensor]
    outputs: Sequence[RequestedOutput] = ()
    parameters: Parameters = field(default=NO_PARAMETERS)

    @property
    def output_filter(self) -> Sequence[str]:
        """Names of the outputs to answer with; empty for all."""
        return [output.name for output in self.outputs]
