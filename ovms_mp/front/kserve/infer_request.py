# SPDX-License-Identifier: Apache-2.0
"""An inference request of KServe v2, as both decoders make it: not yet held against any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from ovms_mp.front.tensors import GivenTensor
from ovms_mp.model.dtypes import DType

Parameter: TypeAlias = bool | int | float | str
Parameters: TypeAlias = Mapping[str, Parameter]

NO_PARAMETERS: Parameters = MappingProxyType({})


def _no_parameters() -> Parameters:
    return NO_PARAMETERS  # A default that a dataclass takes for mutable.


REGION = "shared_memory_region"
"""The parameter of an input or a requested output that is in memory which it shares with the client."""


@dataclass(frozen=True, slots=True)
class InputHead:
    """An input without its values.

    Attributes:
        name: The client's name for it.
        dtype: What the client says the elements are.
        shape: Static, no negative dimension.
        parameters: As sent, e.g. ``shared_memory_region``.
        is_in_region: Whether the values are in memory which the server shares with the client.
        nbytes: Size of the tensor; of strings the least size.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    parameters: Parameters = field(default_factory=_no_parameters)
    is_in_region: bool = field(init=False)
    nbytes: int = field(init=False)

    def __post_init__(self) -> None:
        """Note what follows from the rest; it is asked for at every request."""
        object.__setattr__(self, "is_in_region", REGION in self.parameters)
        object.__setattr__(self, "nbytes", self.dtype.nbytes(self.shape))


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that the client asks for.

    Attributes:
        name: The client's name for it.
        parameters: As sent, e.g. ``classification``, ``binary_data``, ``shared_memory_region``.
    """

    name: str
    parameters: Parameters = field(default_factory=_no_parameters)


@dataclass(slots=True)
class InferRequest:
    """A :class:`~ovms_mp.front.predict_request.PredictRequest`, and what the answer has to say again.

    Attributes:
        model_name: As sent; over REST from the path.
        model_version: As sent, a number in decimal digits; empty where the client leaves the choice to the server.
        id: Goes back with the answer; empty where the client gave none.
        parameters: Of the request, e.g. ``timeout`` in microseconds, ``priority``.
        inputs: Tensors by the client's names for them. Their values may be slices of the request's bytes, or still in
            shared memory.
        outputs: What is asked for; empty for all.
    """

    model_name: str
    model_version: str
    id: str
    inputs: dict[str, GivenTensor]
    outputs: Sequence[RequestedOutput] = ()
    parameters: Parameters = field(default_factory=_no_parameters)

    @property
    def output_filter(self) -> Sequence[str]:
        """Names of the outputs to answer with; empty for all."""
        return [output.name for output in self.outputs]
