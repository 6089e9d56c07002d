# SPDX-License-Identifier: Apache-2.0
"""What an IR says of its model, as it is read back from a file, and what is left out."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from ovms_mp.worker.load.rt_info import MOST_BYTES, rt_info_text

if TYPE_CHECKING:
    from pathlib import Path


def relu() -> ov.Model:
    x = ops.parameter([1, 2], np.float32, name="x")
    return ov.Model([ops.relu(x)], [x], "m")


def read_back(model: ov.Model, directory: Path) -> ov.Model:
    ov.save_model(model, directory / "m.xml")
    return ov.Core().read_model(directory / "m.xml")


def test_all_kinds_of_values_are_texts(tmp_path: Path) -> None:
    model = relu()
    for key, value in (("labels", "cat dog"), ("sizes", ["1", "2"]), ("confidence", 0.5), ("resize", True)):
        model.set_rt_info(value, ["model_info", key])
    model.set_rt_info({"deep": {"er": 3}}, ["model_info", "config"])
    model.set_rt_info("not this", ["other"])

    assert json.loads(rt_info_text(read_back(model, tmp_path), "m")) == {
        "model_info": {
            "labels": "cat dog",
            "sizes": "1 2",
            "confidence": "0.5",
            "resize": "YES",
            "config": {"deep": {"er": "3"}},
        }
    }
    # Not read from a file, values have types.
    plain = json.loads(rt_info_text(model, "m"))["model_info"]
    assert (plain["labels"], plain["sizes"], plain["config"]) == ("cat dog", "1 2", {"deep": {"er": "3"}})


@pytest.mark.parametrize("value", [None, "a text"])
def test_a_model_that_says_nothing(tmp_path: Path, value: str | None) -> None:
    model = relu()
    if value is not None:
        model.set_rt_info(value, ["model_info"])
    assert rt_info_text(read_back(model, tmp_path), "m") == ""


def test_what_is_too_long_is_left_out_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    model = relu()
    model.set_rt_info("x" * MOST_BYTES, ["model_info", "labels"])
    with caplog.at_level(logging.WARNING):
        assert rt_info_text(model, "/models/m/1/m.xml") == ""
    (record,) = caplog.records
    assert "/models/m/1/m.xml" in record.getMessage()
    assert str(MOST_BYTES) in record.getMessage()
