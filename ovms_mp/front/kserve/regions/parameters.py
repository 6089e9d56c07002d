# SPDX-License-Identifier: Apache-2.0
"""Parameters of an input or output that say where in a client's shared memory it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.errors import MalformedPayload, shortened
from ovms_mp.front.regions.ranges import SharedRange
from ovms_mp.front.regions.tensors import RegionInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.front.kserve.infer_request import Parameter, Parameters, RequestedOutput
    from ovms_mp.model.dtypes import DType

REGION, OFFSET, SIZE = "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"
CLASSIFICATION = "classification"
LARGEST = (1 << 63) - 1
"""No file is longer."""
_LONGEST_NAME = 256
_LONGEST_SHOWN = 64


def region_input(
    name: str, dtype: DType, shape: tuple[int, ...], parameters: Parameters
) -> RegionInput | None:
    """The input that the parameters describe; None if they do not say that its elements are in shared memory.

    PERF: 0.1 us where there are no parameters.

    Raises:
        MalformedPayload: They say it wrongly.
    """
    if not parameters:
        return None
    place = shared_range(parameters, "input", name)
    return None if place is None else RegionInput(dtype, shape, place)


def output_ranges(outputs: Sequence[RequestedOutput]) -> dict[str, SharedRange]:
    """Where the results shall go that shall go into shared memory, by the outputs' names.

    Raises:
        MalformedPayload: One is not said rightly, or said twice, or is to be a classification.
    """
    ranges: dict[str, SharedRange] = {}
    for output in outputs:
        if not output.parameters:
            continue
        place = shared_range(output.parameters, "output", output.name)
        if place is None:
            continue
        if output.parameters.get(CLASSIFICATION):
            raise MalformedPayload(
                f"output {_shown(output.name)}: output can't set both '{REGION}' and '{CLASSIFICATION}'"
            )
        if output.name in ranges:
            raise MalformedPayload(
                f"output {_shown(output.name)} is asked for twice, each time with '{REGION}'"
            )
        ranges[output.name] = place
    return ranges


def shared_range(parameters: Parameters, what: str, name: str) -> SharedRange | None:
    """The range that the parameters name; None if they name none.

    Args:
        parameters: Of an input or output.
        what: Which of these it is.
        name: The tensor's.

    Raises:
        MalformedPayload: A value is missing, of another type, or none that a range can have.
    """
    region = parameters.get(REGION)
    if region is None:
        for key in (OFFSET, SIZE):
            if key in parameters:
                raise MalformedPayload(
                    f"{what} {_shown(name)}: '{key}' can not be specified without '{REGION}' parameter"
                )
        return None
    if not isinstance(region, str) or not region:
        raise MalformedPayload(
            f"{what} {_shown(name)}: '{REGION}' is {_shown(region)}, expected the name of a region"
        )
    if SIZE not in parameters:
        raise MalformedPayload(f"{what} {_shown(name)}: '{REGION}' needs '{SIZE}' beside it")
    return SharedRange(region, _number(parameters, OFFSET, what, name), _number(parameters, SIZE, what, name))


def range_parameters(place: SharedRange) -> dict[str, Parameter]:
    """The parameters of an output that is in shared memory, for the answer."""
    parameters: dict[str, Parameter] = {REGION: place.region, SIZE: place.nbytes}
    if place.offset:
        parameters[OFFSET] = place.offset
    return parameters


def _number(parameters: Parameters, key: str, what: str, name: str) -> int:
    value = parameters.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST:
        raise MalformedPayload(
            f"{what} {_shown(name)}: '{key}' is {_shown(value)}, expected a whole number from 0 to {LARGEST}"
        )
    return value


def _shown(value: Parameter) -> str:
    return shortened(repr(value), _LONGEST_NAME if isinstance(value, str) else _LONGEST_SHOWN)
