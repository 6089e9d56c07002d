# SPDX-License-Identifier: Apache-2.0
"""How much a version may bring that every snapshot carries, and texts between processes."""

from __future__ import annotations

import pytest

from ovms_mp.errors import ModelLoadFailed
from ovms_mp.model.dtypes import DType
from ovms_mp.model.tensors import TensorSpec
from ovms_mp.wire.records import LONGEST_TEXT, ErrorRecord
from ovms_mp.wire.tasks import InferTask
from ovms_mp.worker.load.spec_records import MOST_BYTES, check_size
from ovms_mp.worker.run.failures import failure


def spec(name: str, dims: int = 2) -> TensorSpec:
    return TensorSpec.of(name, DType.FP32, ((1, 1),) * dims)


def test_long_names_are_fine_within_the_limit() -> None:
    check_size((spec("x" * 10_000),), tuple(spec(f"y{index}") for index in range(1000)))


@pytest.mark.parametrize(
    "outputs",
    [
        (spec("y" * (MOST_BYTES + 1)),),
        tuple(spec(f"{index}" + "y" * 1000) for index in range(1100)),
        (spec("y", 600_000),),
    ],
    ids=["one_name", "many_names", "many_dimensions"],
)
def test_more_is_refused_with_figures(outputs: tuple[TensorSpec, ...]) -> None:
    with pytest.raises(ModelLoadFailed, match=f"bytes, at most {MOST_BYTES} are accepted") as caught:
        check_size((spec("x"),), outputs)

    assert len(caught.value.message) < 1000


def test_names_that_cannot_be_sent_are_refused() -> None:
    with pytest.raises(ModelLoadFailed, match="cannot be sent"):
        check_size((spec("a\udc80"),), ())


def test_texts_of_errors_are_bounded() -> None:
    error = ModelLoadFailed("x" * 100_000_000)
    task = InferTask(1, 1, (), 0, 0, 0)

    for text in (ErrorRecord.of(error).message, failure(task, error).error_message):
        assert len(text) <= LONGEST_TEXT
        assert text.endswith("(100000000 characters in all)")
