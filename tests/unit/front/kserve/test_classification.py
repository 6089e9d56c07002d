# SPDX-License-Identifier: Apache-2.0
"""The classes with the greatest values, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ovms_mp.errors import MalformedPayload
from ovms_mp.front.kserve import classification
from ovms_mp.front.kserve.classification import class_count, classify, takes_long
from ovms_mp.front.kserve.infer_request import RequestedOutput
from ovms_mp.front.tensors import ResultTensor
from ovms_mp.model.dtypes import DType

if TYPE_CHECKING:
    from ovms_mp.model.dtypes import AnyArray


def result(array: AnyArray) -> ResultTensor:
    dtype = next(dtype for dtype in DType if dtype.numpy == array.dtype)
    return ResultTensor("y", dtype, array.shape, memoryview(array.tobytes()))


def classes(array: AnyArray, most: int, labels: tuple[str, ...] = ()) -> tuple[tuple[int, ...], list[str]]:
    shape, strings = classify(result(array), most, labels)
    return shape, [bytes(text).decode() for text in strings]


def test_each_row_is_a_classification() -> None:
    array = np.array([[0.5, 2, 1], [3, -1, 7]], np.float32)
    assert classes(array, 2) == ((2, 2), ["2.000000:1", "1.000000:2", "7.000000:2", "3.000000:0"])


def test_a_row_has_no_more_classes_than_elements() -> None:
    assert classes(np.array([1, 2], np.float16), 9) == ((2,), ["2.000000:1", "1.000000:0"])
    assert classes(np.zeros((0, 3), np.float32), 2) == ((0, 2), [])
    assert classes(np.array(4, np.float32), 1) == ((1,), ["4.000000:0"])


def test_labels_are_behind_the_index_as_far_as_they_go() -> None:
    assert classes(np.array([[1, 9, 5]], np.float32), 3, ("cat", "dog"))[1] == [
        "9.000000:1:dog",
        "5.000000:2",
        "1.000000:0:cat",
    ]


def test_integers_are_exact_and_signs_and_ties_are_right() -> None:
    assert classes(np.array([2**63 - 1, 2**63 - 2, -5]), 3)[1] == [f"{2**63 - 1}:0", f"{2**63 - 2}:1", "-5:2"]
    assert classes(np.array([2**64 - 1, 3], np.uint64), 1)[1] == [f"{2**64 - 1}:0"]
    assert classes(np.array([7, 7, 7], np.uint8), 2)[1] == ["7:0", "7:1"]
    assert classes(np.array([False, True]), 2)[1] == ["1:1", "0:0"]


def test_no_number_is_the_least() -> None:
    array = np.array([np.nan, -np.inf, 1, np.inf], np.float32)
    assert classes(array, 4)[1] == ["inf:3", "1.000000:2", "nan:0", "-inf:1"]


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint64, np.uint8, np.bool_])
def test_many_rows_are_each_as_if_alone(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(7).integers(0, 5, (50, 7)).astype(dtype)
    alone = [text for row in array for text in classes(row, 3)[1]]
    assert classes(array, 3) == ((50, 3), alone)
    monkeypatch.setattr(classification, "_ELEMENTS_AT_ONCE", 40)
    assert classes(array, 3) == ((50, 3), alone)


def test_many_classes_are_for_a_thread() -> None:
    asked = [RequestedOutput("y", {"classification": 1})]
    many, few = result(np.zeros((2000, 2), np.float32)), result(np.zeros(1000, np.float32))
    assert takes_long(asked, [many])
    assert not takes_long(asked, [few])
    assert not takes_long([RequestedOutput("y", {"binary_data": True}), RequestedOutput("y")], [many])


def test_too_many_classes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classification, "MOST_CLASSES", 5)
    with pytest.raises(MalformedPayload, match="3 rows of 2 classes are more than 5"):
        classify(result(np.zeros((3, 2), np.float32)), 2)


@pytest.mark.parametrize("value", [-1, True, "3", 1.5, 1_000_001])
def test_what_is_no_number_of_classes(value: Any) -> None:
    with pytest.raises(MalformedPayload, match="parameter 'classification' of output 'y' is"):
        class_count(RequestedOutput("y", {"classification": value}))


def test_how_many_classes_are_asked_for() -> None:
    assert class_count(RequestedOutput("y", {"classification": 3})) == 3
    assert class_count(RequestedOutput("y", {"binary_data": True})) == class_count(RequestedOutput("y")) == 0
