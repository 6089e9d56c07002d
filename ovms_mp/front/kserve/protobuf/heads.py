# SPDX-License-Identifier: Apache-2.0
"""The small parts of an inference request, from their generated classes: inputs without values, outputs, parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.errors import MalformedPayload, shortened
from ovms_mp.front.kserve.datatypes import dtype_named
from ovms_mp.front.kserve.infer_request import NO_PARAMETERS, InputHead, RequestedOutput
from ovms_mp.front.tensors import checked_shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.front.kserve._proto.kserve_pb2 import InferParameter, ModelInferRequest
    from ovms_mp.front.kserve.infer_request import Parameter, Parameters

_MOST_DIMENSIONS = 64
"""No model has so many; the product of many large ones takes time, and Python refuses to print it."""
_LONGEST_SHOWN = 64


def parameters_of(protos: Mapping[str, InferParameter]) -> Parameters:
    """Parameters of whatever has them.

    Raises:
        MalformedPayload: One has no value.
    """
    if not protos:
        return NO_PARAMETERS
    parameters: dict[str, Parameter] = {}
    for key, proto in protos.items():
        kind = proto.WhichOneof("parameter_choice")
        if kind is None:
            raise MalformedPayload(f"parameter {shortened(key, _LONGEST_SHOWN)!r} has no value")
        parameters[key] = getattr(proto, kind)
    return parameters


def input_head(proto: ModelInferRequest.InferInputTensor) -> InputHead:
    """An input without its values.

    Raises:
        DtypeMismatch: There is no such datatype.
        MalformedPayload: A dimension is negative, there are absurdly many, or a parameter has no value.
    """
    name = proto.name
    if len(proto.shape) > _MOST_DIMENSIONS:
        raise MalformedPayload(
            f"input {name!r}: a shape of {len(proto.shape)} dimensions; at most {_MOST_DIMENSIONS} are read"
        )
    shape = checked_shape(list(proto.shape), f"input {name!r}")
    return InputHead(name, dtype_named(proto.datatype, name), shape, parameters_of(proto.parameters))


def requested_output(proto: ModelInferRequest.InferRequestedOutputTensor) -> RequestedOutput:
    """An output that is asked for.

    Raises:
        MalformedPayload: A parameter has no value.
    """
    return RequestedOutput(proto.name, parameters_of(proto.parameters))
