# SPDX-License-Identifier: Apache-2.0
"""Models in formats of others: what the repository gives to OpenVINO, OpenVINO reads and computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ovms_mp.storage.local import list_versions
from tests.support.models import infer_directly

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("name", "model_file", "input_name", "output_name"),
    [
        ("saved_model", ".", "x", "y"),
        ("frozen_pb", "model.pb", "x:0", "y:0"),
        ("tflite", "model.tflite", "serving_default_x:0", "StatefulPartitionedCall:0"),
        ("paddle", "model.pdmodel", "x", "y"),
    ],
)
def test_each_format_computes_what_it_should(
    formats: Path, tmp_path: Path, name: str, model_file: str, input_name: str, output_name: str
) -> None:
    listing = list_versions(formats / name)
    assert listing.model_files == {1: formats / name / "1" / model_file}
    assert listing.problems == {}
    x = np.arange(10, dtype=np.float32).reshape(1, 10)
    answered = infer_directly(listing.model_files[1], {input_name: x}, tmp_path)

    assert list(answered) == [output_name]
    np.testing.assert_array_equal(answered[output_name], x + 1)
