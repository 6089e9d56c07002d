# SPDX-License-Identifier: Apache-2.0
"""Parameters that say where in shared memory a tensor is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovms_mp.errors import MalformedPayload
from ovms_mp.front.kserve.infer_request import RequestedOutput
from ovms_mp.front.kserve.regions.parameters import (
    output_ranges,
    range_parameters,
    region_input,
    shared_range,
)
from ovms_mp.front.regions.ranges import SharedRange
from ovms_mp.front.regions.tensors import RegionInput
from ovms_mp.model.dtypes import DType

if TYPE_CHECKING:
    from ovms_mp.front.kserve.infer_request import Parameter

PLACE: dict[str, Parameter] = {"shared_memory_region": "r", "shared_memory_byte_size": 8}


def test_a_region_is_named_with_a_size_and_perhaps_an_offset() -> None:
    assert shared_range(PLACE, "input", "x") == SharedRange("r", 0, 8)
    assert shared_range({**PLACE, "shared_memory_offset": 4}, "input", "x") == SharedRange("r", 4, 8)
    assert shared_range({"binary_data_size": 8}, "input", "x") is None
    assert region_input("x", DType.INT8, (8,), {}) is None
    assert region_input("x", DType.INT8, (8,), PLACE) == RegionInput(DType.INT8, (8,), SharedRange("r", 0, 8))


@pytest.mark.parametrize(
    "place", [SharedRange("r", 0, 8), SharedRange("r", 3, 0), SharedRange("ü", 1, (1 << 63) - 1)]
)
def test_parameters_of_an_answer_are_read_as_they_were_written(place: SharedRange) -> None:
    assert shared_range(range_parameters(place), "output", "y") == place


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"shared_memory_region": 3}, "'shared_memory_region' is 3, expected the name of a region"),
        ({"shared_memory_region": True}, "'shared_memory_region' is True"),
        ({"shared_memory_region": ""}, "'shared_memory_region' is ''"),
        *[
            ({key: value}, f"'{key}' is .*, expected a whole number from 0 to 9223372036854775807")
            for key in ("shared_memory_byte_size", "shared_memory_offset")
            for value in (-1, True, 1.0, "8", 1 << 63, (1 << 64) - 1, 1 << 64, float("nan"))
        ],
    ],
)
def test_what_is_no_range_is_refused(change: dict[str, Parameter], text: str) -> None:
    with pytest.raises(MalformedPayload, match=f"^input 'x': {text}"):
        shared_range({**PLACE, **change}, "input", "x")


def test_what_is_missing_is_told() -> None:
    with pytest.raises(
        MalformedPayload, match="'shared_memory_region' needs 'shared_memory_byte_size' beside it"
    ):
        shared_range({"shared_memory_region": "r"}, "input", "x")
    for key in ("shared_memory_offset", "shared_memory_byte_size"):
        with pytest.raises(
            MalformedPayload, match=f"'{key}' can not be specified without 'shared_memory_region'"
        ):
            shared_range({key: 8}, "input", "x")


def test_outputs_that_have_a_place() -> None:
    outputs = [RequestedOutput("a", PLACE), RequestedOutput("b"), RequestedOutput("c", {"binary_data": True})]
    assert output_ranges(outputs) == {"a": SharedRange("r", 0, 8)}


def test_an_output_has_one_place_and_is_no_classification() -> None:
    with pytest.raises(MalformedPayload, match="output 'a' is asked for twice"):
        output_ranges([RequestedOutput("a", PLACE)] * 2)
    with pytest.raises(MalformedPayload, match="can't set both 'shared_memory_region' and 'classification'"):
        output_ranges([RequestedOutput("a", {**PLACE, "classification": 3})])
